"""What the answers of S3 and its likes mean: one table from status and code to our exceptions."""

from __future__ import annotations

import re
from html import unescape
from typing import NoReturn

from vfsstream.errors import AccessDenied, AlreadyExists, NotFound, StoreError
from vfsstream.stores.http import is_retryable_status

__all__ = ["RETRYABLE_CODES", "error_code", "raise_for"]

RETRYABLE_CODES = frozenset(
    {
        "BadDigest",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "PriorRequestNotComplete",
        "RequestCanceled",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
        "TransactionInProgressException",
        "XMinioServerNotInitialized",
    }
)
"""Codes after which the same request may succeed, whatever the status."""

_ACCESS_HINTS = {
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID or access-key-id",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY or secret-access-key, and the region",
    "ExpiredToken": "the session token has expired: get fresh credentials",
    "TokenRefreshRequired": "the session token has expired: get fresh credentials",
    "InvalidToken": "check AWS_SESSION_TOKEN: it belongs to other keys, or is malformed",
    "RequestTimeTooSkewed": "set this machine's clock",
    "AccessDenied": "allow ListBucket, GetObject, PutObject and DeleteObject for these credentials",
    "AllAccessDisabled": "the account or bucket is disabled",
    "AccountProblem": "the account is disabled",
    "KMS.DisabledException": "enable the KMS key",
}
_BAD_REQUEST_ACCESS = frozenset({"ExpiredToken", "TokenRefreshRequired", "InvalidToken"})


def error_code(body: bytes) -> tuple[str, str]:
    """The code and message of an XML error, empty where there is none."""
    text = body[:65536].decode("utf-8", "replace")
    code = re.search(r"<Code>([^<]*)</Code>", text)
    message = re.search(r"<Message>([^<]*)</Message>", text)
    return (unescape(code[1]) if code else "", unescape(message[1]) if message else "")


def raise_for(status: int, code: str, message: str, *, action: str, place: str, key: str) -> NoReturn:
    """Raise what an answer means.

    Args:
        action: what was tried, as ``"read"``.
        place: the bucket, as ``"s3://bucket"``.
        key: as the store's user knows it.
    """
    what = f"cannot {action} {place}/{key}".rstrip("/")
    said = f"{code}: {message}".strip(": ") if code or message else f"HTTP status {status}"
    if code == "NoSuchKey" or (status == 404 and code in ("", "404", "NotFound")):
        raise NotFound(key)
    if status == 412 or code == "PreconditionFailed":
        raise AlreadyExists(key)
    if code == "NoSuchBucket":
        raise StoreError(f"{what}: the bucket does not exist", hint="create it, or check its name and the region")
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        raise StoreError(f"{what}: {said}", hint="the bucket is in another region: set region")
    if code in RETRYABLE_CODES or is_retryable_status(status):
        raise StoreError(f"{what}: {said}", retryable=True)
    if status in (401, 403) or code in _BAD_REQUEST_ACCESS:
        hint = _ACCESS_HINTS.get(code, "check credentials and permissions")
        raise AccessDenied(f"{what}: {said}", hint=hint)
    if code in ("InvalidRequest", "InvalidArgument") and "ustomer" in message:
        raise AccessDenied(f"{what}: {said}", hint="the object is encrypted with another key, or with none")
    raise StoreError(
        f"{what}: {said}", hint="check endpoint and bucket" if status in (301, 307, 308, 400) else None
    )
