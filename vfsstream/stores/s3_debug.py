"""``LITESTREAM_S3_DEBUG``: what goes to an S3 service and what comes back, in the log, without secrets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from vfsstream.errors import UrlError

__all__ = ["Exchange", "parse_debug", "wire_log"]

Exchange = Callable[[str, str, Mapping[str, str], bytes | None, int | None, Mapping[str, str], bytes, str], None]
"""Method, URL, headers and body of a request; status (``None``: no answer), headers and body of its answer; why none
came."""

log = logging.getLogger("vfsstream.s3")

_WORDS = frozenset({"signing", "request", "request-with-body", "response", "response-with-body", "retries", "all"})
_SECRET = ("authorization", "x-amz-security-token", "x-amz-server-side-encryption-customer-key", "set-cookie")
_SHOWN = 512


def parse_debug(text: str) -> frozenset[str]:
    """The words of the variable.

    Raises:
        UrlError: an unknown word.
    """
    words = frozenset(word.strip().lower() for word in text.split(",") if word.strip())
    if unknown := sorted(words - _WORDS):
        known = " ".join(sorted(_WORDS))
        raise UrlError(f"LITESTREAM_S3_DEBUG: unknown word {unknown[0]!r}", hint=f"a comma list of: {known}")
    return _WORDS - {"all"} if "all" in words else words


def wire_log(words: frozenset[str]) -> Exchange | None:
    """What writes the log; ``None`` when nothing is wanted."""
    if not words:
        return None

    def tell(
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        status: int | None,
        answer_headers: Mapping[str, str],
        answer: bytes,
        failure: str,
    ) -> None:
        if words & {"request", "request-with-body"}:
            log.info("s3 request: %s %s %s", method, url, _headers(headers))
        if "request-with-body" in words:
            log.info("s3 request body: %s", _body(body or b""))
        if "signing" in words:
            log.info("s3 signing: %s", _signing(headers))
        if status is not None and words & {"response", "response-with-body"}:
            log.info("s3 response: %s %s: %d %s", method, url, status, _headers(answer_headers))
        if status is not None and "response-with-body" in words:
            log.info("s3 response body: %s", _body(answer))
        if "retries" in words and (status is None or status >= 500 or status in (408, 429)):
            log.info("s3 try failed: %s %s: %s", method, url, failure or f"status {status}")

    return tell


def _headers(headers: Mapping[str, str]) -> str:
    shown = ((name, "(hidden)" if name.lower().startswith(_SECRET) else value) for name, value in headers.items())
    return " ".join(f"{name}={value!r}" for name, value in shown)


def _signing(headers: Mapping[str, str]) -> str:
    text = next((value for name, value in headers.items() if name.lower() == "authorization"), "")
    return text.partition(", Signature=")[0] or "unsigned"


def _body(body: bytes) -> str:
    more = f"… ({len(body)} bytes)" if len(body) > _SHOWN else ""
    return f"{body[:_SHOWN]!r}{more}"
