"""Signed requests to Alibaba Cloud OSS: the vendor's signer, our own pooled connections.

The vendor's transport would clean a path on its way (``./0000/…`` is a key that replicas have) and costs several
times the CPU of a page read, so it is used for nothing but signatures.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlsplit

from vfsstream.errors import AccessDenied, AlreadyExists, NotFound, StoreError
from vfsstream.stores.http import Answer, HttpPool, is_retryable_status

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = ["OssClient", "OssSettings", "xml_root"]

_DENIED = {
    "InvalidAccessKeyId": "check access-key-id",
    "SignatureDoesNotMatch": "check secret-access-key",
    "SecurityTokenExpired": "the session token has expired: get new credentials",
    "InvalidSecurityToken": "check OSS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "set the clock of this machine",
    "AccessDenied": "the key's policy must allow this on the bucket",
    "UserDisable": "the account is disabled",
}
_PASSING = frozenset(
    {"RequestTimeout", "InternalError", "ServiceUnavailable", "QpsLimitExceeded", "TooManyRequests"}
)


@dataclass(frozen=True, slots=True)
class OssSettings:
    """Where and as whom.

    Attributes:
        path: joined with a slash to every key, as it is.
        endpoint: ``http[s]://host[:port]``.
        access_key_id: with the secret; without them the environment is asked at every request.
    """

    bucket: str
    path: str
    endpoint: str
    region: str
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    signature_version: str = "v4"
    part_size: int = 6 << 20
    concurrency: int = 3


class OssClient:
    """Requests on one bucket. Thread-safe."""

    def __init__(self, settings: OssSettings) -> None:
        self.settings = settings
        self.pool = HttpPool()
        parts = urlsplit(settings.endpoint)
        self._base = f"{parts.scheme}://{parts.netloc}"
        self._path_style = _is_address(parts.hostname or "")
        if not self._path_style:
            self._base = f"{parts.scheme}://{settings.bucket}.{parts.netloc}"
        self._signer: Any = None

    def send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """A signed request for a whole key (empty: the bucket) and its answer, whatever its status."""
        url = self._url(key, query or {})
        return self.pool.send(method, url, headers=self._signed(method, url, key, headers, body), body=body)

    @contextlib.contextmanager
    def open(self, key: str, headers: Mapping[str, str]) -> Iterator[tuple[BaseHTTPResponse, str]]:
        """A signed GET, its body unread."""
        url = self._url(key, {})
        with self.pool.open("GET", url, headers=self._signed("GET", url, key, headers, None)) as response:
            yield response, url

    def _url(self, key: str, query: Mapping[str, str]) -> str:
        path = f"/{self.settings.bucket}/" if self._path_style else "/"
        pairs = (f"{quote(k, safe='')}={quote(v, safe='')}" if v else quote(k, safe="") for k, v in query.items())
        asked = "&".join(pairs)
        return f"{self._base}{path}{quote(key, safe='/')}" + (f"?{asked}" if asked else "")

    def _signed(
        self, method: str, url: str, key: str, headers: Mapping[str, str] | None, body: bytes | None
    ) -> dict[str, str]:
        from alibabacloud_oss_v2.types import HttpRequest, SigningContext

        signer = self._signer or self._make_signer()
        request = HttpRequest(method, url, headers={"User-Agent": "vfsstream", **(headers or {})})
        if body is not None:
            request.headers["Content-Length"] = str(len(body))
        credentials = self._credentials()
        if credentials.security_token:
            request.headers["x-oss-security-token"] = credentials.security_token
        context = SigningContext(
            product="oss",
            region=self.settings.region,
            bucket=self.settings.bucket,
            key=key or None,
            request=request,
            credentials=credentials,
        )
        signer.sign(context)
        return dict(request.headers)

    def _make_signer(self) -> Any:
        from alibabacloud_oss_v2.signer.v1 import SignerV1
        from alibabacloud_oss_v2.signer.v4 import SignerV4

        self._signer = SignerV1() if self.settings.signature_version == "v1" else SignerV4()
        return self._signer

    def _credentials(self) -> Any:
        """The configured pair, or what the environment holds now: programs that renew tokens change it."""
        from alibabacloud_oss_v2.credentials import (
            EnvironmentVariableCredentialsProvider,
            StaticCredentialsProvider,
        )
        from alibabacloud_oss_v2.exceptions import CredentialsEmptyError

        settings = self.settings
        if settings.access_key_id and settings.secret_access_key:
            pair = (settings.access_key_id, settings.secret_access_key, settings.session_token)
            return StaticCredentialsProvider(*pair).get_credentials()
        try:
            return EnvironmentVariableCredentialsProvider().get_credentials()
        except CredentialsEmptyError as error:
            raise AccessDenied(
                f"no credentials for oss://{settings.bucket}",
                hint="set access-key-id and secret-access-key, or OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET",
            ) from error

    def fail(self, answer: Answer, action: str, key: str) -> NoReturn:
        """Raise what an answer with an error means; ``key`` as the caller of the store knows it."""
        code, message = _error(answer)
        where = f"oss://{self.settings.bucket}: cannot {action} {key or 'the bucket'}"
        said = f"{code}: {message}" if code else f"HTTP {answer.status}"
        if code == "NoSuchKey" or (answer.status == 404 and not code):
            raise NotFound(key)
        if code == "NoSuchBucket":
            hint = f"create the bucket {self.settings.bucket!r}, or check its name and the region"
            raise StoreError(f"{where}: there is no bucket {self.settings.bucket!r}", hint=hint)
        if code == "FileAlreadyExists":
            raise AlreadyExists(key)
        if code in _DENIED or answer.status in (401, 403):
            hint = _DENIED.get(code, "check the credentials and their policy")
            if "endpoint" in message:
                hint = "the bucket is in another region: set region or endpoint"
            raise AccessDenied(f"{where}: {said}", hint=hint)
        retryable = is_retryable_status(answer.status) or code in _PASSING
        raise StoreError(f"{where}: {said}", retryable=retryable)


def xml_root(body: bytes) -> ET.Element:
    """The document of an answer.

    Raises:
        StoreError: it is not well-formed, or declares a document type.
    """
    if b"<!DOCTYPE" in body[:1024]:
        raise StoreError("the OSS server sent a document type declaration, which no answer has")
    try:
        return ET.fromstring(body)
    except ET.ParseError as error:
        raise StoreError(f"the OSS server's answer is not well-formed: {error}", retryable=True) from error


def _error(answer: Answer) -> tuple[str, str]:
    body = answer.body
    if not body and answer.headers.get("x-oss-err"):
        with contextlib.suppress(ValueError):
            body = base64.b64decode(answer.headers["x-oss-err"])
    if not body.lstrip().startswith(b"<"):
        return "", ""
    try:
        root = xml_root(body)
    except StoreError:
        return "", ""
    return root.findtext("Code") or "", root.findtext("Message") or ""


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False
