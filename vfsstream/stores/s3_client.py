"""The connection to one S3 service: signed requests over our pooled HTTP.

Small frequent requests (reads, single puts, stats, listings) are signed here and sent at once. The SDK is loaded for
what only it knows: credentials that neither the settings nor the environment hold, endpoint rules that are not plain,
and rare operations.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from vfsstream.errors import StoreError
from vfsstream.stores.http import PROXY_VARIABLES, Answer, HttpPool
from vfsstream.stores.once import Once
from vfsstream.stores.s3_debug import parse_debug, wire_log
from vfsstream.stores.s3_place import Place, plain_keys, plain_place
from vfsstream.stores.s3_settings import S3Settings
from vfsstream.stores.s3_sign import Keys, sign

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = ["S3Client", "shared_client"]

_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_HOME = "us-east-1"
"""Where Amazon answers for the buckets of every region."""

_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_PROFILE",
    "AWS_CA_BUNDLE",
    "AWS_ENDPOINT_URL_S3",
    "LITESTREAM_S3_DEBUG",
    *PROXY_VARIABLES,
)

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
        # These are read when the client is first used; two stores opened under different ones are not the same.
        *(os.environ.get(name) for name in _ENVIRONMENT),
    )
    with _shared_lock:
        client = _shared.get(key)
        if client is None:
            client = _shared[key] = S3Client(settings)
        return client


class S3Client:
    """Signs and sends. Made without any request; the SDK is imported only when it is needed.

    Attributes:
        settings: of the first store that uses it; path, encryption and part size are the stores' own.
        pool: the connections.
    """

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self.pool = HttpPool(verify=settings.verify, ca_bundle=os.environ.get("AWS_CA_BUNDLE") or None)
        self._tell = wire_log(parse_debug(os.environ.get("LITESTREAM_S3_DEBUG", "")))
        what = "the connection to S3"
        self._keys = Once(self._find_keys, what)
        self._region = Once(self._find_region, what)
        self._place = Once(self._find_place, what)
        self._sdk = Once(lambda: self._make_sdk(self._region.get()), what)

    @property
    def sdk(self) -> Any:
        """The SDK's client. Its errors become ours inside :func:`~vfsstream.stores.s3_sdk.sdk_errors`."""
        return self._sdk.get()

    def send(self, method: str, key: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Send one signed request for an object and read the answer, whatever its status."""
        place = self._place.get()
        url = self._object_url(place, key)
        return self._exchange(method, url, self._signed(method, url, place.region, headers, body), body)

    def list(self, query: str) -> Answer:
        """One page of a listing of the bucket, whatever its status.

        Args:
            query: percent-encoded.
        """
        place = self._place.get()
        url = f"{_bucket_url(place.base)}?{query}"
        return self._exchange("GET", url, self._signed("GET", url, place.region), None)

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
        place = self._place.get()
        url = self._object_url(place, key)
        signed = self._signed("GET", url, place.region, headers)
        with self.pool.open("GET", url, headers=signed) as response:
            if self._tell is not None:
                self._tell("GET", url, signed, None, response.status, dict(response.headers), b"", "")
            yield response, url

    def _object_url(self, place: Place, key: str) -> str:
        return place.base + quote(key, safe="/~")

    def _signed(
        self,
        method: str,
        url: str,
        region: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Mapping[str, str]:
        payload = _EMPTY_SHA256
        if body:
            payload = hashlib.sha256(body).hexdigest() if self.settings.sign_payload else "UNSIGNED-PAYLOAD"
        wanted = {**(headers or {}), **dict(self.settings.provider.headers)}
        return sign(method, url, wanted, payload, self._keys.get()(), region)

    # What the first request settles: who asks, and where

    def _find_keys(self) -> Callable[[], Keys]:
        plain = plain_keys(self.settings, os.environ)
        if plain is not None:
            return lambda: plain
        from vfsstream.stores.s3_sdk import chain_keys

        return chain_keys(self.settings)

    def _find_region(self) -> str:
        """Where a bucket of Amazon's lies: any answer to a HEAD says it, a refusal too."""
        if self.settings.region:
            return self.settings.region
        place = plain_place(self.settings, os.environ, None)
        if place is None:
            return self._region_by_sdk()
        url = _bucket_url(place.base)
        answer = self._exchange("HEAD", url, self._signed("HEAD", url, place.region), None)
        return answer.headers.get("x-amz-bucket-region") or _HOME

    def _region_by_sdk(self) -> str:
        from botocore.exceptions import ClientError

        from vfsstream.stores.s3_sdk import sdk_errors

        with sdk_errors("connect to", self.settings.bucket, ""):
            try:
                answer = self._make_sdk(_HOME).head_bucket(Bucket=self.settings.bucket)
            except ClientError as error:
                answer = error.response
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(headers.get("x-amz-bucket-region") or _HOME)

    def _find_place(self) -> Place:
        self._keys.get()  # without credentials there is no more to say
        region = self._region.get()
        place = plain_place(self.settings, os.environ, region)
        if place is None:
            from vfsstream.stores.s3_sdk import sdk_place

            place = sdk_place(self.settings, self.sdk)
        return place

    def _make_sdk(self, region: str) -> Any:
        from vfsstream.stores.s3_sdk import make_sdk

        return make_sdk(self.settings, region, self._exchange)


def _bucket_url(base: str) -> str:
    """Without the slash at its end where the path names the bucket."""
    return base if urlsplit(base).path == "/" else base.rstrip("/")
