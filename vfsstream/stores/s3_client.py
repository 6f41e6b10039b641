"""The connection to one S3 service: the SDK's credentials, endpoint rules and signatures over our pooled HTTP.

Small frequent requests (reads, single puts, stats, listings) are signed with botocore's signer and sent at once,
which costs a fifth of the SDK's own path. Everything else is the SDK's, its bytes sent through the same pool, so that
every wait keeps the deadline of its operation.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

from vfsstream.errors import AccessDenied, StoreError
from vfsstream.stores.http import Answer, HttpPool
from vfsstream.stores.once import Once
from vfsstream.stores.s3_debug import parse_debug, wire_log
from vfsstream.stores.s3_settings import S3Settings

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = ["S3Client", "shared_client"]

_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_PROBE_KEY = "vfsstream"

_Exchange = Callable[[str, str, Mapping[str, str], bytes | None], Answer]

_shared: weakref.WeakValueDictionary[tuple[object, ...], S3Client] = weakref.WeakValueDictionary()
_shared_lock = threading.Lock()


def shared_client(settings: S3Settings) -> S3Client:
    """The client for these settings; stores that differ only in path share one and its connections."""
    key = (
        os.getpid(),
        settings.bucket,
        settings.endpoint,
        settings.region,
        settings.path_style,
        settings.verify,
        settings.access_key,
        settings.secret_key,
        settings.session_token,
        settings.sign_payload,
        settings.content_md5,
        settings.provider,
        # The SDK reads these when the client is made; two stores opened under different ones are not the same.
        *(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")),
        *(
            os.environ.get(name)
            for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL_S3", "LITESTREAM_S3_DEBUG")
        ),
    )
    with _shared_lock:
        client = _shared.get(key)
        if client is None:
            client = _shared[key] = S3Client(settings)
        return client


class S3Client:
    """Signs and sends. Made without any request; the SDK is imported and asked at the first use.

    Attributes:
        settings: of the first store that uses it; path, encryption and part size are the stores' own.
        pool: the connections.
    """

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self.pool = HttpPool(verify=settings.verify, ca_bundle=os.environ.get("AWS_CA_BUNDLE") or None)
        self._tell = wire_log(parse_debug(os.environ.get("LITESTREAM_S3_DEBUG", "")))
        self._once = Once(lambda: _Signer(settings, self._exchange), "the connection to S3")

    @property
    def sdk(self) -> Any:
        """The boto3 client. Its errors become ours inside :func:`sdk_errors`."""
        return self._once.get().sdk

    def send(self, method: str, key: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Send one signed request for an object and read the answer, whatever its status."""
        signer = self._once.get()
        url, signed = signer.sign(method, signer.object_url(key), key, headers, body)
        return self._exchange(method, url, signed, body)

    def list(self, query: str, prefix: str) -> Answer:
        """One page of a listing of the bucket, whatever its status.

        Args:
            query: percent-encoded.
            prefix: for messages.
        """
        signer = self._once.get()
        url, signed = signer.sign("GET", f"{signer.bucket_url}?{query}", prefix, {}, None)
        return self._exchange("GET", url, signed, None)

    def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        if self._tell is None:
            return self.pool.send(method, url, headers=headers, body=body)
        try:
            answer = self.pool.send(method, url, headers=headers, body=body)
        except StoreError as error:
            self._tell(method, url, headers, body, None, {}, b"", error.message)
            raise
        self._tell(method, url, headers, body, answer.status, answer.headers, answer.body, "")
        return answer

    @contextmanager
    def open(self, key: str, headers: Mapping[str, str]) -> Iterator[tuple[BaseHTTPResponse, str]]:
        """An object's answer with its body unread, and the URL for messages."""
        signer = self._once.get()
        url, signed = signer.sign("GET", signer.object_url(key), key, headers, None)
        with self.pool.open("GET", url, headers=signed) as response:
            if self._tell is not None:
                self._tell("GET", url, signed, None, response.status, dict(response.headers), b"", "")
            yield response, url


class _Signer:
    def __init__(self, settings: S3Settings, exchange: _Exchange) -> None:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        self._auth, self._request = S3SigV4Auth, AWSRequest
        self._settings, self._exchange = settings, exchange
        with sdk_errors("connect to", settings.bucket, ""):
            session = _session(settings)
            self._credentials = session.get_credentials()
            if self._credentials is None:
                raise AccessDenied(
                    f"no credentials for s3://{settings.bucket}",
                    hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
                )
            region = settings.region
            self.sdk = self._make(session, region or "us-east-1")
            if region is None:
                region = self._bucket_region()
                if region != "us-east-1":
                    self.sdk = self._make(session, region)
            self._base, self._region = self._rules(region)

    def _make(self, session: Any, region: str) -> Any:
        from botocore.config import Config

        settings = self._settings
        when = "when_supported" if settings.provider.checksum and settings.endpoint is None else "when_required"
        style = {None: "auto", True: "path", False: "virtual"}[settings.path_style]
        sdk = session.client(
            "s3",
            region_name=region,
            endpoint_url=settings.endpoint,
            verify=settings.verify,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": style, "payload_signing_enabled": settings.sign_payload},
                request_checksum_calculation=when,
                response_checksum_validation="when_required",
                retries={"total_max_attempts": 1, "mode": "standard"},
            ),
        )
        events = sdk.meta.events
        events.register("before-send.s3", self._send)
        if settings.provider.headers:
            events.register("before-sign.s3", self._add_headers)
        if settings.content_md5:
            events.register("before-sign.s3.DeleteObjects", _add_md5)
        return sdk

    def _send(self, request: Any, **_: object) -> Any:
        """Carry the SDK's request over our pool."""
        from botocore.awsrequest import AWSResponse

        headers = {name: value for name, value in request.headers.items() if name.lower() != "expect"}
        headers = {k: v.decode("latin-1") if isinstance(v, bytes) else str(v) for k, v in headers.items()}
        body = request.body
        if body is not None and not isinstance(body, (bytes, str)):
            body = body.read()
        if isinstance(body, str):
            body = body.encode()
        answer = self._exchange(request.method, request.url, headers, body or None)
        return AWSResponse(request.url, answer.status, answer.headers, _Raw(answer.body))

    def _add_headers(self, request: Any, **_: object) -> None:
        for name, value in self._settings.provider.headers:
            request.headers[name] = value

    def _bucket_region(self) -> str:
        """Where a bucket of Amazon's lies: any answer to a HEAD says it, a refusal too."""
        from botocore.exceptions import ClientError

        try:
            answer = self.sdk.head_bucket(Bucket=self._settings.bucket)
        except ClientError as error:
            answer = error.response
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(headers.get("x-amz-bucket-region") or "us-east-1")

    def _rules(self, region: str) -> tuple[str, str]:
        """The URL before the key and the region to sign for, by the SDK's own rules."""
        probe = self.sdk.generate_presigned_url(
            "get_object", Params={"Bucket": self._settings.bucket, "Key": _PROBE_KEY}
        )
        parts = urlsplit(probe)
        credential = parse_qs(parts.query).get("X-Amz-Credential", [""])[0].split("/")
        base = f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix(_PROBE_KEY)}"
        return base, credential[2] if len(credential) == 5 else region

    def object_url(self, key: str) -> str:
        return self._base + quote(key, safe="/~")

    @property
    def bucket_url(self) -> str:
        """Without the slash at its end where the path names the bucket."""
        return self._base if urlsplit(self._base).path == "/" else self._base.rstrip("/")

    def sign(
        self, method: str, url: str, key: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[str, Mapping[str, str]]:
        """The URL and the headers to send; the key is for messages."""
        with sdk_errors("sign a request for", self._settings.bucket, key):
            request = self._request(method=method, url=url, headers=dict(headers))
            for name, value in self._settings.provider.headers:
                request.headers[name] = value
            auth = self._auth(self._credentials.get_frozen_credentials(), "s3", self._region)
            digest = _EMPTY_SHA256
            if body:
                signed = self._settings.sign_payload
                digest = hashlib.sha256(body).hexdigest() if signed else "UNSIGNED-PAYLOAD"
            auth.payload = lambda _: digest
            auth.add_auth(request)
        return url, dict(request.headers.items())


class _Raw:
    """A read body in the form in which the SDK wants it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: object) -> Iterator[bytes]:
        yield self._body

    def read(self, *_: object) -> bytes:
        body, self._body = self._body, b""
        return body


def _session(settings: S3Settings) -> Any:
    import boto3

    if settings.access_key:
        return boto3.Session(
            aws_access_key_id=settings.access_key,
            aws_secret_access_key=settings.secret_key,
            aws_session_token=settings.session_token,
        )
    return boto3.Session()


def _add_md5(request: Any, **_: object) -> None:
    body = request.body if isinstance(request.body, bytes) else str(request.body).encode()
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


@contextmanager
def sdk_errors(action: str, bucket: str, key: str) -> Iterator[None]:
    """Turn what the SDK raises inside into ours."""
    from botocore import exceptions as sdk

    from vfsstream.stores.s3_errors import raise_for

    try:
        yield
    except sdk.ClientError as error:
        answer = error.response
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = answer.get("Error", {})
        raise_for(
            status,
            str(said.get("Code") or ""),
            str(said.get("Message") or ""),
            action=action,
            place=f"s3://{bucket}",
            key=key,
        )
    except (sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.CredentialRetrievalError) as error:
        raise AccessDenied(
            f"cannot {action} s3://{bucket}: {error}",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        ) from error
    except sdk.ProfileNotFound as error:
        raise AccessDenied(f"cannot {action} s3://{bucket}: {error}", hint="check AWS_PROFILE") from error
    except (sdk.HTTPClientError, sdk.ConnectionError) as error:
        raise StoreError(f"cannot {action} s3://{bucket}: {error}", retryable=True) from error
    except sdk.BotoCoreError as error:
        raise StoreError(f"cannot {action} s3://{bucket}/{key}: {error}") from error
