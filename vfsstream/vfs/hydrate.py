"""Hydration: the whole database brought into a local file in the background, and kept current.

Pages are fetched first and written then, each with the version it has; a reader takes a page from the file only
at exactly the version that its view wants, and looks again after the read, so it never sees a page too new, too
old or half written. The finished file is an ordinary SQLite database in rollback mode. Later transactions are
applied to it under SQLite's own locks and a rollback journal, so other programs may read it all the time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from fastcrc.crc64 import go_iso

from vfsstream.errors import ConflictError, DatabaseError, DeadlineExceeded, MissingError, VfsstreamError
from vfsstream.ltx import decode_frame
from vfsstream.replica.rollback import Rewriter, patch_first_page
from vfsstream.vfs.diskcache import identity
from vfsstream.vfs.flight import Flight
from vfsstream.vfs.hydrate_file import NamedCopy, State
from vfsstream.vfs.hydrate_pages import HeldPages
from vfsstream.vfs.hydrate_ranges import missing_ranges, proven, still_current
from vfsstream.vfs.ranges import ByteRange
from vfsstream.vfs.view import View

__all__ = ["Hydrator", "RangeGiver"]

logger = logging.getLogger("vfsstream.vfs")

STREAMS = 4
SAVE_EVERY = 64
"""Ranges between two writings of the state: at most 256 MiB are fetched again after a crash."""
SAVE_SECONDS = 10.0
"""Seconds between two writings while a complete file is kept current."""
UPDATE = 512
"""Pages of a change asked for at once."""
RETRY = 2.0
PATIENCE = 30.0
"""Seconds to wait for transactions that read the file directly; then the update is tried again."""


class RangeGiver(Protocol):
    """What hydration needs of the engine."""

    def begin_range(self, view: View, wanted: ByteRange) -> Flight:
        """Ask for a range, at the lowest priority."""

    def read(self, view: View, pgno: int, check: Callable[[], None]) -> bytes | memoryview:
        """One page."""

    def fetch_ahead(self, view: View, pages: Sequence[int], check: Callable[[], None]) -> None:
        """Several pages side by side, which :meth:`read` then finds."""


class DirectReader(Protocol):
    """Somebody who reads the finished file itself."""

    @property
    def active(self) -> bool:
        """In a transaction: the file must not change."""


class Hydrator:
    """The local copy of one database.

    Args:
        engine: gives ranges and pages.
        view: what to fetch first; newer ones come through :meth:`follow`.
        copy: the file, under its name; ``None`` = a temporary file that nobody else sees.

    Attributes:
        complete: the file holds the newest view it was told of, or held it a moment ago and is being updated.
        trouble: why it does not get on, or ``None``.
        settled: the view that the file shows to those who read it directly; ``None`` while it changes.
        direct_readers: those; whoever reads becomes active first and looks at ``settled`` then.
    """

    def __init__(self, engine: RangeGiver, view: View, copy: NamedCopy | None) -> None:
        self.engine, self.copy = engine, copy
        self.page_size = view.page_size
        self.pages = HeldPages(view.page_size, view.commit)
        self.complete = False
        self.trouble: Exception | None = None
        self._view = view
        self._known: dict[str, None] = {}
        self._saved = time.monotonic()
        self._stop, self._news = threading.Event(), threading.Event()
        self._left: NamedCopy | None = None
        self.settled: View | None = None
        self.direct_readers: set[DirectReader] = set()
        self._thread = threading.Thread(target=self._run, name="vfsstream-hydrate", daemon=True)

    # Readers

    def page(self, pgno: int, version: int) -> bytes | None:
        """The page at exactly this version, or ``None``."""
        return self.pages.page(pgno, version)

    @property
    def path(self) -> Path | None:
        """The file's name, if it has one."""
        return self.copy.path if self.copy is not None else None

    @property
    def direct(self) -> bool:
        """May SQLite read the file itself? A file without a name cannot be opened by others."""
        return self.complete and self.path is not None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody reads the file directly meanwhile, and nobody will until it is settled anew.

        Raises:
            DeadlineExceeded: a transaction lasts too long; the file stays as it is.
        """
        settled, self.settled = self.settled, None
        end = time.monotonic() + PATIENCE
        try:
            while any(reader.active for reader in list(self.direct_readers)):
                self._check()
                if time.monotonic() > end:
                    raise DeadlineExceeded(f"{self.path}: a read transaction lasts longer than {PATIENCE:g} s")
                time.sleep(0.002)
        except BaseException:
            self.settled = settled
            raise
        yield

    def progress(self) -> tuple[float, str]:
        """Percent of the newest view that is here, never above 100, and the path."""
        view = self._view
        total = max(1, view.commit)
        percent = 100.0 if self.complete else min(99.9, 100.0 * self.pages.count / total)
        return percent, str(self.path) if self.path is not None else ""

    # Control

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def follow(self, view: View) -> None:
        """A newer view became current."""
        self._view = view
        self._news.set()

    def close(self) -> None:
        """Stop; what was fetched for a named file is kept and found again."""
        self._stop.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(10)
        file, self.pages.file = self.pages.file, -1
        if self.copy is None and file >= 0:
            os.close(file)
        for copy in (self.copy, self._left):
            if copy is not None:
                copy.close()

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    # The thread

    def _run(self) -> None:
        try:
            while True:
                try:
                    self._hydrate()
                except (ConflictError, DatabaseError) as error:
                    self._leave(error)
        except _Stopped:
            self._save(self._view, now=True)
        except Exception as error:
            self.trouble = error
            logger.warning("the local copy is kept current no more: %s", error)

    def _hydrate(self) -> NoReturn:
        if self.copy is not None:
            self.pages.file = self.copy.file
            self._resume(self.copy)
        elif self.pages.file < 0:
            self.pages.file = _private_file()
        self._fill()
        while True:
            self._news.wait()
            self._news.clear()
            self._check()
            self._update()

    def _leave(self, why: Exception) -> None:
        """The named file is somebody else's: nothing in it counts any more, and it is not touched again."""
        logger.warning("%s: hydrating a file of our own", why)
        self.settled, self.complete = None, False
        if self.copy is not None:
            self.copy.give_up()
            self._left, self.copy = self.copy, None
        self.pages.leave(_private_file())

    def _resume(self, copy: NamedCopy) -> None:
        """Go on with what an earlier process left, as far as it is proven page by page."""
        view = self._view
        while True:
            try:
                state = copy.load(self.page_size)
                break
            except DeadlineExceeded as error:
                self.trouble = error
                self._stop.wait(RETRY)
                self._check()
        have = proven(view, state.have, state.txid, frozenset(state.files)) if state is not None else None
        if state is None or have is None or not any(have):
            copy.begin_anew()
            self.pages.file = copy.file
            return
        self.pages.find(have, state.sums, self._check)
        self.pages.sums[1] = go_iso(self.pages.raw(1))  # written by us, before or after the state: it has our mark

    def _save(self, view: View, *, now: bool = False) -> None:
        """Write down what is here. Without it, or with an old one, the next process only fetches more."""
        if self.copy is None or not (now or time.monotonic() > self._saved + SAVE_SECONDS):
            return
        self._saved = time.monotonic()
        self._known.update(dict.fromkeys(identity(info) for info in list(view.files)))
        held = still_current(view, self.pages.have)
        try:
            self.copy.save(State(view.txid, self._known, held, self.pages.sums), self.page_size)
        except OSError as error:
            self.trouble = error

    def _fill(self) -> None:
        """Fetch everything, then everything that changed meanwhile, until nothing is missing."""
        if self.copy is not None and self.copy.finished:
            self._update()
            self.complete = True
            return
        number = 0
        while True:
            view = self._view
            self.pages.grow(view.commit)
            flights: list[tuple[Flight, ByteRange]] = []
            ranges = missing_ranges(view, self.pages.have)
            found = False
            for wanted in ranges:
                found = True
                flights.append((self.engine.begin_range(view, wanted), wanted))
                if len(flights) >= STREAMS:
                    self._take(view, *flights.pop(0))
                    number += 1
                    if number % SAVE_EVERY == 0:
                        self._save(view, now=True)
            for flight in flights:
                self._take(view, *flight)
            if not found and view is self._view:
                self._finish(view)
                return

    def _take(self, view: View, flight: Flight, wanted: ByteRange) -> None:
        """Decode a range and write it; a failure is tried again on the next round."""
        while not flight.done:
            self._check()
            flight.settle(0.05)
        if flight.error is not None:
            self.trouble = flight.error
            self._stop.wait(RETRY if isinstance(flight.error, MissingError) else RETRY / 4)
            self._check()
            return
        self.trouble = None
        data = flight.data or b""
        run: list[tuple[int, bytes]] = []
        first = 0
        name = str(view.files[wanted.file])
        for frame in sorted(wanted.frames):
            begin = frame.offset - wanted.offset
            try:
                page = decode_frame(
                    memoryview(data)[begin : begin + frame.size], view.page_size, frame.pgno, name=name
                )
            except VfsstreamError as error:
                self.trouble = error
                self._stop.wait(RETRY / 4)
                continue
            if run and frame.pgno != first + len(run):
                self._write(first, run)
                run = []
            if not run:
                first = frame.pgno
            run.append((frame.version, page))
        if run:
            self._write(first, run)

    def _write(self, first: int, run: list[tuple[int, bytes]]) -> None:
        if first == 1 and self.copy is not None:
            run[0] = run[0][0], self.copy.marked(run[0][1])
        self.pages.write(first, run)

    def _finish(self, view: View) -> None:
        """Make the file a database of its own, and give it its name."""
        self.pages.write(1, [(view.version(1), self._first_page(self.pages.raw(1), view))])
        os.ftruncate(self.pages.file, view.commit * self.page_size)
        if self.copy is not None:
            self.copy.finish()
            self._save(view, now=True)
        self.settled = view
        self.complete = True

    def _first_page(self, page: bytes, view: View) -> bytes:
        patched = patch_first_page(page, view.txid, view.commit)
        return self.copy.marked(patched) if self.copy is not None else patched

    def _update(self) -> None:
        """Bring a complete file to the newest view, all or nothing for those who read it elsewhere."""
        while True:
            view = self._view
            self.pages.grow(view.commit)
            changed = [frame.pgno for wanted in missing_ranges(view, self.pages.have) for frame in wanted.frames]
            self._check()
            settled = self.settled
            if settled is not None and not changed and settled.txid == view.txid:
                self.settled = view  # pages moved to other files, their contents are the same
                return
            try:
                self._apply(view, sorted({1, *changed}))
            except (ConflictError, DatabaseError):
                raise
            except VfsstreamError as error:
                self.trouble = error
                self._stop.wait(RETRY)
                self._check()
                continue
            self.trouble = None
            if view is self._view:
                return

    def _apply(self, view: View, changed: list[int]) -> None:
        with tempfile.TemporaryFile(prefix="vfsstream-") as spool:
            for number, pgno in enumerate(changed):
                if number % UPDATE == 0:
                    self.engine.fetch_ahead(view, changed[number : number + UPDATE], self._check)
                page = bytes(self.engine.read(view, pgno, self._check))
                spool.write(self._first_page(page, view) if pgno == 1 else page)
            spool.flush()
            pages = _spooled(spool.fileno(), changed, self.page_size)
            self._replace(pages, changed, view)
            for pgno, page in _spooled(spool.fileno(), changed, self.page_size):
                self.pages.written(pgno, view.version(pgno), page)
        self.pages.forget(range(view.commit + 1, len(self.pages.have)))
        self._save(view)
        self.settled = view

    def _replace(self, pages: Iterator[tuple[int, bytes]], changed: list[int], view: View) -> None:
        """Write pages into a complete file."""
        if self.copy is None:
            with self._alone():
                self.pages.forget(changed)
                for pgno, page in pages:
                    os.pwrite(self.pages.file, page, (pgno - 1) * self.page_size)
                os.ftruncate(self.pages.file, view.commit * self.page_size)
            return
        with Rewriter(self.copy.path, self.page_size, 30.0, self._stop, self.pages.file) as rewriter:
            self.copy.check(self.pages.sums[1], self.page_size)
            held = rewriter.pages()
            rewriter.prepare(p for p in [*changed, *range(view.commit + 1, held + 1)] if p <= held)
            with self._alone():
                self.pages.forget(changed)
                rewriter.write(pages, view.commit)


class _Stopped(Exception):
    """The hydrator was closed."""


def _private_file() -> int:
    file, name = tempfile.mkstemp(prefix="vfsstream-hydrated-")
    os.unlink(name)
    return file


def _spooled(spool: int, pgnos: list[int], size: int) -> Iterator[tuple[int, bytes]]:
    for number, pgno in enumerate(pgnos):
        yield pgno, os.pread(spool, size, number * size)
