"""Alibaba Cloud OSS as a store. Keys go out exactly as they are, in the layout of S3."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

from vfsstream.errors import AccessDenied, StoreError, UrlError, VfsstreamError
from vfsstream.stores.base import Capabilities, Fetched, ObjectInfo, Source, Store
from vfsstream.stores.byterange import range_header, skipped, taken, without_first
from vfsstream.stores.extras import require
from vfsstream.stores.http import Answer, lowered
from vfsstream.stores.metadata import from_store, to_store
from vfsstream.stores.options import Options, parse_endpoint, parse_size
from vfsstream.stores.oss_client import OssClient, OssSettings, xml_root
from vfsstream.stores.retry import RetryPolicy, call_with_retry, finish_with_retry
from vfsstream.stores.upload import Part, send_parts, upload_parts
from vfsstream.stores.url import StoreUrl

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["OssStore", "open_url"]

log = logging.getLogger("vfsstream.stores")

_META = "x-oss-meta-"
_TIMESTAMP_META = "litestream-timestamp"
_BATCH = 1000
_MIN_PART = 100 * 1024
_POLICY = RetryPolicy()
_HOST = re.compile(r"(?P<bucket>[^.]+)\.(?P<endpoint>oss-(?P<region>[a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com)")


class OssStore(Store):
    """Objects of one bucket below one path."""

    kind = "oss"

    def __init__(self, settings: OssSettings) -> None:
        require("alibabacloud_oss_v2", "oss", "oss:// replicas")
        self.settings = settings
        self.capabilities = Capabilities(
            can_start_after=True,
            can_put_if_absent=True,
            cheap_miss=True,
            max_concurrency=32,
            min_part_size=settings.part_size,
        )
        self._client = OssClient(settings)

    def _full(self, key: str) -> str:
        return f"{self.settings.path}/{key}"

    # Reading

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        answer = self._client.send("GET", self._full(key), headers=_range(offset, size))
        if answer.status == 416:
            return Fetched(b"", self.head(key).size)
        if answer.status not in (200, 206):
            self._client.fail(answer, "read", key)
        if answer.status == 200:
            self._check_crc(answer.body, answer.headers, key, "read")
        return taken(answer.status, answer.headers, answer.body, offset, size, f"{self.describe()}/{key}")

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        chunks = self._chunks(key, offset)
        next(chunks)  # opens: a missing object shows here, not at the first chunk
        return chunks

    def _chunks(self, key: str, offset: int) -> Iterator[bytes]:
        from fastcrc import crc64

        headers = _range(offset, None) if offset else {}
        with self._client.open(self._full(key), headers) as (response, url):
            if response.status == 416:
                yield b""
                return
            if response.status not in (200, 206):
                body = b"".join(self._client.pool.stream(response, url))
                self._client.fail(Answer(response.status, {}, body), "read", key)
            yield b""
            stated = lowered(response.headers)
            skip, crc = skipped(response.status, stated, offset, f"{self.describe()}/{key}"), 0

            def summed() -> Iterator[bytes]:
                nonlocal crc
                for chunk in self._client.pool.stream(response, url):
                    crc = crc64.xz(chunk, crc)
                    yield chunk

            yield from without_first(summed(), skip)
            checksum = stated.get("x-oss-hash-crc64ecma", "")
            if response.status == 200 and checksum.isdigit() and int(checksum) != crc:
                raise StoreError(f"{self.describe()}/{key}: the bytes read do not have the checksum of the object")

    def head(self, key: str) -> ObjectInfo:
        answer = self._client.send("HEAD", self._full(key))
        if answer.status != 200:
            self._client.fail(answer, "stat", key)
        headers = answer.headers
        user = {name[len(_META) :]: value for name, value in headers.items() if name.startswith(_META)}
        metadata = from_store(user, _TIMESTAMP_META)
        modified = None
        with suppress(ValueError, TypeError):
            modified = parsedate_to_datetime(headers["last-modified"]).astimezone(UTC)
        return ObjectInfo(key, int(headers.get("content-length", 0)), modified, metadata, headers.get("etag"))

    # Listing

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        return self._list(prefix, start_after)

    def _list(self, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]:
        root = len(self._full(""))
        for page in self._pages(prefix, start_after):
            for item in page.iter("Contents"):
                key = unquote(item.findtext("Key") or "")[root:]
                if "/" in key[len(prefix) :] or key == prefix or (start_after is not None and key <= start_after):
                    continue
                size = int(item.findtext("Size") or 0)
                yield ObjectInfo(key, size, _time(item.findtext("LastModified")), {}, item.findtext("ETag"))

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        start = len(self._full(prefix))
        for page in self._pages(prefix, None):
            for item in page.iter("CommonPrefixes"):
                yield unquote(item.findtext("Prefix") or "")[start:].rstrip("/")

    def _pages(self, prefix: str, start_after: str | None) -> Iterator[Element]:
        query = {
            "list-type": "2",
            "prefix": self._full(prefix),
            "delimiter": "/",
            "encoding-type": "url",
            "max-keys": "1000",
        }
        if start_after is not None:
            query["start-after"] = self._full(start_after)
        while True:
            answer = self._client.send("GET", "", query)
            if answer.status != 200:
                self._client.fail(answer, "list", prefix)
            page = xml_root(answer.body)
            yield page
            token = page.findtext("NextContinuationToken")
            if page.findtext("IsTruncated") != "true" or not token:
                return
            query["continuation-token"] = token

    # Changing

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        names = to_store(metadata, _TIMESTAMP_META)
        headers = {"Content-Type": "application/octet-stream", **{_META + k: v for k, v in names.items()}}
        guard = {"x-oss-forbid-overwrite": "true"} if if_absent else {}
        parts = upload_parts(source, self.settings.part_size, grow=True)
        first = next(parts)
        if first.last:
            size = len(first.data)
            etag = self._send_body("PUT", key, {}, {**headers, **guard}, first.data)
        else:
            size, etag = self._multipart(key, chain([first], parts), {**headers, **guard}, guard)
        return ObjectInfo(key, size, datetime.now(UTC), dict(metadata or {}), etag)

    def _send_body(
        self, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> str:
        answer = self._client.send(method, self._full(key), query, headers, body)
        if answer.status != 200:
            self._client.fail(answer, "write", key)
        self._check_crc(body, answer.headers, key, "write")
        etag = answer.headers.get("etag", "")
        if not etag:
            raise StoreError(f"{self.describe()}: cannot write {key}: the answer has no ETag", retryable=True)
        return etag

    def _check_crc(self, body: bytes, headers: Mapping[str, str], key: str, action: str) -> None:
        from fastcrc import crc64

        stated = headers.get("x-oss-hash-crc64ecma", "")
        if stated.isdigit() and int(stated) != crc64.xz(body):
            text = f"{self.describe()}: cannot {action} {key}: the bytes changed on the way"
            raise StoreError(text, retryable=True)

    def _multipart(
        self, key: str, parts: Iterator[Part], headers: Mapping[str, str], guard: Mapping[str, str]
    ) -> tuple[int, str]:
        upload = self._begin(key, headers)
        total = _Total()

        def send(part: Part) -> str:
            query = {"partNumber": str(part.number), "uploadId": upload}
            what = f"write part {part.number} of {self.describe()}/{key}"
            return call_with_retry(lambda: self._send_body("PUT", key, query, {}, part.data), _POLICY, what)

        try:
            etags = send_parts(_summed(parts, total), send, self.settings.concurrency)
            return total.size, self._complete(key, upload, etags, guard, total)
        except BaseException:
            with suppress(VfsstreamError):  # what failed matters more
                self._client.send("DELETE", self._full(key), {"uploadId": upload})
            raise

    def _begin(self, key: str, headers: Mapping[str, str]) -> str:
        answer = self._client.send("POST", self._full(key), {"uploads": ""}, headers, b"")
        if answer.status != 200:
            self._client.fail(answer, "write", key)
        upload = xml_root(answer.body).findtext("UploadId")
        if not upload:
            raise StoreError(f"{self.describe()}: cannot write {key}: no upload was begun", retryable=True)
        return upload

    def _complete(
        self, key: str, upload: str, etags: Iterable[str], guard: Mapping[str, str], total: _Total
    ) -> str:
        """Make the object of its parts."""
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        headers = {"Content-Type": "application/xml", **guard}

        def finish() -> str:
            answer = self._client.send("POST", self._full(key), {"uploadId": upload}, headers, body)
            if answer.status != 200:
                self._client.fail(answer, "write", key)
            return answer.headers.get("etag") or xml_root(answer.body).findtext("ETag") or ""

        def made() -> str | None:
            there = self._client.send("HEAD", self._full(key))
            same = there.headers.get("content-length"), there.headers.get("x-oss-hash-crc64ecma")
            ours = there.status == 200 and same == (str(total.size), str(total.crc))
            return there.headers.get("etag", "") if ours else None

        what = f"write {self.describe()}/{key}"
        return finish_with_retry(finish, _POLICY, what, gone="NoSuchUpload", made=made)

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        for start in range(0, len(wanted), _BATCH):
            self._delete_batch(tuple(wanted[start : start + _BATCH]))

    def _delete_batch(self, keys: tuple[str, ...]) -> None:
        objects = "".join(f"<Object><Key>{escape(self._full(key))}</Key></Object>" for key in keys)
        body = f'<?xml version="1.0" encoding="UTF-8"?><Delete><Quiet>false</Quiet>{objects}</Delete>'.encode()
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        headers = {"Content-MD5": base64.b64encode(digest).decode(), "Content-Type": "application/xml"}
        answer = self._client.send("POST", "", {"delete": "", "encoding-type": "url"}, headers, body)
        if answer.status != 200:
            self._client.fail(answer, "delete", keys[0])
        gone = {unquote(item.findtext("Key") or "") for item in xml_root(answer.body).iter("Deleted")}
        left = [key for key in keys if self._full(key) not in gone]
        if left:
            text = f"{self.describe()}: {len(left)} of {len(keys)} objects were not deleted, {left[0]} among them"
            raise AccessDenied(text, hint="the key's policy must allow oss:DeleteObject")

    def describe(self) -> str:
        if self.settings.path in (".", ""):
            return f"oss://{self.settings.bucket}"
        return f"oss://{self.settings.bucket}/{self.settings.path}"

    def close(self) -> None:
        self._client.pool.close()


@dataclass(slots=True)
class _Total:
    """Size and CRC-64 of all parts together."""

    size: int = 0
    crc: int = 0


def _summed(parts: Iterator[Part], total: _Total) -> Iterator[Part]:
    from fastcrc import crc64

    for part in parts:
        total.size, total.crc = total.size + len(part.data), crc64.xz(part.data, total.crc)
        yield part


def _range(offset: int, size: int | None) -> dict[str, str]:
    if offset == 0 and size is None:
        return {}
    # Without the second header a range past the end is answered with the whole object.
    return {"Range": range_header(offset, size), "x-oss-range-behavior": "standard"}


def _time(text: str | None) -> datetime | None:
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(text or "").astimezone(UTC)
    return None


# From URL and configuration


def open_url(url: StoreUrl, options: Mapping[str, str]) -> OssStore:
    """The store of an ``oss://BUCKET[.oss-REGION[-internal].aliyuncs.com]/path`` URL or of the configuration keys.

    Raises:
        UrlError: no bucket is named, or a value is impossible.
        MissingExtra: alibabacloud-oss-v2 is not installed.
    """
    require("alibabacloud_oss_v2", "oss", "oss:// replicas")
    given = Options(options, {} if not url.host else url.query)
    host = url.host
    match = _HOST.fullmatch(host)
    bucket = match["bucket"] if match else host or given.text("bucket")
    if not bucket:
        raise UrlError("an oss replica needs a bucket", hint="oss://BUCKET/path, or the key `bucket`")
    region = given.text("region", "region") or (match["region"] if match else "cn-hangzhou")
    endpoint = given.text("endpoint", "endpoint") or (match["endpoint"] if match else f"oss-{region}.aliyuncs.com")
    path = url.path if url.host else given.text("path")
    if path in ("", ".") or path.startswith("/"):
        log.warning("OSS refuses keys that begin with a slash or a dot: give oss://%s a path", bucket)
    return OssStore(
        OssSettings(
            bucket=bucket,
            path=path,
            endpoint=parse_endpoint(endpoint if "://" in endpoint else f"https://{endpoint}"),
            region=region,
            part_size=_part_size(given),
            concurrency=given.integer("concurrency", "concurrency", default=3),
            signature_version=_version(given),
            **_keys(given),
        )
    )


def _keys(given: Options) -> dict[str, Any]:
    key, secret = given.text("access-key-id"), given.text("secret-access-key")
    if bool(key) != bool(secret):
        raise UrlError("access-key-id and secret-access-key go together: only one of them is set")
    return {
        "access_key_id": key or None,
        "secret_access_key": secret or None,
        "session_token": given.text("session-token") or None,
    }


def _part_size(given: Options) -> int:
    text = given.text("part-size", "part-size", "partSize")
    size = parse_size(text, "part-size") if text else 6 << 20
    if not _MIN_PART <= size <= 5 << 30:
        raise UrlError(f"part-size is {text!r}", hint="from 100KiB to 5GiB")
    return size


def _version(given: Options) -> str:
    version = given.text("signature-version", "signature-version").lower() or "v4"
    if version not in ("v1", "v4"):
        raise UrlError(f"signature-version is {version!r}", hint="v4 or v1")
    return version
