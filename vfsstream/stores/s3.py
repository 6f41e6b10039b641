"""S3 and its likes as a store.

Keys go out exactly as they are: ``s3://bucket`` puts them below a component ``.`` and ``s3://bucket/`` below an
empty one, because the other program that reads the replica does so.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from vfsstream.errors import AccessDenied, AlreadyExists, NotFound, StoreError
from vfsstream.stores.base import Capabilities, Fetched, ObjectInfo, Source, Store
from vfsstream.stores.byterange import range_header, skipped, taken, whole_size, without_first
from vfsstream.stores.extras import require
from vfsstream.stores.http import Answer, lowered
from vfsstream.stores.metadata import from_store, to_store
from vfsstream.stores.s3_client import shared_client
from vfsstream.stores.s3_errors import error_code, raise_for
from vfsstream.stores.s3_listing import Page, listing_query, parse_listing
from vfsstream.stores.s3_settings import S3Settings, resolve
from vfsstream.stores.upload import upload_parts

if TYPE_CHECKING:
    from vfsstream.stores.url import StoreUrl

__all__ = ["S3Store", "open_url"]

_META = "x-amz-meta-"
_TIMESTAMP_META = "litestream-timestamp"
_BATCH = 1000
_CONTENT_TYPE = "application/octet-stream"


def open_url(url: StoreUrl, options: Mapping[str, str]) -> S3Store:
    """The store that an ``s3://`` URL names. No request is made.

    Raises:
        UrlError: no bucket, or a value that is impossible or cannot be honoured.
        MissingExtra: boto3 is not installed.
    """
    require("boto3", "s3", "s3:// replicas")
    return S3Store(resolve(url, options, os.environ))


class S3Store(Store):
    """Objects of one bucket below one path."""

    kind = "s3"

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self.capabilities = Capabilities(
            can_start_after=True,
            can_put_if_absent=settings.provider.put_if_absent is not False,
            cheap_miss=True,
            max_concurrency=64,
            min_part_size=settings.part_size,
        )
        self._client = shared_client(settings)
        self._read_headers = _customer_key_headers(settings)

    def _full(self, key: str) -> str:
        return f"{self.settings.path}/{key}"

    def _fail(self, answer: Answer, action: str, key: str) -> None:
        code, message = error_code(answer.body)
        raise_for(answer.status, code, message, action=action, place=self.describe(), key=key)

    # Reading

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        headers = {**self._read_headers, "Range": range_header(offset, size)}
        answer = self._client.send("GET", self._full(key), headers)
        if answer.status in (200, 206):
            return taken(answer.status, answer.headers, answer.body, offset, size, f"{self.describe()}/{key}")
        if answer.status == 416:
            return Fetched(b"", whole_size(answer.headers))
        self._fail(answer, "read", key)
        raise AssertionError

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        chunks = self._chunks(key, offset)
        next(chunks)  # opens: a missing object shows here, not at the first chunk
        return chunks

    def _chunks(self, key: str, offset: int) -> Iterator[bytes]:
        headers = {**self._read_headers, "Range": range_header(offset, None)}
        with self._client.open(self._full(key), headers) as (response, url):
            if response.status == 416:
                yield b""
                return
            if response.status not in (200, 206):
                body = b"".join(self._client.pool.stream(response, url))
                self._fail(Answer(response.status, {}, body), "read", key)
            skip = skipped(response.status, lowered(response.headers), offset, f"{self.describe()}/{key}")
            yield b""
            yield from without_first(self._client.pool.stream(response, url), skip)

    def head(self, key: str) -> ObjectInfo:
        answer = self._client.send("HEAD", self._full(key), self._read_headers)
        if answer.status == 200:
            return ObjectInfo(
                key,
                int(answer.headers.get("content-length", 0)),
                _http_date(answer.headers.get("last-modified")),
                _metadata(answer.headers),
                answer.headers.get("etag"),
            )
        if answer.status == 404:  # no body says whether the object or the bucket is missing
            self.fetch(key, 0, 1)
            raise NotFound(key)
        self._fail(answer, "stat", key)
        raise AssertionError

    # Listing

    def _pages(self, prefix: str, start_after: str | None = None, delimiter: str | None = None) -> Iterator[Page]:
        full, token = self._full(prefix), None
        while True:
            query = listing_query(full, start_after=start_after, delimiter=delimiter, token=token)
            answer = self._client.list(query)
            if answer.status != 200:
                code, message = error_code(answer.body)
                place = f"s3://{self.settings.bucket}"
                raise_for(answer.status, code, message, action="list", place=place, key=full)
            page = parse_listing(answer.body)
            yield page
            token = page.token
            if token is None:
                return

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        after = None if start_after is None else self._full(start_after)
        root = len(self._full(""))
        for page in self._pages(prefix, after, None if prefix else "/"):
            for item in page.objects:
                key = item.key[root:]
                if "/" in key[len(prefix) :] or key == prefix or (start_after is not None and key <= start_after):
                    continue
                yield ObjectInfo(key, item.size, item.modified, {}, item.etag)

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        root = len(self._full(prefix))
        for page in self._pages(prefix, delimiter="/"):
            for found in page.prefixes:
                yield found[root:].rstrip("/")

    # Writing

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        user = to_store(metadata, _TIMESTAMP_META)
        parts = upload_parts(source, self.settings.part_size, grow=not self.settings.provider.equal_parts)
        first = next(parts)
        if first.last:
            etag = self._put_once(key, first.data, user, if_absent)
            return ObjectInfo(key, len(first.data), datetime.now(UTC), dict(metadata or {}), etag)
        from vfsstream.stores.s3_multipart import put_multipart

        try:
            size, etag = put_multipart(self._client, self.settings, self._full(key), first, parts, user, if_absent)
        except AlreadyExists as error:
            raise AlreadyExists(key) from error
        return ObjectInfo(key, size, datetime.now(UTC), dict(metadata or {}), etag)

    def _put_once(self, key: str, data: bytes, user: Mapping[str, str], if_absent: bool) -> str:
        headers = {"Content-Type": _CONTENT_TYPE, **{_META + k: v for k, v in user.items()}}
        headers.update(self._read_headers)
        if self.settings.sse_kms_key_id:
            headers["x-amz-server-side-encryption"] = "aws:kms"
            headers["x-amz-server-side-encryption-aws-kms-key-id"] = self.settings.sse_kms_key_id
        if self.settings.storage_class:
            headers["x-amz-storage-class"] = self.settings.storage_class
        if self.settings.provider.checksum:
            headers["x-amz-checksum-crc32"] = base64.b64encode(zlib.crc32(data).to_bytes(4)).decode()
        if if_absent:
            headers["If-None-Match"] = "*"
        answer = self._client.send("PUT", self._full(key), headers, data)
        if answer.status not in (200, 201, 204):
            self._fail(answer, "write", key)
        if not answer.headers.get("etag"):
            raise StoreError(f"cannot write {self.describe()}/{key}: the answer has no ETag", retryable=True)
        return answer.headers["etag"]

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        if len(wanted) == 1 or not self.settings.provider.batch_delete:
            self._delete_singly(wanted)
            return
        errors: MutableSequence[Mapping[str, str]] = []
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            try:
                errors += self._delete_batch(batch)
            except StoreError as error:
                if "NotImplemented" not in error.message and "MethodNotAllowed" not in error.message:
                    raise
                self._delete_singly(batch)
        if errors:
            self._report(errors, len(wanted))

    def _delete_batch(self, keys: Sequence[str]) -> Sequence[Mapping[str, str]]:
        objects = [{"Key": self._full(key)} for key in keys]
        from vfsstream.stores.s3_sdk import sdk_errors

        with sdk_errors("delete", self.settings.bucket, self._full(keys[0])):
            answer = self._client.sdk.delete_objects(
                Bucket=self.settings.bucket, Delete={"Objects": objects, "Quiet": True}
            )
        return [e for e in answer.get("Errors", ()) if e.get("Code") != "NoSuchKey"]

    def _delete_singly(self, keys: Sequence[str]) -> None:
        denied: AccessDenied | None = None
        for key in keys:
            answer = self._client.send("DELETE", self._full(key), {})
            if answer.status in (200, 204, 404) and error_code(answer.body)[0] != "NoSuchBucket":
                continue
            try:
                self._fail(answer, "delete", key)
            except AccessDenied as error:
                denied = error
        if denied is not None:
            raise denied

    def _report(self, errors: MutableSequence[Mapping[str, str]], wanted: int) -> None:
        first = next((e for e in errors if e.get("Code") == "AccessDenied"), errors[0])
        said = f"{first.get('Code', '')}: {first.get('Message', '')}".strip(": ")
        key = first.get("Key", "")
        raise_for(
            403 if first.get("Code") == "AccessDenied" else 500,
            first.get("Code", ""),
            f"{said} ({len(errors)} of {wanted} objects)",
            action="delete",
            place=f"s3://{self.settings.bucket}",
            key=key,
        )

    def describe(self) -> str:
        if self.settings.path == ".":
            return f"s3://{self.settings.bucket}"
        return f"s3://{self.settings.bucket}/{self.settings.path}"

    def close(self) -> None:
        """Nothing to do: connections are shared, and closed when the last store of these settings is gone."""


def _metadata(headers: Mapping[str, str]) -> dict[str, str]:
    return from_store({k[len(_META) :]: v for k, v in headers.items() if k.startswith(_META)}, _TIMESTAMP_META)


def _http_date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC) if text else None
    except ValueError:
        return None


def _customer_key_headers(settings: S3Settings) -> dict[str, str]:
    key = settings.sse_customer_key
    if key is None:
        return {}
    prefix = "x-amz-server-side-encryption-customer-"
    digest = hashlib.md5(key, usedforsecurity=False).digest()
    return {
        f"{prefix}algorithm": "AES256",
        f"{prefix}key": base64.b64encode(key).decode(),
        f"{prefix}key-MD5": base64.b64encode(digest).decode(),
    }
