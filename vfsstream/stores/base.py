"""The contract of a store: a dumb place for bytes under keys. It knows nothing of LTX.

Keys are ``/``-separated text relative to the store's root. Every method is thread-safe: many threads read
at once. A missing object is :class:`~vfsstream.errors.NotFound` and nothing else; every other failure of the
transport is a :class:`~vfsstream.errors.StoreError` that says whether the same request may succeed later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import BinaryIO, Self

__all__ = ["TIMESTAMP", "Capabilities", "Fetched", "ObjectInfo", "Source", "Store", "chunks_of"]

Source = bytes | bytearray | memoryview | BinaryIO | Iterable[bytes]
"""What :meth:`Store.put` accepts: bytes, an open binary file, or an iterable of chunks (read once)."""

TIMESTAMP = "timestamp"
"""Metadata key of an object's own time, RFC 3339 text with milliseconds, trailing zeros trimmed.

Each store writes it under Litestream's own key (``litestream-timestamp`` and its like, or the mtime of a file)
and gives it back in ``ObjectInfo.metadata`` wherever a listing or a head carries it.
"""

STREAM_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do, as data.

    Attributes:
        can_start_after: a listing seeks on the server.
        can_put_if_absent: ``put(if_absent=True)`` is atomic on the server.
        cheap_miss: asking for a missing key costs no more than a small request.
        listing_has_timestamp: a listing carries the object's own time (``TIMESTAMP``).
        can_watch: ``watch`` wakes when something below a prefix changes.
        max_concurrency: requests that may usefully run at once.
        min_part_size: smallest part of a multipart upload, bytes; 0 when there are no parts.
    """

    can_start_after: bool = False
    can_put_if_absent: bool = False
    cheap_miss: bool = False
    listing_has_timestamp: bool = False
    can_watch: bool = False
    max_concurrency: int = 16
    min_part_size: int = 0


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a listing, a head or a put shows it.

    Attributes:
        key: relative to the store's root.
        size: bytes.
        modified: aware UTC time the store gives it: a hint, not the truth.
        metadata: user metadata where the store's answer carries it, keys in lower case, else empty.
        etag: opaque version where the store has one.
    """

    key: str
    size: int
    modified: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer to a ranged read: the bytes, and the size of the whole object when the store tells it."""

    data: bytes
    total_size: int | None = None


class Store(ABC):
    """A byte store below one root.

    Attributes:
        kind: the URL scheme: ``file s3 gs abs sftp webdav nats oss memory``.
        capabilities: what it can do.
    """

    kind: str
    capabilities: Capabilities = Capabilities()

    @abstractmethod
    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """Every object whose key starts with ``prefix``, in ascending order of the key.

        ``prefix`` is a directory and ends with ``/`` or is empty; nested keys are not listed. A missing
        directory is an empty listing. Names that a store uses for unfinished uploads are hidden.

        Args:
            start_after: skip keys up to and including this one (a full key), on the server where it can.
        """

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        """The directory names directly below ``prefix`` (which ends with ``/`` or is empty), without slash.

        Only stores that hold more than LTX files need it (backups of Litestream 0.3, directories of replicas).
        """
        raise NotImplementedError(f"{self.kind} stores cannot list directories")

    @abstractmethod
    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        """Read a range, or the whole object.

        Args:
            offset: first byte; negative counts from the end of the object (``size`` must then be ``None``).
                More than the object holds means from its start.
            size: at most so many bytes; ``None`` reads to the end.

        A range that reaches past the end gives what there is. A body shorter than the server announced is
        a retryable :class:`~vfsstream.errors.StoreError`, never a short answer.
        """

    def get(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        """Like :meth:`fetch`, bytes only."""
        return self.fetch(key, offset, size).data

    @abstractmethod
    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        """The object from ``offset`` to its end, in chunks of bounded size.

        A connection lost in the middle raises a retryable error; resuming is the caller's or a wrapper's.
        """

    @abstractmethod
    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Store an object, visible under its key only when complete; an older one is replaced atomically.

        Memory is bounded whatever the size of ``source``. A source that raises leaves nothing behind.

        Raises:
            AlreadyExists: ``if_absent`` and the key is taken.
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are not an error.

        Raises:
            AccessDenied: some may not be deleted; the others were.
        """

    def remove_directory(self, prefix: str) -> None:  # noqa: B027 - most stores have no directories
        """Remove the directory of ``prefix`` if the store has such things and nothing is in it."""

    @abstractmethod
    def head(self, key: str) -> ObjectInfo:
        """Size, times and metadata of one object."""

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` (from any thread, at once, never blocking) whenever something changes below ``prefix``.

        Returns:
            A function that ends the watch and joins its thread.
        """
        raise NotImplementedError(f"{self.kind} stores cannot watch")

    @abstractmethod
    def describe(self) -> str:
        """The store's URL without secrets, for messages."""

    def close(self) -> None:  # noqa: B027 - many stores hold nothing
        """Release connections and threads. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe()}>"


def chunks_of(source: Source, size: int = STREAM_CHUNK) -> Iterator[bytes]:
    """Any source as chunks of at most ``size`` bytes (an iterable's own chunks are passed on as they are)."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        view = memoryview(source)
        for start in range(0, len(view), size):
            yield bytes(view[start : start + size])
    elif hasattr(source, "read"):
        while chunk := source.read(size):
            yield chunk
    else:
        yield from source
