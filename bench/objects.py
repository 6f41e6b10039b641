"""The objects of the test server: buckets, listings, multipart uploads, as S3 shows them. No sockets here."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote
from xml.sax.saxutils import escape

__all__ = ["Bucket", "Stored", "decode_aws_chunked", "error_xml", "listing_xml"]

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@dataclass(slots=True)
class Stored:
    """One object."""

    data: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))
    etag: str = ""

    def __post_init__(self) -> None:
        self.etag = self.etag or hashlib.md5(self.data, usedforsecurity=False).hexdigest()


class Bucket:
    """Objects by key, in key order, and the multipart uploads under way."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.keys: list[str] = []
        self.uploads: dict[str, tuple[str, dict[str, str], dict[int, bytes]]] = {}

    def put(self, key: str, stored: Stored) -> None:
        if key not in self.objects:
            insort(self.keys, key)
        self.objects[key] = stored

    def delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]

    def begin_upload(self, key: str, metadata: dict[str, str]) -> str:
        name = f"upload-{len(self.uploads)}-{len(self.keys)}"
        self.uploads[name] = (key, metadata, {})
        return name

    def finish_upload(self, name: str) -> Stored:
        key, metadata, parts = self.uploads.pop(name)
        stored = Stored(b"".join(parts[number] for number in sorted(parts)), metadata)
        stored.etag += f"-{len(parts)}"
        self.put(key, stored)
        return stored

    def page(self, prefix: str, after: str, limit: int, delimiter: str) -> tuple[list[str], list[str], bool]:
        """``(keys, common prefixes, more)`` of one page of a listing."""
        keys: list[str] = []
        groups: list[str] = []
        for key in self._from(prefix, after):
            rest = key[len(prefix) :]
            group = prefix + rest.split(delimiter, 1)[0] + delimiter if delimiter and delimiter in rest else None
            if group is not None and groups and groups[-1] == group:
                continue
            if len(keys) + len(groups) == limit:
                return keys, groups, True
            if group is None:
                keys.append(key)
            else:
                groups.append(group)
        return keys, groups, False

    def _from(self, prefix: str, after: str) -> Iterator[str]:
        start = max(bisect_left(self.keys, prefix), bisect_right(self.keys, after) if after else 0)
        for index in range(start, len(self.keys)):
            if not self.keys[index].startswith(prefix):
                return
            yield self.keys[index]


def listing_xml(name: str, bucket: Bucket, query: Mapping[str, str]) -> str:
    """The answer to ListObjectsV2."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = query.get("continuation-token") or query.get("start-after", "")
    limit = int(query.get("max-keys", "1000"))
    coded = query.get("encoding-type") == "url"

    def show(text: str) -> str:
        return quote(text, safe="/") if coded else escape(text)

    keys, groups, more = bucket.page(prefix, after, limit, delimiter)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<ListBucketResult {NAMESPACE}><Name>{name}</Name>"]
    lines.append(f"<Prefix>{show(prefix)}</Prefix><KeyCount>{len(keys) + len(groups)}</KeyCount>")
    lines.append(f"<MaxKeys>{limit}</MaxKeys><IsTruncated>{'true' if more else 'false'}</IsTruncated>")
    if coded:
        lines.append("<EncodingType>url</EncodingType>")
    if more:
        lines.append(f"<NextContinuationToken>{escape(max(keys[-1:] + groups[-1:]))}</NextContinuationToken>")
    for key in keys:
        stored = bucket.objects[key]
        stamp = stored.modified.strftime("%Y-%m-%dT%H:%M:%S.") + f"{stored.modified.microsecond // 1000:03d}Z"
        lines.append(
            f"<Contents><Key>{show(key)}</Key><LastModified>{stamp}</LastModified>"
            f"<ETag>&quot;{stored.etag}&quot;</ETag><Size>{len(stored.data)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
    lines.extend(f"<CommonPrefixes><Prefix>{show(group)}</Prefix></CommonPrefixes>" for group in groups)
    lines.append("</ListBucketResult>")
    return "".join(lines)


def error_xml(code: str, message: str, key: str) -> str:
    """An error as S3 words it."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{escape(message)}</Message>'
        f"<Key>{escape(key)}</Key><RequestId>bench</RequestId></Error>"
    )


def decode_aws_chunked(body: bytes) -> bytes:
    """The payload of an ``aws-chunked`` body; chunk signatures and trailers are skipped."""
    chunks: list[bytes] = []
    position = 0
    while True:
        end = body.index(b"\r\n", position)
        size = int(body[position:end].split(b";", 1)[0], 16)
        if size == 0:
            return b"".join(chunks)
        chunks.append(body[end + 2 : end + 2 + size])
        position = end + 2 + size + 2
