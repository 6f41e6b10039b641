"""The messages of a NATS object store: what describes an object, and its chunks."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vfsstream.stores.base import TIMESTAMP, ObjectInfo

__all__ = ["NO_TIME", "Meta", "blocks", "describing", "digest_text", "parse"]

CHUNK = 128 * 1024
NO_TIME = "0001-01-01T00:00:00Z"
_HEADER = "Litestream-Timestamp"


@dataclass(frozen=True, slots=True)
class Meta:
    """What the describing message says."""

    name: str
    nuid: str
    size: int
    chunks: int
    digest: str
    deleted: bool
    sequence: int
    info: ObjectInfo


def blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Any chunks as full blocks: then a byte's place gives its chunk."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        while len(rest) >= CHUNK:
            yield bytes(rest[:CHUNK])
            del rest[:CHUNK]
    if rest:
        yield bytes(rest)


def digest_text(made: Any) -> str:
    return "SHA-256=" + base64.urlsafe_b64encode(made.digest()).decode()


def describing(
    key: str, bucket: str, nuid: str, size: int, chunks: int, digest: str, metadata: Mapping[str, str] | None
) -> bytes:
    headers = {(_HEADER if name == TIMESTAMP else name): [value] for name, value in (metadata or {}).items()}
    fields = {
        "name": key,
        "headers": headers,
        "options": {"max_chunk_size": CHUNK},
        "bucket": bucket,
        "nuid": nuid,
        "size": size,
        "mtime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "chunks": chunks,
        "digest": digest,
    }
    return json.dumps(fields).encode()


def parse(data: bytes, sequence: int, time_ns: int) -> Meta | None:
    """What a describing message says; ``None`` when it describes nothing.

    Args:
        sequence, time_ns: of the message; 0 where its time is not known.
    """
    try:
        fields = json.loads(data)
        name, size, chunks = str(fields["name"]), int(fields.get("size") or 0), int(fields.get("chunks") or 0)
        metadata = _metadata(fields.get("headers") or {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    modified = datetime.fromtimestamp(time_ns / 1e9, UTC) if time_ns else _time(fields.get("mtime"))
    nuid = str(fields.get("nuid") or "")
    return Meta(
        name=name,
        nuid=nuid,
        size=size,
        chunks=chunks,
        digest=_padded(str(fields.get("digest") or "")),
        deleted=bool(fields.get("deleted")),
        sequence=sequence,
        info=ObjectInfo(name, size, modified, metadata, nuid or None),
    )


def _metadata(headers: Mapping[str, Any]) -> dict[str, str]:
    metadata = {}
    for header, values in headers.items():
        value = values[0] if isinstance(values, list) and values else values
        if isinstance(value, str):
            metadata[TIMESTAMP if header == _HEADER else header.lower()] = value
    return metadata


def _padded(digest: str) -> str:
    kind, mark, value = digest.partition("=")
    value = value.rstrip("=")
    return f"{kind.upper()}{mark}{value}{'=' * (-len(value) % 4)}"


def _time(text: Any) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return parsed if parsed.year > 1970 and parsed.tzinfo else None
