"""One replicated database: capture, checkpoints and upload behind one object that any thread may use."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from vfsstream.errors import (
    ConflictError,
    DatabaseError,
    DeadlineExceeded,
    DiskFull,
    Interrupted,
    LtxError,
    StoreError,
    VfsstreamError,
)
from vfsstream.ltx import Header
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica
from vfsstream.replicate import events
from vfsstream.replicate.backoff import Backoff, Pace
from vfsstream.replicate.capture import Capture, Written
from vfsstream.replicate.checkpoint import Pacing, Situation, checkpoint, is_due
from vfsstream.replicate.events import CheckpointResult, Observer
from vfsstream.replicate.image import Pages
from vfsstream.replicate.lease import Lease
from vfsstream.replicate.localfiles import LocalFiles, meta_path_for
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.source import Source
from vfsstream.replicate.status import CloseResult, DatabaseStatus, Lag
from vfsstream.replicate.upload import Uploader

__all__ = ["Database"]


class Database:
    """A database and its replica. Has no threads of its own; every method is thread-safe.

    Args:
        path: of the database; it need not exist yet.
        replica: an object or a URL. A URL's replica is closed with the database.
        meta_dir: where local files are kept; by default Litestream's place beside the database.
        observer: is told every event, in the thread that did the work.
        at_point: is told each step by name, so that a test can stop the world there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        replica: Replica | str,
        *,
        settings: Settings | None = None,
        meta_dir: Path | None = None,
        observer: Observer | None = None,
        at_point: Callable[[str], None] = lambda point: None,
    ) -> None:
        self.path = Path(path).absolute()
        self._owns_replica = isinstance(replica, str)
        self.replica = Replica.open(replica) if isinstance(replica, str) else replica
        self.settings = settings = settings or Settings()
        self.meta_dir = meta_dir or meta_path_for(self.path)
        self.local = LocalFiles(self.meta_dir, self.path)
        self._observer, self._at_point = observer, at_point
        self._capture_lock, self._upload_lock = threading.RLock(), threading.RLock()
        self._streams = 0  # snapshots being read; guarded by _capture_lock
        self._generation = 0  # of the open source; guarded by _capture_lock
        self._source: Source | None = None
        self._capture: Capture | None = None
        self._is_open = False
        self._seen = b""
        self._lag = Lag()
        first, longest = settings.monitor_interval.total_seconds(), settings.max_backoff.total_seconds()
        self._sync_backoff = Backoff(first, longest)
        self._upload_backoff = Backoff(settings.sync_interval.total_seconds(), longest)
        self._pace = Pace(settings.sync_interval.total_seconds(), settings.sync_burst)
        self._pacing = Pacing()
        self._next_look = 0.0
        self._last_checkpoint = time.monotonic()
        self._dirty = False
        self._sync_error: VfsstreamError | None = None
        self._upload_error: VfsstreamError | None = None
        self._last_sync_at: datetime | None = None
        self._last_upload_at: datetime | None = None
        self._checkpoints, self._longest_stall = 0, 0.0
        self._stalled = False
        self._uploader: Uploader | None = None
        self._position = TXID(0)

    # --- life -----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the lock of the meta directory and start. The remote is not contacted.

        Raises:
            DatabaseError: another process replicates this database, or its files cannot be used.
        """
        with self._capture_lock:
            if self._is_open:
                return
            if self.path.is_dir():
                raise DatabaseError(f"{self.path} is a directory, not a database")
            if self.path.exists() and not os.access(self.path, os.R_OK | os.W_OK):
                raise DatabaseError(f"{self.path} is not readable and writable for this user")
            if not self.path.parent.is_dir():
                raise DatabaseError(f"directory {self.path.parent} does not exist")
            self.local.prepare()
            self.local.lock()
            try:
                self._position = self.local.highest()
                self._uploader = self._new_uploader()
            except BaseException:
                self.local.unlock()
                raise
            self._is_open = True
            self._last_checkpoint = time.monotonic()

    def _new_uploader(self) -> Uploader:
        settings, lease = self.settings, None
        if settings.lease and self.replica.store.capabilities.can_put_if_absent:
            memory = self.local.own / "lease.json"
            lease = Lease(self.replica.store, memory, settings.lease_owner, settings.lease_ttl)
        return Uploader(
            self.replica,
            self.local,
            concurrency=settings.upload_concurrency,
            lease=lease,
            take_over=settings.fork == "take-over",
            rebase=self._rebase,
            uploaded=self._on_uploaded,
            at_point=self._at_point,
        )

    def interrupt(self) -> None:
        """Make uploads and a close give up at once."""
        if self._uploader is not None:
            self._uploader.interrupted.set()

    def close(self, deadline: float | None = None) -> CloseResult:
        """Capture and upload the rest, then release everything. Never raises for operational errors.

        Args:
            deadline: a value of ``time.monotonic()``; by default the shutdown timeout from now.
        """
        if not self._is_open:
            return CloseResult(True, self._position, self.replica_position)
        if deadline is None:
            deadline = time.monotonic() + self.settings.shutdown_sync_timeout.total_seconds()
        error = self._final_sync(deadline)
        position, reached = self._position, self.replica_position
        with self._upload_lock, self._capture_lock:
            self._is_open = False
            self._drop_source()
            if error is None and self._uploader is not None and self._uploader.lease is not None:
                with contextlib.suppress(VfsstreamError):
                    self._uploader.lease.release()
            self.local.unlock()
            if self._owns_replica:
                self.replica.close()
        uploaded = error is None and reached is not None and reached >= position
        return CloseResult(uploaded, position, reached, error)

    def _final_sync(self, deadline: float) -> VfsstreamError | None:
        error: VfsstreamError | None = None
        stop = self._uploader.interrupted if self._uploader is not None else threading.Event()
        while True:
            try:
                self.sync()
                if self._position > 0:
                    self.upload()
                return None
            except ConflictError as failure:
                return failure
            except VfsstreamError as failure:
                error = failure
            if stop.is_set() or isinstance(error, Interrupted):
                return error
            pause = self.settings.shutdown_sync_interval.total_seconds()
            if time.monotonic() + pause >= deadline:
                return error
            stop.wait(pause)

    # --- the scheduler's side -------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Whether :meth:`step` has something to do now. Costs well under a microsecond when nothing changed."""
        return self.poll_capture() or self.poll_upload()

    def poll_capture(self) -> bool:
        """Whether :meth:`step_capture` has something to do now."""
        source = self._source
        now = time.monotonic()
        if now >= self._next_look:
            return self._sync_backoff.ready(now)
        if source is None:
            return False
        try:
            if source.look() == self._seen:
                return False
        except (ValueError, AssertionError):  # closed this moment
            return False
        self._lag.saw_change(now)
        return self._pace.ready(now) and self._sync_backoff.ready(now)

    def poll_upload(self) -> bool:
        """Whether :meth:`step_upload` has something to do now."""
        uploader = self._uploader
        if uploader is None or not self._is_open or isinstance(self._upload_error, ConflictError):
            return False
        behind = uploader.position is None or uploader.position < self._position
        return behind and self._position > 0 and self._upload_backoff.ready(time.monotonic())

    def step(self) -> None:
        """Do what is due. Operational errors go to the status and to events."""
        self.step_capture()
        if self.poll_upload():
            self.step_upload()

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

    def step_upload(self) -> None:
        """Upload what is captured. Returns at once if another thread is at it."""
        if not self._upload_lock.acquire(blocking=False):
            return
        try:
            self.upload()
        except VfsstreamError:
            pass  # noted where it happened
        finally:
            self._upload_lock.release()
        self._judge_stall()

    def watch(self) -> None:
        """Report a stall, or its end, as an event. Called now and then by whoever does not do the work."""
        self.poll_capture()
        self._judge_stall()

    def _judge_stall(self) -> None:
        seconds = self._lag.seconds(time.monotonic())
        stalled = seconds > self.settings.stall_after.total_seconds()
        if stalled and not self._stalled:
            reached = self.replica_position
            what = f"captured up to {self._position}, replicated up to {reached if reached is not None else '?'}"
            self._emit(events.Stalled(str(self.path), events.now(), seconds, what))
        elif self._stalled and not stalled:
            self._emit(events.StallEnded(str(self.path), events.now()))
        self._stalled = stalled

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
        self._generation += 1
        if source is not None:
            source.close()

    def _sync_all(self) -> None:
        capture = self._ready()
        if capture is None or self._source is None:
            return
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
        self._last_sync_at = datetime.now(UTC)

    def _note(self, written: Written) -> None:
        now = time.monotonic()
        self._position = written.txid
        self._pace.take(now)
        self._dirty = True
        self._lag.captured(written.txid, now, complete=written.complete)
        if self._uploader is not None:
            self._uploader.written_here(written.txid)
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
        except BaseException:
            # Whether the read transaction was held without a break is unknown now: begin anew from what is on disk.
            self._drop_source()
            self._pacing.record(time.monotonic(), b"", complete=False)
            raise
        for one in written:
            self._note(one)
        now = time.monotonic()
        self._last_checkpoint, self._dirty = now, False
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

    def snapshot_written(self, txid: int) -> None:
        """A snapshot at ``txid`` reached the replica, so that it has a base again."""
        if self._uploader is not None and txid >= (self._uploader.position or 0):
            self._uploader.needs_snapshot = False

    # --- upload ---------------------------------------------------------------------------------------------

    def upload(self, deadline: float | None = None) -> TXID:
        """Upload every local file; returns the replica position.

        Args:
            deadline: a value of ``time.monotonic()`` after which no further attempt is begun.

        Raises:
            StoreError, ForkDetected, LeaseHeld, Interrupted.
        """
        with self._upload_lock:
            uploader = self._uploader
            if uploader is None:
                raise DatabaseError(f"{self.path} is not open")
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceeded(f"no time left to upload {self.path}")
            try:
                reached = uploader.run(self._position)
            except (StoreError, ConflictError, LtxError, DatabaseError) as error:
                self._upload_failed(error)
                raise
            failures = self._upload_backoff.succeeded()
            self._upload_error, self._last_upload_at = None, datetime.now(UTC)
            self._lag.uploaded(reached)
            if failures:
                self._emit(events.Recovered(str(self.path), events.now(), "upload", failures))
            return reached

    def _upload_failed(self, error: VfsstreamError) -> None:
        self._upload_error = error
        self._upload_backoff.failed(time.monotonic())
        path, at = str(self.path), events.now()
        if isinstance(error, ConflictError):
            self._emit(events.Forked(path, at, error))
        self._emit(events.UploadFailed(path, at, error, self._upload_backoff.failures))

    def _on_uploaded(self, info: FileInfo, full: bool, page_size: int) -> None:
        self._lag.uploaded(info.max_txid)
        self._emit(events.Uploaded(str(self.path), events.now(), info, full, page_size))

    def _rebase(self, above: TXID, reason: str) -> None:
        with self._capture_lock:
            old = self._position
            capture = self._ready()
            if capture is None:
                self.local.delete(list(self.local.txids()))
            else:
                capture.rebase(above)
            self._position = above
            self._seen = b""
            self._next_look = 0.0
            self._emit(events.Rebased(str(self.path), events.now(), old, above, reason))

    def sync_and_wait(self, timeout: float = 30.0) -> TXID:
        """Capture and upload; when it returns, everything committed before the call is in the replica.

        Raises:
            DeadlineExceeded: not within ``timeout`` seconds; the last failure is chained.
            ConflictError: the replica is somebody else's.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                wanted = self.sync()
                if wanted == 0 and self._capture is None:
                    raise DatabaseError(f"{self.path} does not exist")
                reached = self.upload()
                if reached >= self._position and self._position > 0:
                    wanted = self.sync()  # after a rebase the content has a higher TXID than before
                    if self.upload() >= wanted:
                        return wanted
            except (StoreError, DiskFull) as error:
                if time.monotonic() >= deadline or (isinstance(error, StoreError) and not error.retryable):
                    raise DeadlineExceeded(f"{self.path} was not replicated in time: {error.message}") from error
            if time.monotonic() >= deadline:
                raise DeadlineExceeded(f"{self.path} was not replicated within {timeout:g} seconds")
            time.sleep(0.05)

    # --- looking --------------------------------------------------------------------------------------------

    @property
    def position(self) -> TXID:
        """TXID of the newest local file."""
        return self._position

    @property
    def replica_position(self) -> TXID | None:
        """Everything up to here is in the replica; ``None`` before the first contact."""
        return self._uploader.position if self._uploader is not None else None

    @property
    def page_size(self) -> int | None:
        """Bytes; ``None`` while the database was not seen."""
        source = self._source
        return source.page_size if source is not None else None

    @property
    def needs_snapshot(self) -> bool:
        """The replica has no base from which the position can be restored: write a snapshot at once."""
        return self._uploader is not None and self._uploader.needs_snapshot

    @property
    def listing(self) -> dict[int, list[FileInfo]] | None:
        """What the replica held at first contact, by level."""
        return self._uploader.listing if self._uploader is not None else None

    def local_file(self, txid: int) -> Path | None:
        """The local copy of a level-0 file, if it is still there."""
        path = self.local.path(txid)
        return path if path.exists() else None

    def local_files(self) -> list[FileInfo]:
        """All local level-0 files."""
        return self.local.infos()

    def forget_local(self, max_txid: int) -> None:
        """Delete local copies up to ``max_txid`` that are uploaded; the newest always stays."""
        reached = self.replica_position or TXID(0)
        txids = self.local.txids()
        self.local.delete([txid for txid in txids[:-1] if txid <= max_txid and txid <= reached])

    def status(self) -> DatabaseStatus:
        """How the database is doing."""
        error = self._upload_error or self._sync_error
        reached, position = self.replica_position, self._position
        state = "replicating" if self._source is not None else "waiting"
        if not self._is_open:
            state = "stopped"
        elif isinstance(error, ConflictError):
            state = "blocked"
        capture = self._capture
        uploader = self._uploader
        lag_bytes = 0
        for txid in reversed(self.local.txids()):
            if reached is not None and txid <= reached:
                break
            with contextlib.suppress(OSError):
                lag_bytes += self.local.path(txid).stat().st_size
        size = 0
        with contextlib.suppress(OSError):
            size = self.path.stat().st_size
        seconds = self._lag.seconds(time.monotonic())
        return DatabaseStatus(
            path=str(self.path),
            state=state,  # type: ignore[arg-type]
            position=position,
            replica_position=reached,
            lag_txids=max(0, position - (reached or 0)),
            lag_bytes=lag_bytes,
            lag_seconds=seconds,
            database_size=size,
            wal_size=capture.captured.end if capture is not None and capture.captured is not None else 0,
            last_sync_at=self._last_sync_at,
            last_upload_at=self._last_upload_at,
            last_error=error,
            consecutive_errors=max(self._sync_backoff.failures, self._upload_backoff.failures),
            disk_full=isinstance(self._sync_error, DiskFull),
            stalled=seconds > self.settings.stall_after.total_seconds(),
            needs_snapshot=self.needs_snapshot,
            checkpoints=self._checkpoints,
            longest_stall_seconds=self._longest_stall,
            bytes_uploaded=uploader.bytes if uploader is not None else 0,
            files_uploaded=uploader.files if uploader is not None else 0,
        )

    def _emit(self, event: events.Event) -> None:
        if self._observer is not None:
            self._observer(event)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        reached = self.replica_position
        return f"<Database {self.path} txid={self._position} replica={reached if reached is not None else '?'}>"
