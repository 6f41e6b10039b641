"""A store in memory, with scriptable faults: for tests of programs that use vfsstream, ours included."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime

from vfsstream.errors import AlreadyExists, NotFound
from vfsstream.stores.base import Capabilities, Fetched, ObjectInfo, Source, Store, chunks_of

__all__ = ["MemoryStore", "slice_range"]

Fault = Callable[[str, str], None]
"""Called as ``fault(operation, key)`` before each operation; may sleep, count or raise."""


class MemoryStore(Store):
    """Objects in a dictionary.

    Attributes:
        fault: called before each operation with its name and key (or prefix); raises to make it fail.
        calls: every operation so far, as ``(operation, key)``.
        now: the clock for ``modified``.
    """

    kind = "memory"
    capabilities = Capabilities(
        can_start_after=True,
        can_put_if_absent=True,
        cheap_miss=True,
        listing_has_timestamp=True,
        can_watch=True,
    )

    def __init__(self, *, fault: Fault | None = None, now: Callable[[], datetime] | None = None) -> None:
        self.fault = fault
        self.calls: list[tuple[str, str]] = []
        self.now = now or (lambda: datetime.now(UTC))
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self._watchers: dict[int, tuple[str, Callable[[], None]]] = {}

    def _enter(self, operation: str, key: str) -> None:
        self.calls.append((operation, key))
        if self.fault is not None:
            self.fault(operation, key)

    def _find(self, key: str) -> tuple[bytes, ObjectInfo]:
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise NotFound(key)
        return found

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        self._enter("list", prefix)
        with self._lock:
            keys = sorted(k for k in self._objects if k.startswith(prefix) and "/" not in k[len(prefix) :])
            infos = [self._objects[key][1] for key in keys]
        start = bisect_right(keys, start_after) if start_after is not None else 0
        return iter(infos[start:])

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        self._enter("list", prefix)
        with self._lock:
            rest = [k[len(prefix) :] for k in self._objects if k.startswith(prefix)]
        return iter(sorted({r.split("/", 1)[0] for r in rest if "/" in r}))

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        self._enter("get", key)
        data, _ = self._find(key)
        start, stop = slice_range(len(data), offset, size)
        return Fetched(data[start:stop], len(data))

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        self._enter("get", key)
        data, _ = self._find(key)
        return chunks_of(memoryview(data)[offset:])

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        self._enter("put", key)
        data = b"".join(chunks_of(source))
        etag = hashlib.sha256(data).hexdigest()[:16]
        info = ObjectInfo(key, len(data), self.now(), dict(metadata or {}), etag)
        with self._lock:
            if if_absent and key in self._objects:
                raise AlreadyExists(key)
            self._objects[key] = (data, info)
        self._wake(key)
        return info

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._enter("delete", key)
            with self._lock:
                self._objects.pop(key, None)
            self._wake(key)

    def head(self, key: str) -> ObjectInfo:
        self._enter("head", key)
        return self._find(key)[1]

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            token = max(self._watchers, default=0) + 1
            self._watchers[token] = (prefix, wake)

        def stop() -> None:
            with self._lock:
                self._watchers.pop(token, None)

        return stop

    def _wake(self, key: str) -> None:
        with self._lock:
            wakes = [wake for prefix, wake in self._watchers.values() if key.startswith(prefix)]
        for wake in wakes:
            wake()

    def describe(self) -> str:
        return "memory:"


def slice_range(total: int, offset: int, size: int | None) -> tuple[int, int]:
    """``(start, stop)`` of a ranged read in an object of ``total`` bytes, by the rules of :meth:`Store.fetch`."""
    if offset < 0:
        if size is not None:
            raise ValueError("a range from the end reads to the end: size must be None")
        return max(0, total + offset), total
    start = min(offset, total)
    return start, total if size is None else min(total, start + size)
