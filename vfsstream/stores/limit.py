"""A store that runs at most so many operations at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from vfsstream.errors import StoreError
from vfsstream.stores.base import Fetched, ObjectInfo, Source, Store
from vfsstream.stores.deadline import time_left
from vfsstream.stores.wrapper import StoreWrapper

__all__ = ["LimitStore"]

_LONGEST_WAIT = 60.0


class LimitStore(StoreWrapper):
    """At most ``max_concurrency`` operations at once; the others wait, within the operation's deadline.

    A stream counts while it is opened, not while it is read: a merge holds many open streams at once, and would
    wait for itself. A put whose source is read while it runs never takes the last slot: the source may be read from
    this very store.
    """

    def __init__(self, inner: Store, max_concurrency: int) -> None:
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency is {max_concurrency}: at least 1")
        super().__init__(inner)
        self._slots = threading.BoundedSemaphore(max_concurrency)
        self._readers_own = max_concurrency > 1
        self._writers = threading.BoundedSemaphore(max(1, max_concurrency - 1))

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        with self._one_of(self._slots):
            yield

    @contextlib.contextmanager
    def _one_of(self, slots: threading.BoundedSemaphore) -> Iterator[None]:
        if not slots.acquire(timeout=time_left(_LONGEST_WAIT)):
            raise StoreError(f"{self.describe()}: no operation ended in time to start another", retryable=True)
        try:
            yield
        finally:
            slots.release()

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        with self._slot():
            listing = self.inner.list(prefix, start_after)
            first = next(listing, None)
        return iter(()) if first is None else chain([first], listing)

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        with self._slot():
            return iter([*self.inner.list_prefixes(prefix)])

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        with self._slot():
            return self.inner.fetch(key, offset, size)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        with self._slot():
            return self.inner.stream(key, offset)

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        with contextlib.ExitStack() as held:
            held.enter_context(self._one_of(self._writers))
            if self._readers_own or isinstance(source, bytes):
                held.enter_context(self._slot())
            return self.inner.put(key, source, metadata=metadata, if_absent=if_absent)

    def delete(self, keys: Iterable[str]) -> None:
        with self._slot():
            self.inner.delete(keys)

    def head(self, key: str) -> ObjectInfo:
        with self._slot():
            return self.inner.head(key)
