"""Hydration: the whole database brought into a local file in the background, and kept current.

Pages are fetched first and written then, each with the version it has; a reader takes a page from the file only
at exactly the version that its view wants, and looks again after the read, so it never sees a page too new, too
old or half written. The finished file is an ordinary SQLite database in rollback mode. Later transactions are
applied to it under SQLite's own locks and a rollback journal, so other programs may read it all the time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from fastcrc.crc64 import go_iso

from vfsstream.errors import DeadlineExceeded, MissingError, VfsstreamError
from vfsstream.ltx import decode_frame
from vfsstream.replica.rollback import Rewriter, patch_first_page, roll_back
from vfsstream.vfs.diskcache import identity
from vfsstream.vfs.flight import Flight
from vfsstream.vfs.ranges import MAX_GAP, ByteRange, Frame
from vfsstream.vfs.view import View

__all__ = ["Hydrator", "missing_ranges"]

logger = logging.getLogger("vfsstream.vfs")

RANGE = 4 << 20
STREAMS = 4
SAVE_EVERY = 64
"""Ranges between two writings of the state: at most 256 MiB are fetched again after a crash."""
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


def missing_ranges(view: View, have: array[int], most: int = RANGE) -> Iterator[ByteRange]:
    """The ranges that hold every page whose version in the view is not the one in ``have``."""
    import numpy

    columns = view.columns(1, view.commit)
    held = numpy.frombuffer(have, dtype=numpy.uint64)[1 : view.commit + 1]
    wanted = numpy.flatnonzero((columns.size > 0) & (columns.version != held))
    order = wanted[numpy.lexsort((columns.offset[wanted], columns.file[wanted]))]
    group: list[Frame] = []
    for start in range(0, len(order), 4096):
        part = order[start : start + 4096]
        rows = zip(*(column[part].tolist() for column in columns), strict=True)
        for pgno, row in zip((part + 1).tolist(), rows, strict=True):
            frame = Frame(pgno, *row)
            if group and not _joins(group, frame, most):
                yield _range(group)
                group = []
            group.append(frame)
    if group:
        yield _range(group)


def _joins(group: list[Frame], frame: Frame, most: int) -> bool:
    first, last = group[0], group[-1]
    near = frame.offset - last.offset - last.size <= MAX_GAP
    return frame.file == first.file and near and frame.offset + frame.size - first.offset <= most


def _range(group: list[Frame]) -> ByteRange:
    first, last = group[0], group[-1]
    return ByteRange(first.file, first.offset, last.offset + last.size - first.offset, tuple(group))


class Hydrator:
    """The local copy of one database.

    Args:
        engine: gives ranges and pages.
        view: what to fetch first; newer ones come through :meth:`follow`.
        path: where the file shall be; ``None`` = a temporary file that nobody else sees.

    Attributes:
        complete: the file holds the newest view it was told of, or held it a moment ago and is being updated.
        trouble: why it does not get on, or ``None``.
        settled: the view that the file shows to those who read it directly; ``None`` while it changes.
        direct_readers: those; whoever reads becomes active first and looks at ``settled`` then.
    """

    def __init__(self, engine: RangeGiver, view: View, path: Path | None) -> None:
        self.engine, self.path = engine, path
        self.page_size = view.page_size
        self.complete = False
        self.trouble: Exception | None = None
        self._view = view
        self._have = array("Q", bytes(8 * (view.commit + 1)))
        self._sums = array("Q", bytes(8 * (view.commit + 1)))
        self._count = 0
        self._known: dict[str, None] = {}
        self._stop, self._news = threading.Event(), threading.Event()
        self._file, self._named = -1, False
        self._idle: list[int] = []
        self.settled: View | None = None
        self.direct_readers: set[DirectReader] = set()
        self._thread = threading.Thread(target=self._run, name="vfsstream-hydrate", daemon=True)

    # Readers

    def page(self, pgno: int, version: int) -> bytes | None:
        """The page at exactly this version, or ``None``."""
        have, file = self._have, self._file
        if file < 0 or pgno >= len(have) or have[pgno] != version:
            return None
        try:
            page = os.pread(file, self.page_size, (pgno - 1) * self.page_size)
        except OSError:
            return None
        return page if have[pgno] == version and len(page) == self.page_size else None

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
        percent = 100.0 if self.complete else min(99.9, 100.0 * self._count / total)
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
        file, self._file = self._file, -1
        for descriptor in [*self._idle, file]:
            if descriptor >= 0:
                os.close(descriptor)
        self._idle = []

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    # The thread

    def _run(self) -> None:
        try:
            self._prepare()
            self._fill()
            while not self._stop.is_set():
                self._news.wait()
                self._news.clear()
                self._check()
                self._update()
        except _Stopped:
            with contextlib.suppress(OSError):
                self._save()
        except Exception as error:
            self.trouble = error

    def _prepare(self) -> None:
        """Find out what is here already; a file that another process keeps current is left to it."""
        if self.path is None:
            self._make_private()
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        source = self.path if self.path.exists() else self._partial
        if not self._open(source):
            return
        if source == self.path and self.path.with_name(self.path.name + "-journal").exists():
            roll_back(self.path)
        if self._resume(source):
            self._named = source == self.path
            self._verify()
        elif source == self._partial or self._open(self._partial):
            os.ftruncate(self._file, 0)

    def _make_private(self) -> None:
        self._file, name = tempfile.mkstemp(prefix="vfsstream-hydrated-")
        os.unlink(name)

    def _open(self, path: Path) -> bool:
        """Open a file and own it; ``False``: it is another's, and a private one is open instead."""
        # Closing a descriptor would drop the locks that SQLite holds on the file in this process: it waits for the end.
        self._idle += [self._file] if self._file >= 0 else []
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        if _own(self._file):
            return True
        logger.warning("%s is kept current by another reader: hydrating a file of our own", self.path)
        self._idle.append(self._file)
        self.path = None
        self._make_private()
        return False

    @property
    def _partial(self) -> Path:
        assert self.path is not None
        return self.path.with_name(self.path.name + "-partial")

    @property
    def _state(self) -> Path:
        assert self.path is not None
        return self.path.with_name(self.path.name + "-state")

    def _resume(self, source: Path) -> bool:
        """Read the state that belongs to a file of this history; without one, begin anew."""
        try:
            head, _, body = self._state.read_bytes().partition(b"\n")
            state = json.loads(head)
            pages = int(state["pages"])
            fits = (
                state["page_size"] == self.page_size
                and state["checksum"] == go_iso(body)
                and len(body) == 16 * (pages + 1)
                and source.is_file()
                and not {identity(info) for info in self._view.files}.isdisjoint(state["files"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if not fits:
            return False
        self._have, self._sums = array("Q", body[: len(body) // 2]), array("Q", body[len(body) // 2 :])
        self._known = dict.fromkeys(state["files"])
        return True

    def _verify(self) -> None:
        """What the state promises must be in the file; damaged pages count as absent."""
        have, self._have = self._have, array("Q", bytes(len(self._have) * 8))
        for pgno in range(1, len(have)):
            if have[pgno]:
                self._check()
                page = os.pread(self._file, self.page_size, (pgno - 1) * self.page_size)
                if len(page) == self.page_size and go_iso(page) == self._sums[pgno]:
                    self._have[pgno] = have[pgno]
                    self._count += 1

    def _save(self) -> None:
        if self.path is None or self._file < 0:
            return
        os.fsync(self._file)
        self._known.update(dict.fromkeys(identity(info) for info in self._view.files))
        body = self._have.tobytes() + self._sums.tobytes()
        state: dict[str, Any] = {
            "pages": len(self._have) - 1,
            "page_size": self.page_size,
            "checksum": go_iso(body),
        }
        state["files"] = list(self._known)[-4096:]
        temporary = self._state.with_name(self._state.name + "-new")
        temporary.write_bytes(json.dumps(state).encode() + b"\n" + body)
        os.replace(temporary, self._state)

    def _resize(self, commit: int) -> None:
        for name in ("_have", "_sums"):
            old = getattr(self, name)
            if len(old) <= commit:
                setattr(self, name, array("Q", old.tobytes() + bytes(8 * (commit + 1 - len(old)))))

    def _fill(self) -> None:
        """Fetch everything, then everything that changed meanwhile, until nothing is missing."""
        if self._named:
            self._update()
            self.complete = True
            return
        number = 0
        while True:
            view = self._view
            self._resize(view.commit)
            flights: list[tuple[Flight, ByteRange]] = []
            ranges = missing_ranges(view, self._have)
            found = False
            for wanted in ranges:
                found = True
                flights.append((self.engine.begin_range(view, wanted), wanted))
                if len(flights) >= STREAMS:
                    self._take(view, *flights.pop(0))
                    number += 1
                    if number % SAVE_EVERY == 0:
                        self._save()
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

    def _write(self, first: int, run: Sequence[tuple[int, bytes]]) -> None:
        for number, _ in enumerate(run, first):
            self._have[number] = 0
        os.pwrite(self._file, b"".join(page for _, page in run), (first - 1) * self.page_size)
        for number, (version, page) in enumerate(run, first):
            self._sums[number] = go_iso(page)
            self._have[number] = version
        self._count += len(run)

    def _finish(self, view: View) -> None:
        """Make the file a database of its own, and give it its name."""
        version, self._have[1] = self._have[1], 0
        page = os.pread(self._file, self.page_size, 0)
        page = patch_first_page(page, view.txid, view.commit)
        os.pwrite(self._file, page, 0)
        os.ftruncate(self._file, view.commit * self.page_size)
        self._sums[1], self._have[1] = go_iso(page), version
        self._save()
        if self.path is not None and self._partial.exists():
            os.replace(self._partial, self.path)
        self.settled = view
        self.complete = True

    def _update(self) -> None:
        """Bring a complete file to the newest view, all or nothing for those who read it elsewhere."""
        while True:
            view = self._view
            self._resize(view.commit)
            changed = [frame.pgno for wanted in missing_ranges(view, self._have) for frame in wanted.frames]
            self._check()
            settled = self.settled
            if settled is not None and not changed and settled.txid == view.txid:
                self.settled = view  # pages moved to other files, their contents are the same
                return
            try:
                self._apply(view, sorted({1, *changed}))
            except (MissingError, VfsstreamError) as error:
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
                spool.write(patch_first_page(page, view.txid, view.commit) if pgno == 1 else page)
            spool.flush()
            pages = _spooled(spool.fileno(), changed, self.page_size)
            for pgno in changed:
                self._have[pgno] = 0
            if self.path is None:
                for pgno, page in pages:
                    os.pwrite(self._file, page, (pgno - 1) * self.page_size)
                os.ftruncate(self._file, view.commit * self.page_size)
            else:
                with Rewriter(self.path, self.page_size, 30.0, self._stop, self._file) as rewriter:
                    held = rewriter.pages()
                    rewriter.prepare(p for p in [*changed, *range(view.commit + 1, held + 1)] if p <= held)
                    with self._alone():
                        rewriter.write(pages, view.commit)
            for pgno, page in _spooled(spool.fileno(), changed, self.page_size):
                self._sums[pgno], self._have[pgno] = go_iso(page), view.version(pgno)
        for pgno in range(view.commit + 1, len(self._have)):
            self._have[pgno] = 0
        if self.path is not None:
            self._save()
        self.settled = view


def _own(file: int) -> bool:
    """Take the lock that says who keeps a file current; it ends with the process. SQLite knows nothing of it."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class _Stopped(Exception):
    """The hydrator was closed."""


def _spooled(spool: int, pgnos: list[int], size: int) -> Iterator[tuple[int, bytes]]:
    for number, pgno in enumerate(pgnos):
        yield pgno, os.pread(spool, size, number * size)
