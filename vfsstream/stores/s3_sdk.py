"""The SDK where its knowledge is needed: credentials, endpoint rules, and operations that are rare.

Its bytes go through our pool, so that every wait keeps the deadline of its operation.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from vfsstream.errors import AccessDenied, StoreError
from vfsstream.stores.http import Answer
from vfsstream.stores.s3_place import Place
from vfsstream.stores.s3_settings import S3Settings
from vfsstream.stores.s3_sign import Keys

__all__ = ["Exchange", "chain_keys", "make_sdk", "sdk_errors", "sdk_place"]

Exchange = Callable[[str, str, Mapping[str, str], bytes | None], Answer]
"""Sends method, URL, headers and body."""


def _session(settings: S3Settings) -> Any:
    from botocore.session import get_session

    session = get_session()
    if settings.access_key:
        session.set_credentials(settings.access_key, settings.secret_key, settings.session_token)
    return session


def chain_keys(settings: S3Settings) -> Callable[[], Keys]:
    """What gives the credentials of the SDK's chain, renewed when they are about to expire.

    Raises:
        AccessDenied: there are none.
    """
    with sdk_errors("connect to", settings.bucket, ""):
        credentials = _session(settings).get_credentials()
    if credentials is None:
        raise AccessDenied(
            f"no credentials for s3://{settings.bucket}",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )

    def keys() -> Keys:
        with sdk_errors("sign a request for", settings.bucket, ""):
            return Keys(*credentials.get_frozen_credentials()[:3])

    return keys


def make_sdk(settings: S3Settings, region: str, exchange: Exchange) -> Any:
    """The SDK's client, its requests carried by ``exchange``."""
    from botocore.config import Config

    when = "when_supported" if settings.provider.checksum and settings.endpoint is None else "when_required"
    style = {None: "auto", True: "path", False: "virtual"}[settings.path_style]
    with sdk_errors("connect to", settings.bucket, ""):
        sdk = _session(settings).create_client(
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
    events.register("before-send.s3", _carrier(exchange))
    if settings.provider.headers:
        events.register("before-sign.s3", _header_adder(settings.provider.headers))
    if settings.content_md5:
        events.register("before-sign.s3.DeleteObjects", _add_md5)
    return sdk


def _carrier(exchange: Exchange) -> Callable[..., Any]:
    def send(request: Any, **_: object) -> Any:
        from botocore.awsrequest import AWSResponse

        headers = {name: value for name, value in request.headers.items() if name.lower() != "expect"}
        headers = {k: v.decode("latin-1") if isinstance(v, bytes) else str(v) for k, v in headers.items()}
        body = request.body
        if body is not None and not isinstance(body, (bytes, str)):
            body = body.read()
        if isinstance(body, str):
            body = body.encode()
        answer = exchange(request.method, request.url, headers, body or None)
        return AWSResponse(request.url, answer.status, answer.headers, _Raw(answer.body))

    return send


def _header_adder(headers: tuple[tuple[str, str], ...]) -> Callable[..., None]:
    def add(request: Any, **_: object) -> None:
        for name, value in headers:
            request.headers[name] = value

    return add


class _Raw:
    """A read body in the form in which the SDK wants it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: object) -> Iterator[bytes]:
        yield self._body

    def read(self, *_: object) -> bytes:
        body, self._body = self._body, b""
        return body


def _add_md5(request: Any, **_: object) -> None:
    body = request.body if isinstance(request.body, bytes) else str(request.body).encode()
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


class _Caught(Exception):
    """A request that was ready to go."""

    def __init__(self, url: str, said: str) -> None:
        super().__init__(url)
        self.url, self.said = url, said


def sdk_place(settings: S3Settings, sdk: Any) -> Place:
    """Where a bucket answers by the SDK's own rules: it prepares a request, which is caught before it is sent."""
    probe = f"vfsstream-{secrets.token_hex(8)}"

    def catch(request: Any, **_: object) -> None:
        if urlsplit(request.url).path.endswith(probe):  # or else it is another thread's
            said = request.headers["Authorization"]
            raise _Caught(request.url, said.decode("latin-1") if isinstance(said, bytes) else str(said))

    event = "before-send.s3.HeadObject"
    sdk.meta.events.register_first(event, catch)
    try:
        with sdk_errors("connect to", settings.bucket, ""):
            sdk.head_object(Bucket=settings.bucket, Key=probe)
    except _Caught as caught:
        scope = caught.said.partition("Credential=")[2].partition(",")[0].split("/")
        return Place(caught.url.partition("?")[0].removesuffix(probe), scope[-3])
    finally:
        sdk.meta.events.unregister(event, catch)
    raise StoreError(f"cannot tell where s3://{settings.bucket} answers")


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
