"""Where page contents come from: the seam between the reader's core and the machinery that fetches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from cachetools import LRUCache

from vfsstream.errors import DeadlineExceeded, Interrupted, NotFound, StoreError
from vfsstream.ltx import decode_frame
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica
from vfsstream.stores.deadline import deadline
from vfsstream.vfs.pool import Pool
from vfsstream.vfs.view import Place, View

__all__ = ["Frame", "PageSource", "SimpleSource", "await_future"]

Frame = tuple[int, int, bytes]
"""A page frame as it lies in an LTX file: (page number, version, frame)."""

T = TypeVar("T")

SLICE = 0.05
"""Longest wait between two looks at the interrupt flag, seconds."""


class PageSource(Protocol):
    """Gives whole, decoded, verified pages. One per replica and process; every method is thread-safe."""

    def hot(self, pgno: int, version: int) -> bytes | memoryview | None:
        """The page when it is in memory; called for every read of SQLite."""

    def read(self, view: View, pgno: int, check: Callable[[], None]) -> bytes | memoryview:
        """The page, fetched when needed. The page has a place in the view.

        Args:
            check: called at least every 50 ms while waiting; what it raises ends the wait.

        Raises:
            NotFound: the file is gone; the caller finds the page elsewhere.
            StoreError: the transport failed for good, or the deadline passed.
            CorruptError: the bytes are not that page.
        """

    def cached(self, view: View, pgno: int) -> bytes | memoryview | None:
        """The page when no remote read is needed for it."""

    def begin(self) -> None:
        """A read transaction starts."""

    def offer(self, frames: Iterable[Frame]) -> None:
        """Frames that came along with something else; the source may keep them."""

    def opened(self, view: View) -> None:
        """The first view is ready."""

    def advanced(self, view: View) -> None:
        """A newer view became current."""

    def stats(self) -> Mapping[str, int | float]:
        """Counters since the start."""

    def hydration(self) -> tuple[float, str]:
        """Percent of the database that is held locally, and the path of the local file (or ``""``)."""

    def after_fork(self) -> None:
        """Make new threads, connections and locks: the parent's are of no use in a child process."""

    def close(self) -> None:
        """Release threads and files. Waits for nothing remote."""


def await_future(
    future: Future[T],
    seconds: float,
    check: Callable[[], None],
    what: str,
    trouble: Callable[[], BaseException | None] = lambda: None,
) -> T:
    """The future's result, waited for in slices so that an interrupt or Ctrl-C ends the wait.

    Args:
        trouble: the last failure that was tried again, if any.

    Raises:
        DeadlineExceeded: ``seconds`` passed; ``what`` names the operation, the cause is the last trouble.
    """
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        try:
            return future.result(max(min(SLICE, left), 0))
        except NotYet as error:
            if future.done():
                return future.result()
            check()
            if left <= 0:
                cause = trouble()
                why = f": {cause}" if cause is not None else ""
                raise DeadlineExceeded(f"{what}: no answer within {seconds:g} s{why}") from cause or error


class _Flight(NamedTuple):
    """A read under way, and the file it reads from."""

    info: FileInfo
    future: Future[bytes]


class SimpleSource:
    """One ranged read per page, shared by all who want the page at the same moment.

    Args:
        cache_size: bytes of decoded pages to keep.
        deadline: seconds that one page may take, attempts included.
    """

    ATTEMPTS = 4

    def __init__(self, replica: Replica, cache_size: int, deadline: float, workers: int = 16) -> None:
        self._replica = replica
        self._deadline = deadline
        self._workers = workers
        self._cache_size = cache_size
        self._count = {"gets": 0, "bytes": 0, "hits": 0, "waits": 0, "retries": 0}
        self.after_fork()

    def after_fork(self) -> None:
        # cachetools is not thread-safe: the lock guards the cache and the table of reads under way.
        self._lock = threading.Lock()
        self._cache: LRUCache[tuple[int, int], bytes] = LRUCache(self._cache_size, getsizeof=len)
        self._flights: dict[tuple[int, int], _Flight] = {}
        self._trouble: dict[tuple[int, int], BaseException] = {}
        self._pool = Pool(self._workers, "fetch")

    def hot(self, pgno: int, version: int) -> bytes | None:
        with self._lock:
            return self._cache.get((pgno, version))

    def cached(self, view: View, pgno: int) -> bytes | None:
        return self.hot(pgno, view.version(pgno))

    def read(self, view: View, pgno: int, check: Callable[[], None]) -> bytes:
        place = view.find(pgno)
        assert place is not None, "a page without a place has no content to fetch"
        info, key = view.files[place.file], (pgno, place.version)
        while True:
            with self._lock:
                page = self._cache.get(key)
                if page is not None:
                    self._count["hits"] += 1
                    return page
                flight = self._flights.get(key)
                first = flight is None
                if flight is None:
                    flight = self._flights[key] = _Flight(info, Future())
                self._count["waits"] += 1
            if first:
                self._pool.submit(partial(self._fly, flight, key, view, place))
            try:
                what = f"page {pgno} of {flight.info}"
                return await_future(flight.future, self._deadline, check, what, lambda: self._trouble.get(key))
            except NotFound:
                if flight.info == info:
                    raise
                # Begun for a view whose place for the page was in another file: ours may well be there.

    def _fly(self, flight: _Flight, key: tuple[int, int], view: View, place: Place) -> None:
        page, failure = None, None
        try:
            page = self._fetch(view, key[0], place)
        except Exception as error:
            failure = error
        # Before those who wait are woken: else a read that comes later could be given this one's answer.
        self._landed(key, flight, page)
        with suppress(InvalidStateError):  # closed meanwhile
            if failure is not None:
                flight.future.set_exception(failure)
            elif page is not None:
                flight.future.set_result(page)

    def _landed(self, key: tuple[int, int], flight: _Flight, page: bytes | None) -> None:
        with self._lock:
            self._trouble.pop(key, None)
            if self._flights.get(key) is flight:
                del self._flights[key]
            if page is not None and len(page) <= self._cache_size:
                self._cache[key] = page

    def _fetch(self, view: View, pgno: int, place: Place) -> bytes:
        info = view.files[place.file]
        key = self._replica.key(info)
        end = time.monotonic() + self._deadline
        for attempt in range(1, self.ATTEMPTS + 1):
            try:
                self._count["gets"] += 1
                with deadline(max(0.001, end - time.monotonic())):
                    frame = self._replica.fetch(info, place.offset, place.size).data
                self._count["bytes"] += len(frame)
                if len(frame) != place.size:
                    raise StoreError(f"{key}: {len(frame)} bytes of {place.size} for page {pgno}", retryable=True)
                return decode_frame(frame, view.page_size, pgno, name=key, offset=place.offset)
            except NotFound:
                raise
            except StoreError as error:
                pause = 0.05 * 2**attempt
                given_up = attempt == self.ATTEMPTS or time.monotonic() + pause > end
                if not error.retryable or given_up or self._pool.closing.is_set():
                    raise
                self._count["retries"] += 1
                self._trouble[pgno, place.version] = error
                self._pool.closing.wait(pause)
        raise AssertionError("unreachable")

    def begin(self) -> None:
        """Every page is fetched alike."""

    def offer(self, frames: Iterable[Frame]) -> None:
        """Nothing is kept: a frame is decoded only when somebody asks for its page."""

    def opened(self, view: View) -> None:
        """Nothing to prepare."""

    def advanced(self, view: View) -> None:
        """Old versions leave the cache by themselves."""

    def stats(self) -> Mapping[str, int | float]:
        return {**self._count, "cache_bytes": self._cache.currsize}

    def hydration(self) -> tuple[float, str]:
        return 0.0, ""

    def close(self) -> None:
        self._pool.close()
        with self._lock:
            waiting, self._flights = list(self._flights.values()), {}
        for flight in waiting:
            with suppress(InvalidStateError):
                flight.future.set_exception(Interrupted("the database was closed"))
