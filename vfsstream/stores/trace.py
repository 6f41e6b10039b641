"""A store that reports what it did: one hook for logs, metrics and tests that count requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from vfsstream.stores.base import Fetched, ObjectInfo, Source, Store
from vfsstream.stores.wrapper import StoreWrapper

__all__ = ["Trace", "TraceStore"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trace:
    """One finished attempt.

    Attributes:
        operation: ``list fetch stream put delete head``.
        key: the key, or the prefix of a listing, or the first key of a deletion.
        bytes: bytes of content moved; for a listing or deletion the number of objects.
        seconds: from the call to its end; for streams and listings to the last item taken.
        result: ``"ok"`` or the name of the exception's class.
        error: the exception, or ``None``.
        kind: of the store.
    """

    operation: str
    key: str
    bytes: int
    seconds: float
    result: str
    error: BaseException | None
    kind: str


class TraceStore(StoreWrapper):
    """A store that calls ``hook`` after each operation, from the thread that ran it."""

    def __init__(self, inner: Store, hook: Callable[[Trace], None]) -> None:
        super().__init__(inner)
        self.hook = hook

    def _report(self, operation: str, key: str, start: float, count: int, error: BaseException | None) -> None:
        result = "ok" if error is None else type(error).__name__
        took = time.perf_counter() - start
        self.hook(Trace(operation, key, count, took, result, error, self.inner.kind))

    def _traced(self, operation: str, key: str, call: Callable[[], T], count: Callable[[T], int]) -> T:
        start = time.perf_counter()
        try:
            answer = call()
        except BaseException as error:
            self._report(operation, key, start, 0, error)
            raise
        self._report(operation, key, start, count(answer), None)
        return answer

    def _counted(
        self, operation: str, key: str, start: float, items: Iterator[T], count: Callable[[T], int]
    ) -> Iterator[T]:
        total = 0
        try:
            for item in items:
                total += count(item)
                yield item
        except GeneratorExit:  # the caller has seen enough
            self._report(operation, key, start, total, None)
            raise
        except BaseException as error:
            self._report(operation, key, start, total, error)
            raise
        self._report(operation, key, start, total, None)

    def _opened(
        self, operation: str, key: str, call: Callable[[], Iterator[T]], count: Callable[[T], int]
    ) -> Iterator[T]:
        start = time.perf_counter()
        try:
            items = call()
        except BaseException as error:
            self._report(operation, key, start, 0, error)
            raise
        return self._counted(operation, key, start, items, count)

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        return self._opened("list", prefix, lambda: self.inner.list(prefix, start_after), lambda _: 1)

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        return self._opened("list", prefix, lambda: self.inner.list_prefixes(prefix), lambda _: 1)

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        return self._traced("fetch", key, lambda: self.inner.fetch(key, offset, size), lambda got: len(got.data))

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        return self._opened("stream", key, lambda: self.inner.stream(key, offset), len)

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        return self._traced(
            "put",
            key,
            lambda: self.inner.put(key, source, metadata=metadata, if_absent=if_absent),
            lambda info: info.size,
        )

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        first = wanted[0] if wanted else ""
        self._traced("delete", first, lambda: self.inner.delete(wanted), lambda _: len(wanted))

    def head(self, key: str) -> ObjectInfo:
        return self._traced("head", key, lambda: self.inner.head(key), lambda _: 0)
