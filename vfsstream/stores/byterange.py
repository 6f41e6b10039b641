"""HTTP ranges: the header that asks for one, and whether the answer is the one that was asked for (RFC 9110, 14)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from vfsstream.errors import StoreError
from vfsstream.stores.base import Fetched

__all__ = ["Span", "content_range", "part_of", "range_header", "skipped", "taken", "whole_size", "without_first"]

_WHOLE_SIZE = re.compile(r"/(\d+)\s*\Z")
_CONTENT_RANGE = re.compile(r"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """First and last byte of a partial answer, and the size of the whole object where it is told."""

    first: int
    last: int
    total: int | None

    def __str__(self) -> str:
        return f"bytes {self.first}-{self.last} of {'?' if self.total is None else self.total}"


def range_header(offset: int, size: int | None) -> str:
    """The value of ``Range``. A range of no bytes asks for one: the protocol has no empty range.

    Raises:
        ValueError: a range from the end that does not reach to the end.
    """
    if offset < 0:
        if size is not None:
            raise ValueError("a range from the end reads to the end: size must be None")
        return f"bytes={offset}"
    return f"bytes={offset}-" if size is None else f"bytes={offset}-{offset + max(size, 1) - 1}"


def content_range(headers: Mapping[str, str]) -> Span | None:
    """What ``content-range`` (lower case) states; ``None`` when it is absent or states nothing."""
    match = _CONTENT_RANGE.match(headers.get("content-range", ""))
    if match is None:
        return None
    return Span(int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3]))


def whole_size(headers: Mapping[str, str]) -> int | None:
    """The size of the object that ``content-range`` states, also where it states no part (status 416)."""
    match = _WHOLE_SIZE.search(headers.get("content-range", ""))
    return int(match[1]) if match else None


def part_of(status: int, headers: Mapping[str, str], offset: int, size: int | None, what: str) -> Span | None:
    """The part that an answer of 200 or 206 holds; ``None`` when the server ignored the range: it is the whole object.

    Raises:
        StoreError: another part than the one asked for came, less of it, or an unknown one; retryable, ``what`` names
            the object.
    """
    span = content_range(headers)
    if span is None:
        if status == 206:
            raise StoreError(f"{what}: a partial answer that does not say which part it is", retryable=True)
        return None
    first = offset
    if offset < 0:
        first = span.first if span.total is None else max(0, span.total + offset)
    last = None if size is None else first + max(size, 1) - 1
    if span.total is not None:
        last = span.total - 1 if last is None else min(last, span.total - 1)
    if span.first != first or (last is not None and span.last != last):
        wanted = f"{first}-{'' if last is None else last}"
        raise StoreError(f"{what}: asked for bytes {wanted}, the server sent {span}", retryable=True)
    return span


def taken(
    status: int, headers: Mapping[str, str], body: bytes, offset: int, size: int | None, what: str
) -> Fetched:
    """The bytes asked for out of an answer of 200 or 206.

    Raises:
        StoreError: as :func:`part_of`.
    """
    span = part_of(status, headers, offset, size, what)
    if span is None:
        start = max(0, len(body) + offset) if offset < 0 else offset
        return Fetched(body[start : None if size is None else start + size], len(body))
    if len(body) != span.last - span.first + 1:
        raise StoreError(f"{what}: {len(body)} bytes came as {span}", retryable=True)
    return Fetched(body if size is None else body[:size], span.total)


def skipped(status: int, headers: Mapping[str, str], offset: int, what: str) -> int:
    """How many bytes of the body of an answer to ``bytes=offset-`` come before those asked for.

    Raises:
        StoreError: as :func:`part_of`.
    """
    return offset if part_of(status, headers, offset, None, what) is None else 0


def without_first(chunks: Iterable[bytes], skip: int) -> Iterator[bytes]:
    """The chunks without their first ``skip`` bytes."""
    for chunk in chunks:
        rest = chunk[skip:] if skip else chunk
        skip -= len(chunk) - len(rest)
        if rest:
            yield rest
