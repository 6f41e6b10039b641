"""The fetch engine: pages out of memory, local files or ranged reads, with what will be wanted next.

One lock guards the planner and the table of flights; it is never held during a read, a decode or a wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from vfsstream.errors import DeadlineExceeded, Interrupted, LtxError, NotFound
from vfsstream.ltx import decode_frame
from vfsstream.replica import Replica
from vfsstream.vfs.btree import MOST_LEVEL
from vfsstream.vfs.cache import PageCache, Windows
from vfsstream.vfs.escalate import Escalation
from vfsstream.vfs.flight import Flight, NotOurs
from vfsstream.vfs.interior import prefetch_interior
from vfsstream.vfs.local import LocalPages, open_local
from vfsstream.vfs.options import Options
from vfsstream.vfs.planner import Plan, Planner
from vfsstream.vfs.ranges import ByteRange, Frame, coalesce
from vfsstream.vfs.streaming import STREAM_DEADLINE, Streaming
from vfsstream.vfs.transfer import DEMAND, GUESS, STREAM, Transfer
from vfsstream.vfs.view import View

__all__ = ["FetchEngine"]

ATTEMPTS = 3
"""Times that a frame which does not decode is fetched again before it is called damaged."""
MEANWHILE = 16
"""Pages of a run that are asked for while a stream that brings them, too, is under way."""


class FetchEngine:
    """Gives pages; the PageSource behind every connection to one replica.

    Args:
        replica: where the LTX files are.
        options: budgets, deadline and what is switched on.
    """

    def __init__(self, replica: Replica, options: Options) -> None:
        self.replica, self.options = replica, options
        self.cache = PageCache(options.cache_size)
        self.hot = self.cache.hot
        self.windows = Windows(options.window_budget)
        self.transfer = Transfer(replica, options.max_requests)
        self.escalation = Escalation(requests=options.max_requests)
        self.streaming = Streaming(self.transfer, self.escalation, options)
        self.planner: Planner | None = None
        self.local: LocalPages = LocalPages()
        self._lock = threading.Lock()
        self._flights: dict[tuple[int, int], Flight] = {}
        self._counts = {"waits": 0, "guessed_pages": 0, "used_ahead": 0}
        self._counts |= {"local_pages": 0, "interior_pages": 0}

    # Reading

    def read(self, view: View, pgno: int, check: Callable[[], None]) -> bytes:
        """The page; see PageSource.read."""
        version = view.version(pgno)
        page = self.cache.hot(pgno, version)
        if page is not None:
            return page
        end = time.monotonic() + self.options.deadline
        failures = 0
        trouble: Exception | None = None
        while True:
            try:
                page = self._here(view, pgno, version) or self._fly(view, pgno, version, check, end)
            except NotOurs as other:
                trouble = other.error
            except LtxError:
                failures += 1
                if failures == ATTEMPTS:
                    raise
                time.sleep(0.01 * failures)
                continue
            if page is not None:
                return page
            if time.monotonic() > end:
                raise trouble or DeadlineExceeded(f"page {pgno}: not here within {self.options.deadline:g} s")

    def cached(self, view: View, pgno: int) -> bytes | None:
        """The page if no request is needed for it."""
        version = view.version(pgno)
        with suppress(LtxError):
            return self.cache.hot(pgno, version) or self._here(view, pgno, version)
        return None

    def _here(self, view: View, pgno: int, version: int) -> bytes | None:
        frame = self.windows.take(pgno, version)
        if frame is not None:
            page = self._decode(view, pgno, version, frame)
            self._used(view, pgno)
            return page
        found = self.local.page(pgno, version)
        if found is not None:
            self._counts["local_pages"] += 1
            self._keep(view, pgno, version, found, store=False)
            return found
        streamed = self.streaming.frame(view, pgno)
        if streamed is not None:
            with suppress(LtxError):  # what streamed by was not looked at: the store is asked for this page
                return self._decode(view, pgno, version, streamed)
        return None

    def _fly(self, view: View, pgno: int, version: int, check: Callable[[], None], end: float) -> bytes | None:
        self._counts["waits"] += 1
        stream = self.streaming.coming(view, pgno)
        if stream is not None:
            stream.pass_by(f"page {pgno}", check, time.monotonic, end)
            if stream.error is None:
                return None
        flight, joined = self._flight(view, pgno, version, end)
        if joined and not flight.demanded:
            self.transfer.hurry(flight)
        place = view.find(pgno)
        info = view.files[place.file] if place is not None else None
        try:
            flight.wait(f"page {pgno} of {flight.info or info}", check, time.monotonic, end)
        except NotFound:
            if flight.info is None or flight.info == info:
                raise
            return None  # begun for an older view; this view's own place is in another file
        except Exception as error:
            if not joined or error is not flight.error or flight.binds(error):
                raise
            raise NotOurs(error) from error  # it began with another's deadline, or for nobody
        frame = flight.frame(pgno, version)
        if frame is None:
            return None
        self.windows.take(pgno, version)
        page = self._decode(view, pgno, version, frame)
        if joined:
            self._used(view, pgno)
        return page

    def _decode(self, view: View, pgno: int, version: int, frame: bytes | memoryview) -> bytes:
        place = view.find(pgno)
        name = self.replica.key(view.files[place.file]) if place else None
        page = decode_frame(frame, view.page_size, pgno, name=name, offset=place.offset if place else None)
        self._keep(view, pgno, version, page, store=True)
        return page

    def _keep(self, view: View, pgno: int, version: int, page: bytes, *, store: bool) -> None:
        with self._lock:
            pin = self.planner.page(pgno, page) if self.planner is not None else False
            levels = self.planner.levels(len(page)) if self.planner is not None else ()
        self.cache.put(pgno, version, page, pin=pin)
        if store:
            self.local.store(pgno, version, page)
        if levels:
            self._learn(view, levels)

    # Planning

    def _prepare(self, view: View) -> Planner:
        """The planner, made with the first view (the lock is held)."""
        if self.planner is None:
            total = sum(info.size for info in view.files)
            average = max(64, min(view.page_size, total // max(1, view.commit)))
            self.planner = Planner(self.options.prefetch, view.commit, average, self._window())
        return self.planner

    def _window(self) -> int:
        return min(self.transfer.link.window(), max(1, self.options.window_budget // 3))

    def _flight(self, view: View, pgno: int, version: int, end: float) -> tuple[Flight, bool]:
        """The flight that brings a page, begun now if it is not yet under way; was it?"""
        with self._lock:
            flight = self._flights.get((pgno, version))
            if flight is not None:
                return flight, True
            planner = self._prepare(view)
            planner.window(self._window())
            plan = planner.miss(pgno)
            ranges = self._ranges(view, plan, pgno)
            stream = self.streaming.worth_it(view, planner.parts, plan, ranges)
            if stream or self.streaming.under_way:
                planner.levels(view.page_size)  # they come with the stream
                ranges = self._missing(view, plan.pages[:MEANWHILE], pgno, self._window())
            demanded = next(r for r in ranges if any(f.pgno == pgno for f in r.frames))
            if not plan.established:
                ranges = [demanded]
            self.escalation.asked(len(ranges) - 1)
            guessed = [f.pgno for r in ranges for f in r.frames if f.pgno != pgno]
            self._counts["guessed_pages"] += len(guessed)
            if not plan.established and guessed:
                planner.guessed(pgno, guessed)
            flights = [self._register(view, r, end) for r in ranges]
            own = next(flight for flight in flights if flight.range is demanded)
            own.demanded = True
        for flight in flights:
            self._send(view, flight, DEMAND if flight is own else GUESS)
        if stream:
            self.streaming.begin(view)
        return own, False

    def _used(self, view: View, pgno: int) -> None:
        """A page fetched ahead was used: go on fetching if that was the sign for it."""
        self._counts["used_ahead"] += 1
        with self._lock:
            planner = self.planner
            plan = planner.use(pgno) if planner is not None else None
            if planner is None or plan is None or self.streaming.under_way:
                return
            end = time.monotonic() + self.options.deadline
            ranges = self._ranges(view, plan, 0)
            stream = self.streaming.worth_it(view, planner.parts, plan, ranges)
            ranges = [] if stream else ranges
            self._counts["guessed_pages"] += sum(len(r.frames) for r in ranges)
            self.escalation.asked(len(ranges))
            flights = [self._register(view, r, end) for r in ranges]
        for flight in flights:
            self._send(view, flight, GUESS)
        if stream:
            self.streaming.begin(view)

    def _ranges(self, view: View, plan: Plan, demanded: int) -> list[ByteRange]:
        """The ranges of a plan's pages that are not here and not under way; no more bytes than a window."""
        return self._missing(view, plan.pages, demanded, plan.windows * self._window())

    def _missing(self, view: View, pages: Sequence[int], demanded: int, left: int) -> list[ByteRange]:
        frames: list[Frame] = []
        for pgno in pages:
            if pgno > view.commit:
                continue
            place = view.find(pgno)
            if place is None or (pgno != demanded and self._has(view, pgno, place.version)):
                continue
            if pgno != demanded and self.streaming.brings(view, pgno):
                continue
            left -= place.size
            if left < 0 and frames:
                break
            frames.append(Frame(pgno, *place))
        return coalesce(frames)

    def _has(self, view: View, pgno: int, version: int) -> bool:
        key = (pgno, version)
        known = key in self.cache or key in self.windows or key in self._flights
        return known or self.local.has(pgno, version)

    def _register(self, view: View, wanted: ByteRange, end: float) -> Flight:
        flight = Flight(wanted, end, view.files[wanted.file])
        for frame in wanted.frames:
            self._flights[frame.pgno, frame.version] = flight
        return flight

    def _send(self, view: View, flight: Flight, priority: int) -> None:
        self.transfer.submit(flight, view.files, self._landed, priority)

    def _landed(self, flight: Flight, data: bytes) -> bytes | None:
        if data:
            self.windows.add(data, flight.range.offset, flight.range.frames)
        with self._lock:
            for frame in flight.range.frames:
                if self._flights.get((frame.pgno, frame.version)) is flight:
                    del self._flights[frame.pgno, frame.version]
        return data

    def fetch_ahead(self, view: View, pages: Sequence[int], check: Callable[[], None]) -> None:
        """Fetch pages side by side and wait for them; failures are left to those who ask for the pages."""
        end = time.monotonic() + self.options.deadline
        with self._lock:
            self._prepare(view)
            flights = [self._register(view, r, end) for r in self._missing(view, pages, 0, self._window())]
        for flight in flights:
            self._send(view, flight, GUESS)
        for flight in flights:
            with suppress(Exception):
                flight.wait("pages", check, time.monotonic, end)

    def check_open(self) -> None:
        """For work of our own that waits.

        Raises:
            Interrupted: the engine is being closed.
        """
        if self.transfer.pool.closing.is_set():
            raise Interrupted("the database was closed")

    def requests_for(self, view: View, pages: Sequence[int]) -> int:
        """How many requests it takes to have these pages."""
        with self._lock:
            return len(self._missing(view, pages, 0, MOST_LEVEL))

    def _learn(self, view: View, pages: Sequence[int]) -> None:
        """Fetch interior pages in the background; the planner knows them as soon as they are here."""
        for pgno in pages:  # what came along with something else is only waiting to be looked at
            if (pgno, view.version(pgno)) in self.windows:
                with suppress(LtxError):
                    self._here(view, pgno, view.version(pgno))
        if self.streaming.under_way:
            return
        end = time.monotonic() + self.options.deadline
        with self._lock:
            flights = [self._register(view, r, end) for r in self._missing(view, pages, 0, MOST_LEVEL)]
            self.escalation.asked(len(flights))
        self._counts["interior_pages"] += sum(len(flight.range.frames) for flight in flights)
        for flight in flights:
            self.transfer.submit(flight, view.files, partial(self._learned, view), GUESS)

    def _learned(self, view: View, flight: Flight, data: bytes) -> bytes | None:
        self._landed(flight, data)
        for frame in flight.range.frames if data else ():
            with suppress(LtxError):
                self._here(view, frame.pgno, frame.version)
        return data

    # Streaming the whole database

    def begin_range(self, view: View, wanted: ByteRange) -> Flight:
        """Ask for a range at the lowest priority; its bytes stay in the flight."""
        flight = Flight(wanted, time.monotonic() + max(STREAM_DEADLINE, self.options.deadline))
        self.transfer.submit(flight, view.files, lambda _, data: data, STREAM)
        return flight

    # Following

    def offer(self, frames: Iterable[tuple[int, int, bytes]]) -> None:
        """Fresh frames of a file that was read whole."""
        for pgno, version, frame in frames:
            self.windows.add(frame, 0, (Frame(pgno, 0, 0, len(frame), version),))

    def _hydrated(self, pgno: int, version: int) -> bytes | None:
        """As :meth:`PageCache.hot`, with the local copy first."""
        hydrator = self.local.hydrator
        found = hydrator.page(pgno, version) if hydrator is not None else None
        return found or self.cache.hot(pgno, version)

    def begin(self) -> None:
        """A read transaction begins: scattered reads of different transactions are point lookups, not a scan."""
        self.escalation.reset()

    def opened(self, view: View) -> None:
        """The first view is ready: open local files, learn the interior pages."""
        with self._lock:
            planner = self._prepare(view)
        self.local = open_local(self, view)
        if self.local.hydrator is not None:
            self.hot = self._hydrated
        if planner.btree is not None:
            self.transfer.pool.submit(partial(prefetch_interior, self, view), STREAM)

    def advanced(self, view: View) -> None:
        """A newer view became current."""
        with self._lock:
            if self.planner is not None:
                self.planner.grow(view.commit)
        self.local.advanced(view)

    def stats(self) -> Mapping[str, int | float]:
        """Counters since the start."""
        return {
            **self.transfer.counts,
            **self._counts,
            "streams": self.streaming.begun,
            "cache_bytes": self.cache.size,
            "window_bytes": self.windows.size,
            "wasted_bytes": self.windows.wasted,
            "latency_ms": round(self.transfer.link.latency * 1000, 3),
            "throughput": int(self.transfer.link.throughput),
        }

    def hydration(self) -> tuple[float, str]:
        """Percent held locally, and the path of the local file."""
        return self.local.progress()

    def after_fork(self) -> None:
        """New locks, threads and flights in a child process."""
        self._lock = threading.Lock()
        self._flights = {}
        self.streaming.restart()
        self.cache.restart()
        self.windows.restart()
        self.transfer.restart()
        self.local.after_fork()

    def close(self) -> None:
        """End the threads, give memory and files back; who still waits is told."""
        self.transfer.close()
        with self._lock:
            waiting, self._flights = set(self._flights.values()), {}
        for flight in waiting:
            if not flight.done:
                flight.finish(None, Interrupted("the database was closed"))
        self.local.close()
        self.cache.clear()
        self.windows.clear()
        self.streaming.close()
