"""The local half of a replicated database: capture into local files, checkpoints, snapshots. Needs no replica."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from vfsstream.errors import DatabaseError, DiskFull, VfsstreamError
from vfsstream.ltx import Header
from vfsstream.ltx.names import TXID
from vfsstream.replicate import events
from vfsstream.replicate.backoff import Backoff, Pace
from vfsstream.replicate.capture import Capture
from vfsstream.replicate.checkpoint import Pacing, Situation, checkpoint, is_due
from vfsstream.replicate.directorytime import Mark, directory_of
from vfsstream.replicate.events import CheckpointResult, Observer
from vfsstream.replicate.image import Pages
from vfsstream.replicate.localfiles import LocalFiles, disk_errors, meta_path_for
from vfsstream.replicate.publish import Written
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.source import Source
from vfsstream.replicate.status import Lag
from vfsstream.replicate.walindex import IndexHeader

__all__ = ["LocalDatabase"]

_LOOK_ANYWAY = 30.0  # seconds; a directory of a foreign file system may keep its time although an entry changed


class LocalDatabase:
    """A database whose commits become local level-0 files. Every method is thread-safe.

    Args:
        path: of the database; it need not exist yet.
        meta_dir: where local files are kept; by default Litestream's place beside the database.
        observer: is told every event, in the thread that did the work.
        at_point: is told each step by name, so that a test can stop the world there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        settings: Settings | None = None,
        meta_dir: Path | None = None,
        observer: Observer | None = None,
        at_point: Callable[[str], None] = lambda point: None,
    ) -> None:
        self.path = Path(path).absolute()
        self.settings = settings = settings or Settings()
        self.meta_dir = meta_dir or meta_path_for(self.path)
        self.local = LocalFiles(self.meta_dir, self.path)
        self._observer, self._at_point = observer, at_point
        self._capture_lock = threading.RLock()
        self._streams = 0  # snapshots being read; guarded by _capture_lock
        self._generation = 0  # of the open source; guarded by _capture_lock
        self._source: Source | None = None
        self._capture: Capture | None = None
        self._is_open = False
        self._seen = b""
        self._lag = Lag()
        first, longest = settings.monitor_interval.total_seconds(), settings.max_backoff.total_seconds()
        self._sync_backoff = Backoff(first, longest)
        self._pace = Pace(settings.sync_interval.total_seconds(), settings.sync_burst)
        self._pacing = Pacing()
        self._next_look = 0.0
        self._neighbours = directory_of(self.path)
        self._mark: Mark | None = None
        self._look_anyway = 0.0
        self._quiet_until = 0.0  # no checkpoint becomes due before this, unless frames come
        self._last_checkpoint = time.monotonic()
        self._sync_error: VfsstreamError | None = None
        self._last_sync_at: datetime | None = None
        self._checkpoints, self._longest_stall = 0, 0.0
        self._stalled = False
        self._position = TXID(0)

    def _open_local(self) -> None:
        """Take the lock of the meta directory."""
        with disk_errors("open", self.path):
            if self.path.is_dir():
                raise DatabaseError(f"{self.path} is a directory, not a database")
            if self.path.exists() and not os.access(self.path, os.R_OK | os.W_OK):
                raise DatabaseError(f"{self.path} is not readable and writable for this user")
            if not self.path.parent.is_dir():
                raise DatabaseError(f"directory {self.path.parent} does not exist")
        self.local.prepare()
        self.local.lock()
        self._position = self.local.highest()
        self._last_checkpoint = time.monotonic()

    def _close_local(self) -> None:
        self._is_open = False
        self._drop_source()
        self.local.unlock()

    @property
    def log_path(self) -> str | None:
        """The write-ahead log; ``None`` while the database is not open."""
        source = self._source
        return str(source.log_path) if source is not None else None

    def has_news(self) -> bool:
        """Whether something was committed that is not captured. Costs tens of nanoseconds and no system call."""
        source = self._source
        try:
            return source is not None and source.look() != self._seen
        except (ValueError, AssertionError):  # closed this moment
            return False

    def poll_capture(self, *, thorough: bool = False) -> bool:
        """Whether :meth:`step_capture` has something to do now.

        Args:
            thorough: look for exchanged files and due checkpoints too, which else is done once in a while.
        """
        now = time.monotonic()
        if self.has_news():
            self._lag.saw_change(now)
            return (self._pace.ready(now) or now >= self._next_look) and self._sync_backoff.ready(now)
        if not thorough and now < self._next_look:
            return False
        if self._is_quiet(now):
            self._next_look = now + self.settings.monitor_interval.total_seconds()
            self._last_sync_at = datetime.now(UTC)
            return False
        return self._sync_backoff.ready(now)

    def held_back(self, now: float) -> float:
        """Seconds for which news has to wait for its pace, or for the pause after an error."""
        return max(min(self._pace.wait(now), self._next_look - now), self._sync_backoff.wait(now), 0.0)

    def _is_quiet(self, now: float) -> bool:
        """The thorough look of an idle database, cheap enough for whoever polls: no lock, mostly no system call.

        No frame came, no checkpoint became due, and nobody exchanged a file.
        """
        source = self._source
        if source is None or now >= self._quiet_until or self._sync_backoff.failures:
            return False
        try:
            return source.look() == self._seen and self._is_untouched(source, now)
        except (OSError, ValueError, AssertionError):  # closed this moment
            return False

    def _is_untouched(self, source: Source, now: float) -> bool:
        mark = self._neighbours.mark(now)
        if mark is not None and mark == self._mark and now < self._look_anyway:
            return True
        if source.changed_underneath() is not None:
            return False
        self._mark, self._look_anyway = mark, now + _LOOK_ANYWAY
        return True

    def step_capture(self) -> None:
        """Capture what is committed, and checkpoint if it is time. Returns at once if another thread is at it."""
        if not self._capture_lock.acquire(blocking=False):
            return
        try:
            if self._is_open:
                self._capture_and_checkpoint()
        finally:
            self._capture_lock.release()
        self._judge_stall()

    def _capture_and_checkpoint(self) -> None:
        now = time.monotonic()
        self._next_look = now + self.settings.monitor_interval.total_seconds()
        try:
            self._sync_all()
            self._checkpoint_if_due()
        except VfsstreamError as error:
            self._sync_failed(error)
            return
        except OSError as error:
            self._sync_failed(DatabaseError(f"cannot capture {self.path}: {error.strerror or error}"))
            return
        failures = self._sync_backoff.succeeded()
        self._sync_error = None
        if failures:
            self._emit(events.Recovered(str(self.path), events.now(), "sync", failures))

    def _sync_failed(self, error: VfsstreamError) -> None:
        self._sync_error = error
        self._sync_backoff.failed(time.monotonic())
        if self._sync_backoff.failures >= 3 and isinstance(error, DiskFull):
            self.local.remove_temporary()
        self._emit(events.SyncFailed(str(self.path), events.now(), error, self._sync_backoff.failures))

    def watch(self) -> None:
        """Report a stall, or its end, as an event. Called now and then by whoever does not do the work."""
        self.poll_capture()
        self._judge_stall()

    def _judge_stall(self) -> None:
        seconds = self._lag.seconds(time.monotonic())
        stalled = seconds > self.settings.stall_after.total_seconds()
        if stalled and not self._stalled:
            self._emit(events.Stalled(str(self.path), events.now(), seconds, self._whereabouts()))
        elif self._stalled and not stalled:
            self._emit(events.StallEnded(str(self.path), events.now()))
        self._stalled = stalled

    def _whereabouts(self) -> str:
        return f"captured up to {self._position}"

    def _file_written(self, written: Written) -> None:
        """A local file was published by this process."""

    # --- capture --------------------------------------------------------------------------------------------

    def sync(self) -> TXID:
        """Capture everything committed now into local files; returns the position.

        Raises:
            DatabaseError, DiskFull: nothing was lost; try again.
        """
        with self._capture_lock:
            if not self._is_open:
                raise DatabaseError(f"{self.path} is not open")
            try:
                self._sync_all()
            except VfsstreamError as error:
                self._sync_failed(error)
                raise
            self._sync_error = None
            self._sync_backoff.succeeded()
            return self._position

    def _ready(self) -> Capture | None:
        """The capture of the file that is there now; ``None`` while there is none."""
        if self._source is not None and (reason := self._source.changed_underneath()) is not None:
            self._drop_source()
            self._emit(events.FullImage(str(self.path), events.now(), self._position, reason))
        if self._capture is not None:
            return self._capture
        if not self.path.exists():
            return None
        source = Source(self.path, self.settings.busy_timeout)
        try:
            capture = Capture(source, self.local, fingerprints=self.settings.fingerprints, at_point=self._at_point)
        except BaseException:
            source.close()
            raise
        self._source, self._capture = source, capture
        self._position = max(self._position, capture.position)
        capture.position = self._position
        return capture

    def _drop_source(self) -> None:
        source, self._source, self._capture = self._source, None, None
        self._quiet_until, self._mark = 0.0, None
        self._generation += 1
        if source is not None:
            source.close()

    def _sync_all(self) -> None:
        capture = self._ready()
        if capture is None or self._source is None:
            return
        goal: IndexHeader | None = None
        while True:
            seen = self._source.look()
            written = capture.step(self.settings.max_sync_wal_bytes)
            if written is not None:
                self._note(written)
            if written is None or written.complete:
                self._seen = seen
                if written is None:
                    self._lag.nothing_left()
                break
            goal = goal or self._source.index()
            if capture.covers(goal):
                break  # the rest came meanwhile: whoever writes all the time must not keep checkpoints away
        self._last_sync_at = datetime.now(UTC)

    def _note(self, written: Written) -> None:
        now = time.monotonic()
        self._position = written.txid
        self._quiet_until = 0.0
        self._pace.take(now)
        self._lag.captured(written.txid, now, complete=written.complete)
        self._file_written(written)
        path, at = str(self.path), events.now()
        if written.reason is not None:
            self._emit(events.FullImage(path, at, written.txid, written.reason))
        self._emit(
            events.Synced(
                path, at, written.txid, written.pages, written.commit, written.size, written.full, written.seconds
            )
        )

    # --- checkpoints ----------------------------------------------------------------------------------------

    def _checkpoint_if_due(self) -> None:
        capture, source, now = self._capture, self._source, time.monotonic()
        if capture is None or source is None or capture.captured is None or self._streams:
            return
        index = source.index()
        same_lap = index.salts == capture.captured.salts
        uncopied = same_lap and index.backfilled < index.max_frame
        situation = Situation(
            capture.captured.end, capture.captured.page_size, uncopied, now - self._last_checkpoint
        )  # fmt: skip
        why = is_due(situation, self.settings)
        if why is None:
            interval = self.settings.checkpoint_interval.total_seconds()
            self._quiet_until = self._last_checkpoint + interval if uncopied and interval > 0 else float("inf")
        if why is not None and self._pacing.allows(now):
            self._run_checkpoint(capture, source, wait=why == "emergency")

    def checkpoint(self, *, wait_for_readers: bool = False) -> CheckpointResult:
        """Copy the log into the database now.

        Args:
            wait_for_readers: up to the busy timeout, and truncate the log afterwards.

        Raises:
            DatabaseError: the database is away, locked, or a snapshot is being read.
        """
        with self._capture_lock:
            self._sync_all()
            if self._capture is None or self._source is None:
                raise DatabaseError(f"{self.path} does not exist")
            if self._streams:
                raise DatabaseError(f"{self.path}: a snapshot is being read, try again later")
            return self._run_checkpoint(self._capture, self._source, wait=wait_for_readers)

    def _run_checkpoint(self, capture: Capture, source: Source, *, wait: bool) -> CheckpointResult:
        try:
            result, written = checkpoint(source, capture, self.settings, wait_for_readers=wait)
        except BaseException as error:
            # Whether the read transaction was held without a break is unknown now: begin anew from what is on disk.
            self._drop_source()
            self._pacing.record(time.monotonic(), b"", complete=False)
            if isinstance(error, Exception):
                self._emit(events.CheckpointFailed(str(self.path), events.now(), error, wait))
            raise
        for one in written:
            self._note(one)
        now = time.monotonic()
        self._last_checkpoint = now
        assert capture.captured is not None
        self._pacing.record(now, capture.captured.salts, complete=result.complete)
        self._checkpoints += 1
        self._longest_stall = max(self._longest_stall, result.stall_seconds)
        self._emit(events.Checkpointed(str(self.path), events.now(), result))
        return result

    # --- snapshots ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def snapshot_pages(self) -> Iterator[tuple[Header, Pages]]:
        """Header and pages of a snapshot at the position, read from the live database while capture goes on.

        Raises:
            DatabaseError: there is no database, or it was replaced while it was read.
        """
        with self._capture_lock:
            self._sync_all()
            if self._capture is None or self._capture.captured is None:
                raise DatabaseError(f"{self.path} does not exist")
            generation = self._generation
            image = self._capture.image()
            self._streams += 1
        try:
            with image:
                yield image.header, self._while_generation(image.pages, generation)
        finally:
            with self._capture_lock:
                self._streams -= 1

    def _while_generation(self, pages: Pages, generation: int) -> Pages:
        yield from pages
        if self._generation != generation:
            raise DatabaseError(f"{self.path} was replaced or closed while a snapshot was read")

    def _rebase(self, above: TXID, reason: str, newest: Path | None = None) -> None:
        with self._capture_lock:
            old = self._position
            capture = self._ready()
            if capture is None:
                self.local.delete(list(self.local.txids()))
            else:
                capture.rebase(above, newest)
            self._position = above
            self._seen = b""
            self._next_look = 0.0
            self._emit(events.Rebased(str(self.path), events.now(), old, above, reason))

    # --- looking --------------------------------------------------------------------------------------------

    @property
    def position(self) -> TXID:
        """TXID of the newest local file."""
        return self._position

    @property
    def page_size(self) -> int | None:
        """Bytes; ``None`` while the database was not seen."""
        source = self._source
        return source.page_size if source is not None else None

    def _emit(self, event: events.Event) -> None:
        if self._observer is not None:
            self._observer(event)
