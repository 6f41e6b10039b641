"""Google Cloud Storage as a store: the SDK for credentials, uploads and listings; reads over our pooled HTTP."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from vfsstream.errors import AccessDenied, AlreadyExists, NotFound, StoreError, UrlError
from vfsstream.stores.base import Capabilities, Fetched, ObjectInfo, Source, Store
from vfsstream.stores.byterange import range_header, skipped, taken, whole_size, without_first
from vfsstream.stores.deadline import time_left
from vfsstream.stores.extras import require
from vfsstream.stores.http import HttpPool, is_retryable_status, lowered
from vfsstream.stores.metadata import from_store, to_store
from vfsstream.stores.once import Once
from vfsstream.stores.upload import Part, upload_parts
from vfsstream.stores.url import key_prefix

if TYPE_CHECKING:
    from vfsstream.stores.url import StoreUrl

__all__ = ["GcsStore", "open_url"]

_TIMESTAMP_META = "litestream-timestamp"
_CONTENT_TYPE = "application/octet-stream"
_SINGLE = 8 << 20
_CHUNK = 16 << 20
_TIMEOUT = 60.0
_POOL = 64
_FIELDS = "items(name,size,updated,metadata,etag),nextPageToken"


def open_url(url: StoreUrl, options: Mapping[str, str]) -> GcsStore:
    """The store that a ``gs://`` URL names. No request is made.

    Raises:
        UrlError: no bucket.
        MissingExtra: google-cloud-storage is not installed.
    """
    require("google.cloud.storage", "gcs", "gs:// replicas")
    bucket = url.host if url.text else options.get("bucket", "")
    if not bucket:
        raise UrlError("no bucket for a gs replica", hint="gs://BUCKET/PATH")
    return GcsStore(bucket, key_prefix(url, options), os.environ.get("STORAGE_EMULATOR_HOST") or None)


class GcsStore(Store):
    """Objects of one bucket below one prefix.

    Args:
        prefix: goes before every key; empty, or ends with a slash.
        emulator: address of an emulator to talk to, without credentials.
    """

    kind = "gs"
    capabilities = Capabilities(
        can_start_after=True,
        can_put_if_absent=True,
        cheap_miss=True,
        listing_has_timestamp=True,
        max_concurrency=_POOL,
        min_part_size=256 << 10,
    )

    def __init__(self, bucket: str, prefix: str, emulator: str | None = None) -> None:
        self.bucket, self.prefix, self.emulator = bucket, prefix, emulator
        self._pool = HttpPool(size=_POOL)
        self._connection = Once(self._connect, "the connection to Google Cloud Storage")
        self._bucket_seen = False

    def _connect(self) -> Any:
        """The SDK's client with room for many connections, and the means to sign our own requests."""
        import requests.adapters
        from google.api_core.client_options import ClientOptions
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        if self.emulator:
            host = self.emulator if "://" in self.emulator else f"http://{self.emulator}"
            options = ClientOptions(api_endpoint=host)
            anonymous: Any = AnonymousCredentials  # it has no types
            anonymous = anonymous()
            client = storage.Client(project="-", credentials=anonymous, client_options=options)
        else:
            with self._errors("connect to", ""):
                client = storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT") or "-")
        adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=_POOL)
        client._http.mount("https://", adapter)
        client._http.mount("http://", adapter)
        return client

    def _blob(self, key: str) -> Any:
        return self._connection.get().bucket(self.bucket).blob(self.prefix + key)

    # Reading

    def _media(self, key: str, byte_range: str) -> tuple[str, dict[str, str]]:
        client = self._connection.get()
        name = quote(self.prefix + key, safe="")
        url = f"{client.api_endpoint}/download/storage/v1/b/{quote(self.bucket)}/o/{name}?alt=media"
        headers = {"Range": byte_range, "Accept-Encoding": "identity"}
        if not self.emulator:
            with self._errors("read", key):
                from google.auth.transport.requests import Request

                client._credentials.before_request(Request(), "GET", url, headers)
        return url, headers

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        url, headers = self._media(key, range_header(offset, size))
        answer = self._pool.send("GET", url, headers=headers)
        if answer.status in (200, 206):
            return taken(answer.status, answer.headers, answer.body, offset, size, f"{self.describe()}/{key}")
        if answer.status == 416:
            return Fetched(b"", whole_size(answer.headers))
        self._fail(answer.status, answer.body.decode("utf-8", "replace"), "read", key)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        chunks = self._chunks(key, offset)
        next(chunks)
        return chunks

    def _chunks(self, key: str, offset: int) -> Iterator[bytes]:
        url, headers = self._media(key, range_header(offset, None))
        with self._pool.open("GET", url, headers=headers) as response:
            if response.status == 416:
                yield b""
                return
            if response.status not in (200, 206):
                body = b"".join(self._pool.stream(response, url)).decode("utf-8", "replace")
                self._fail(response.status, body, "read", key)
            skip = skipped(response.status, lowered(response.headers), offset, f"{self.describe()}/{key}")
            yield b""
            yield from without_first(self._pool.stream(response, url), skip)

    def head(self, key: str) -> ObjectInfo:
        blob = self._blob(key)
        with self._errors("stat", key):
            blob.reload(timeout=time_left(_TIMEOUT), retry=None)
        return self._info(blob)

    # Listing

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        start = None if start_after is None else self.prefix + start_after
        with self._errors("list", prefix):
            listing = self._connection.get().list_blobs(
                self.bucket,
                prefix=self.prefix + prefix,
                start_offset=start,
                fields=_FIELDS,
                timeout=time_left(_TIMEOUT),
                retry=None,
            )
            pages = iter(listing.pages)
        while True:
            with self._errors("list", prefix):
                page = next(pages, None)
            if page is None:
                return
            self._bucket_seen = True
            for blob in page:
                info = self._info(blob)
                nested = "/" in info.key[len(prefix) :]
                if not nested and info.key != prefix and (start_after is None or info.key > start_after):
                    yield info

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        full = self.prefix + prefix
        with self._errors("list", prefix):
            listing = self._connection.get().list_blobs(
                self.bucket, prefix=full, delimiter="/", timeout=time_left(_TIMEOUT), retry=None
            )
            for _ in listing:
                pass
        return iter(sorted(name[len(full) :].rstrip("/") for name in listing.prefixes))

    def _info(self, blob: Any) -> ObjectInfo:
        user = from_store(blob.metadata, _TIMESTAMP_META)
        modified = blob.updated.astimezone(UTC) if blob.updated else None
        return ObjectInfo(blob.name[len(self.prefix) :], blob.size or 0, modified, user, blob.etag)

    # Writing

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        blob = self._blob(key)
        blob.metadata = to_store(metadata, _TIMESTAMP_META)
        parts = upload_parts(source, _SINGLE)
        first = next(parts)
        condition = {"if_generation_match": 0} if if_absent else {}
        settings = {"content_type": _CONTENT_TYPE, "checksum": "crc32c", **condition}
        with self._errors("write", key):
            if first.last:
                size = len(first.data)
                blob.upload_from_string(first.data, timeout=time_left(_TIMEOUT), retry=None, **settings)
            else:
                if if_absent and blob.exists(timeout=time_left(_TIMEOUT), retry=None):
                    raise AlreadyExists(key)  # some servers forget the condition over the chunks
                size = self._put_in_chunks(blob, _Reader(chain([first], parts)), settings)
        self._bucket_seen = True
        return ObjectInfo(key, size, datetime.now(UTC), dict(metadata or {}), blob.etag)

    def _put_in_chunks(self, blob: Any, reader: _Reader, settings: Mapping[str, Any]) -> int:
        """Parts of a stream cannot be asked for again, so here the SDK tries each chunk again; gives the size.

        A try of the last chunk whose answer was lost may have made the object: then the next ones fail.
        """
        from google.api_core.exceptions import GoogleAPIError
        from google.cloud.storage.exceptions import InvalidResponse
        from google.cloud.storage.retry import DEFAULT_RETRY

        blob.chunk_size = _CHUNK
        retry = DEFAULT_RETRY.with_timeout(time_left(_TIMEOUT))
        try:
            blob.upload_from_file(reader, timeout=_TIMEOUT, retry=retry, **settings)
        except (GoogleAPIError, InvalidResponse):
            if not reader.ended:
                raise
            with contextlib.suppress(GoogleAPIError):
                blob.reload(timeout=time_left(_TIMEOUT), retry=None)
            if blob.size != reader.tell() or blob.md5_hash != reader.md5():
                raise
        return reader.tell()

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        if len(wanted) <= 1:
            for key in wanted:
                self._delete(key)
            return
        denied: AccessDenied | None = None
        with ThreadPoolExecutor(min(16, len(wanted)), thread_name_prefix="vfsstream-delete") as pool:
            for future in [pool.submit(self._delete, key) for key in wanted]:
                try:
                    future.result()
                except AccessDenied as error:
                    denied = error
        if denied is not None:
            raise denied

    def _delete(self, key: str) -> None:
        with contextlib.suppress(NotFound), self._errors("delete", key):
            self._blob(key).delete(timeout=_TIMEOUT, retry=None)

    # Errors

    @contextlib.contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        import requests
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth import exceptions as auth
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

        place = f"{self.describe()}/{key}".rstrip("/")
        try:
            yield
        except GoogleAPICallError as error:
            self._fail(int(error.code or 0), str(error.message), action, key)
        except RetryError as error:
            raise StoreError(f"cannot {action} {place}: {_cause(error)}", retryable=True) from error
        except InvalidResponse as error:
            response = error.response
            self._fail(int(response.status_code), str(response.text), action, key)
        except DataCorruption as error:
            raise StoreError(f"cannot {action} {place}: {error}", retryable=True) from error
        except auth.DefaultCredentialsError as error:
            raise AccessDenied(
                f"cannot {action} {place}: no Google credentials",
                hint="set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login",
            ) from error
        except auth.TransportError as error:
            raise StoreError(f"cannot {action} {place}: {error}", retryable=True) from error
        except auth.GoogleAuthError as error:
            raise AccessDenied(
                f"cannot {action} {place}: {error}", hint="the credentials have expired or are malformed"
            ) from error
        except (requests.RequestException, ConnectionError, TimeoutError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot {action} {place}: {_cause(error)}", retryable=True) from error

    def _fail(self, status: int, text: str, action: str, key: str) -> NoReturn:
        what = f"cannot {action} {self.describe()}/{key}".rstrip("/")
        said = re.search(r'"message":\s*"([^"]*)"', text)
        reason = said[1] if said else re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)).strip()[:300]
        if status == 412:
            raise AlreadyExists(key)
        if status == 404:
            if action in ("read", "stat", "delete") and not self._bucket_missing(reason):
                raise NotFound(key)
            raise StoreError(f"{what}: the bucket does not exist", hint="create it, or check its name")
        if is_retryable_status(status):
            raise StoreError(f"{what}: HTTP status {status}: {reason}", retryable=True)
        if status in (401, 403):
            raise AccessDenied(
                f"{what}: {reason or f'HTTP status {status}'}",
                hint="grant storage.objects.list, get, create and delete (role Storage Object User)",
            )
        raise StoreError(f"{what}: HTTP status {status}: {reason}")

    def _bucket_missing(self, reason: str) -> bool:
        """Whether a 404 speaks of the bucket; asked for once when the answer does not say it."""
        if "bucket does not exist" in reason:
            return True
        if not self._bucket_seen:
            next(self.list("\uffff/"), None)  # raises when there is none
            self._bucket_seen = True
        return False

    def describe(self) -> str:
        return f"gs://{self.bucket}/{self.prefix}".rstrip("/")

    def close(self) -> None:
        self._pool.close()
        client = self._connection.made
        if client is not None:
            client.close()


class _Reader(io.RawIOBase):
    """The parts of an upload as a file that can be read once."""

    def __init__(self, parts: Iterator[Part]) -> None:
        super().__init__()
        self._parts, self._held, self._position = parts, b"", 0
        self._digest = hashlib.md5(usedforsecurity=False)
        self.ended = False

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        taken: list[bytes] = []
        left = 1 << 62 if size is None or size < 0 else size
        while left:
            if not self._held:
                part = next(self._parts, None)
                if part is None:
                    self.ended = True
                    break
                self.ended = part.last
                self._held = part.data
                continue
            piece, self._held = self._held[:left], self._held[left:]
            taken.append(piece)
            left -= len(piece)
        data = b"".join(taken)
        self._position += len(data)
        self._digest.update(data)
        return data

    def md5(self) -> str:
        """Of all that was read, as the service states it."""
        return base64.b64encode(self._digest.digest()).decode()


def _cause(error: BaseException) -> str:
    text = str(error)
    for sign in ("Connection refused", "Connection reset", "timed out", "Name or service not known"):
        if sign in text:
            return sign.lower()
    return text or type(error).__name__
