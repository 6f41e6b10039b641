"""The thread that keeps a database at the newest view."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vfsstream.errors import AccessDenied, CorruptError, DeadlineExceeded, NotFound, VfsstreamError
from vfsstream.ltx.header import HEADER_SIZE
from vfsstream.ltx.names import LEVELS, TXID
from vfsstream.plan.files import FileInfo
from vfsstream.vfs.follow import (
    Pace,
    another_history,
    bridge,
    due_levels,
    poll_interval,
    probe_due,
    stall_pause,
)
from vfsstream.vfs.opening import WHOLE, LoadedFile, load_file, load_whole, read_plan_files
from vfsstream.vfs.pagemap import advance, files_in_use
from vfsstream.vfs.planning import incoming, open_view, yield_now

if TYPE_CHECKING:
    from vfsstream.vfs.database import Database

__all__ = ["Follower"]

logger = logging.getLogger("vfsstream.vfs")

CLOSES = "a snapshot, or a compacted file over the missing transactions, will close the gap"
SLEEP_GAP = 30.0
"""The process was suspended for longer than this: level 0 may have been pruned meanwhile, so list first."""
START = 1.0
"""Seconds that a fork waits, at most, for a thread that has just been started."""


@dataclass(slots=True)
class Gap:
    """No file continues the view, but later ones exist.

    Attributes:
        txid: of the view that cannot go on.
        text: what is missing.
        tries: listings that did not close it.
        due: monotonic time of the next one.
    """

    txid: int
    text: str
    tries: int
    due: float


class Follower:
    """Polls for the next transaction, lists now and then, and publishes views.

    Attributes:
        last_success: monotonic time of the last look that worked.
        last_error: text of the failure since, or ``None``.
    """

    def __init__(self, database: Database, files: Mapping[int, Sequence[FileInfo]]) -> None:
        options = database.options
        self._database = database
        self._replica = database.replica
        self._pace = Pace(
            options.poll_interval, options.max_poll_interval or options.poll_interval, options.relist_interval
        )
        self._predict = database.replica.store.capabilities.cheap_miss
        self.last_success = time.monotonic()
        self.last_error: str | None = None
        self._count = {"polls": 0, "listings": 0, "updates": 0, "failures": 0, "gaps": 0, "restarts": 0}
        self._quiet = 0
        self._active = False
        self._suspect: str | None = None
        self._gap: Gap | None = None
        self._listed = dict.fromkeys(LEVELS, time.monotonic())
        self._seen = {level: max((info.max_txid for info in files[level]), default=0) for level in files}
        self._logged: dict[str, float] = {}
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._stopping = False
        self._state = threading.Condition()  # guards _wanted, _full, _done
        self._wanted = self._done = 0
        self._full = False
        self._wake = threading.Event()
        self._unwatch: Callable[[], None] | None = None
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vfsstream-follower", daemon=True)
        self._thread.start()

    def before_fork(self) -> None:
        """Wait until the thread has loaded what it needs: a module half imported here stays locked in the child."""
        self._running.wait(START)

    def after_fork(self) -> None:
        """Start the thread anew in a child process."""
        self._start()

    def hurry(self, age: float) -> None:
        """What is current was found ``age`` seconds ago: list everything at once, without waiting for it."""
        self.last_success = time.monotonic() - age
        with self._state:
            self._full = True
        self._wake.set()

    def refresh(self, check: Callable[[], None], full: bool = False, seconds: float | None = None) -> None:
        """Look for news now and wait until that is done.

        Args:
            full: list every level.

        Raises:
            DeadlineExceeded: the look takes longer than ``seconds`` (by default the database's deadline).
            VfsstreamError: the look failed.
        """
        limit = self._database.options.deadline if seconds is None else seconds
        end = time.monotonic() + limit
        with self._state:
            self._wanted += 1
            ticket = self._wanted
            self._full |= full
        self._wake.set()
        while True:
            with self._state:
                if self._done >= ticket or self._stopping:
                    break
                self._state.wait(0.05)
            check()
            if time.monotonic() > end:
                raise DeadlineExceeded(
                    f"{self._replica.describe()}: no answer within {limit:g} s"
                    + (f"; last failure: {self.last_error}" if self.last_error else "")
                )

    def close(self) -> None:
        """Stop. A request under way is left to end by itself."""
        self._stopping = True
        self._wake.set()
        if self._pid == os.getpid() and self._thread is not threading.current_thread():
            self._thread.join(0.2)

    def stats(self) -> dict[str, object]:
        """Counters and the state of the last look."""
        return {
            **self._count,
            "lag": time.monotonic() - self.last_success,
            "last_error": self.last_error,
            "stalled": None if self._gap is None else self._gap.text,
        }

    # The thread.

    def _run(self) -> None:
        self._watch()
        self._running.set()
        last = time.monotonic()
        while not self._stopping:
            pause = poll_interval(self._pace, self._quiet)
            self._wake.wait(max(0.0, last + pause - time.monotonic()))
            if self._stopping:
                break
            self._wake.clear()
            with self._state:
                ticket, full, self._full = self._wanted, self._full, False
            slept = time.monotonic() - last
            last = time.monotonic()
            # After a sleep or an outage level 0 may have been pruned: only a listing tells what is there.
            unseen = max(slept, last - self.last_success)
            self._look(full or unseen > self._pace.max_interval + SLEEP_GAP)
            with self._state:
                self._done = ticket
                self._state.notify_all()
        if self._unwatch is not None:
            with contextlib.suppress(Exception):
                self._unwatch()

    def _watch(self) -> None:
        if self._replica.store.capabilities.can_watch:
            try:
                self._unwatch = self._replica.watch(0, self._wake.set)
            except (VfsstreamError, NotImplementedError, OSError) as error:
                self._log(f"cannot watch {self._replica.describe()}: {error}")

    def _look(self, full: bool) -> None:
        before = self._database.current.view.txid
        self._count["polls"] += 1
        try:
            self._step(full)
        except Exception as error:  # the thread must survive whatever a store's package raises
            self._count["failures"] += 1
            self.last_error = str(error) or type(error).__name__
            self._log(f"cannot look for new transactions of {self._replica.describe()}: {self.last_error}")
        else:
            self.last_success = time.monotonic()
            self.last_error = None
        moved = self._database.current.view.txid != before
        self._quiet = 0 if moved else self._quiet + 1
        self._active |= moved

    def _log(self, text: str) -> None:
        """Once a minute for each text: a server that is down must not fill the log."""
        now = time.monotonic()
        if now - self._logged.get(text, -60.0) >= 60.0:
            if len(self._logged) > 100:
                self._logged.clear()
            self._logged[text] = now
            logger.warning(text)

    def _step(self, full: bool) -> None:
        due = list(LEVELS) if full else due_levels(self._pace, time.monotonic(), self._listed, self._active)
        if full:
            self._relist()
            return
        self._next(listing=0 in due)
        for level in due:
            if level > 0:
                self._list_compacted(level)
        self._look_at_gap()

    def _next(self, *, listing: bool) -> None:
        """Follow level 0."""
        if self._predict and not listing:
            self._follow_by_name()
        else:
            self._list_next()

    def _follow_by_name(self) -> None:
        moved = False
        while not self._stopping and self._predicted():
            moved = True
        if not moved and self._gap is None and probe_due(self._quiet + 1) and self._is_there(2):
            self._count["gaps"] += 1
            self._relist()

    def _is_there(self, ahead: int) -> bool:
        """Whether a transaction so far ahead has a file of its own."""
        txid = TXID(self._database.current.view.txid + ahead)
        try:
            self._replica.fetch(FileInfo(txid, txid, 0, 0), 0, HEADER_SIZE)
        except (NotFound, AccessDenied):
            return False
        return True

    def _look_at_gap(self) -> None:
        """A look that cannot go on is no success: the lag grows, and the reason is told."""
        gap = self._gap
        if gap is None:
            return
        if self._database.current.view.txid != gap.txid:
            self._gap = None
        elif time.monotonic() >= gap.due:
            self._relist()
        else:
            raise CorruptError(gap.text, hint=CLOSES)

    def _predicted(self) -> bool:
        """Ask for the file of the next transaction by name."""
        txid = TXID(self._database.current.view.txid + 1)
        wanted = FileInfo(txid, txid, 0, 0)
        try:
            answer = self._replica.fetch(wanted, 0, WHOLE)
        except (NotFound, AccessDenied):
            # Where listing is not permitted S3 answers 403 for a missing key; the next listing tells the truth.
            return False
        size = answer.total_size or len(answer.data)
        info = FileInfo(txid, txid, 0, size)
        if size == len(answer.data):
            self._apply(load_whole(self._replica, info, answer.data))
        else:
            self._apply(load_file(self._replica, info))
        return True

    def _apply(self, loaded: LoadedFile) -> None:
        view = advance(self._database.current.view, incoming(loaded), yield_now)
        self._count["updates"] += 1
        level = loaded.info.level
        self._seen[level] = max(self._seen.get(level, 0), loaded.info.max_txid)
        self._database.publish(view, loaded)

    def _list(self, level: int, start: int) -> list[FileInfo]:
        self._count["listings"] += 1
        files = list(self._replica.files(level, start))
        self._listed[level] = time.monotonic()
        return files

    def _list_next(self) -> None:
        """List level 0 from the next transaction on; close a gap through the other levels."""
        for info in self._list(0, self._database.current.view.txid + 1):
            txid = self._database.current.view.txid
            if info.min_txid > txid + 1:
                self._count["gaps"] += 1
                self._relist()
                return
            if info.max_txid > txid:
                self._apply(load_file(self._replica, info))

    def _list_compacted(self, level: int) -> None:
        """Find pages in compacted files before the files where they lie now are removed."""
        if level == 1:
            self._active = False
        start = 1 if level == LEVELS[-1] else self._seen.get(level, 0) + 1
        files = [info for info in self._list(level, start) if info.max_txid > self._seen.get(level, 0)]
        if level == LEVELS[-1]:
            files = files[-1:]
        if files and files[-1].max_txid > self._database.current.view.txid:
            # Transactions one by one first: in a compacted file every page counts as changed up to its end.
            self._next(listing=False)
        for info in files:
            if info.min_txid > self._database.current.view.txid + 1:
                self._relist()
                return
            self._apply(load_file(self._replica, info))

    def _relist(self) -> None:
        """List everything; follow by whatever files connect; notice that the replica was made anew."""
        self._count["listings"] += len(LEVELS)
        files = self._replica.all_files()
        self._listed = dict.fromkeys(LEVELS, time.monotonic())
        view = self._database.current.view
        reason = another_history(files, list(files_in_use(view)), view.txid)
        if reason is not None:
            self._restart(reason)
            return
        self._suspect = None
        plan = bridge(files, view.txid, sparing=True)
        for loaded in read_plan_files(self._replica, plan) if plan else []:
            self._apply(loaded)
        self._repoint(files)
        self._check_reached(files)

    def _repoint(self, files: Mapping[int, Sequence[FileInfo]]) -> None:
        """Leave the files that are gone: read the compacted files that hold the same pages."""
        there = {(info.level, info.min_txid, info.max_txid) for level in files.values() for info in level}
        view = self._database.current.view
        lost = [info for info in files_in_use(view) if (info.level, info.min_txid, info.max_txid) not in there]
        if not lost:
            return
        start = min(info.min_txid for info in lost) - 1
        within = {
            level: [info for info in listed if info.max_txid <= view.txid] for level, listed in files.items()
        }
        for loaded in read_plan_files(self._replica, bridge(within, start)):
            self._apply(loaded)

    def _check_reached(self, files: Mapping[int, Sequence[FileInfo]]) -> None:
        txid = self._database.current.view.txid
        beyond = [info for level in files.values() for info in level if info.min_txid > txid + 1]
        if not beyond:
            self._gap = None
            return
        tries = self._gap.tries + 1 if self._gap is not None and self._gap.txid == txid else 0
        text = f"{self._replica.describe()}: no file continues TXID {txid}, the next is {min(beyond)}"
        self._gap = Gap(txid, text, tries, time.monotonic() + stall_pause(self._pace, tries))
        raise CorruptError(text, hint=CLOSES)

    def _restart(self, reason: str) -> None:
        """A listing may lag behind on some stores: believe it only when it says so twice."""
        if self._suspect is None:
            self._suspect = reason
            return
        self._suspect = None
        self._count["restarts"] += 1
        logger.warning("%s is another database now: %s", self._replica.describe(), reason)
        generation = self._database.current.view.generation + 1
        opened = open_view(self._replica, generation=generation)
        self._seen = {
            level: max((info.max_txid for info in found), default=0) for level, found in opened.files.items()
        }
        self._gap = None
        self._database.restart(opened)
