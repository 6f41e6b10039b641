"""One replicated database: capture, checkpoints and upload behind one object that any thread may use."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
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
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica
from vfsstream.replicate import events
from vfsstream.replicate.backoff import Backoff
from vfsstream.replicate.events import Observer
from vfsstream.replicate.lease import Lease
from vfsstream.replicate.localdatabase import LocalDatabase
from vfsstream.replicate.publish import Written
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.status import CloseResult, DatabaseStatus
from vfsstream.replicate.upload import Uploader

__all__ = ["Database"]


class Database(LocalDatabase):
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
        super().__init__(path, settings=settings, meta_dir=meta_dir, observer=observer, at_point=at_point)
        self._owns_replica = isinstance(replica, str)
        self.replica = Replica.open(replica) if isinstance(replica, str) else replica
        self._upload_lock = threading.RLock()  # taken before _capture_lock, never after
        self._base_lock = threading.Lock()  # held by the one who writes a snapshot because the replica has no base
        interval, longest = self.settings.sync_interval, self.settings.max_backoff
        self._upload_backoff = Backoff(interval.total_seconds(), longest.total_seconds())
        self._upload_error: VfsstreamError | None = None
        self._last_upload_at: datetime | None = None
        self._uploader: Uploader | None = None
        self._contact_due = 0.0
        self._must_compare = False

    # --- life -----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the lock of the meta directory and start. The remote is not contacted.

        Raises:
            DatabaseError: another process replicates this database, or its files cannot be used.
        """
        with self._capture_lock:
            if self._is_open:
                return
            self._open_local()
            try:
                self._uploader = self._new_uploader()
            except BaseException:
                self.local.unlock()
                raise
            self._is_open = True

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
            if error is None and self._uploader is not None and self._uploader.lease is not None:
                with contextlib.suppress(VfsstreamError):
                    self._uploader.lease.release()
            self._close_local()
            if self._owns_replica:
                self.replica.close()
        uploaded = error is None and reached is not None and reached >= position and not self.needs_snapshot
        return CloseResult(uploaded, position, reached, error)

    def _final_sync(self, deadline: float) -> VfsstreamError | None:
        error: VfsstreamError | None = None
        stop = self._uploader.interrupted if self._uploader is not None else threading.Event()
        while True:
            try:
                self.sync()
                if self._position > 0 and self._upload(deadline) < self.sync():
                    self._upload(deadline)  # after a rebase the content has a higher TXID than before
                if not stop.is_set():
                    self.ensure_base(deadline)
                return None
            except ConflictError as failure:
                return failure
            except Interrupted as failure:
                if self._upload_error is None and time.monotonic() >= deadline:
                    return DeadlineExceeded(f"no time left to upload {self.path}")
                return self._upload_error or failure  # what was in the way says more than that it was given up
            except VfsstreamError as failure:
                error = failure
            hopeless = (
                self._source is None and isinstance(error, DatabaseError) and not isinstance(error, DiskFull)
            )
            if stop.is_set() or hopeless:
                return error
            pause = self.settings.shutdown_sync_interval.total_seconds()
            if time.monotonic() + pause >= deadline:
                return error
            stop.wait(pause)

    # --- the scheduler's side -------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Whether :meth:`step` has something to do now. Costs well under a microsecond when nothing changed."""
        return self.poll_capture() or self.poll_upload()

    def poll_upload(self) -> bool:
        """Whether :meth:`step_upload` has something to do now."""
        uploader = self._uploader
        if uploader is None or not self._is_open or isinstance(self._upload_error, ConflictError):
            return False
        behind = uploader.position is None or self._must_compare or uploader.position < self._position
        return behind and self._position > 0 and self._upload_backoff.ready(time.monotonic())

    def step(self) -> None:
        """Do what is due. Operational errors go to the status and to events."""
        self.step_capture()
        if self.poll_upload():
            self.step_upload()

    def step_upload(self) -> None:
        """Upload what is captured. Returns at once if another thread is at it."""
        if not self._upload_lock.acquire(blocking=False):
            return
        try:
            self._upload_now()
        except VfsstreamError:
            pass  # noted where it happened
        finally:
            self._upload_lock.release()
        self._judge_stall()

    def _file_written(self, written: Written) -> None:
        if self._uploader is None:
            return
        self._uploader.written_here(written.txid, full=written.has_every_page)
        if written.page_size_changed:  # nothing before this file can be merged with it: a new base
            self._uploader.needs_snapshot = True

    def _whereabouts(self) -> str:
        reached = self.replica_position
        return f"{super()._whereabouts()}, replicated up to {reached if reached is not None else '?'}"

    # --- upload ---------------------------------------------------------------------------------------------

    def upload(self, deadline: float | None = None) -> TXID:
        """Upload every local file; returns the replica position.

        Args:
            deadline: a value of ``time.monotonic()`` after which no further attempt is begun.

        Raises:
            StoreError, ForkDetected, LeaseHeld, Interrupted.
        """
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceeded(f"no time left to upload {self.path}")
        return self._upload(deadline)

    def _upload(self, deadline: float | None) -> TXID:
        """At least one attempt, unless another thread is at it until the deadline."""
        if not self._upload_lock.acquire(timeout=_seconds_until(deadline)):
            raise DeadlineExceeded(f"another thread has not finished an upload of {self.path} in time")
        try:
            return self._upload_now()
        finally:
            self._upload_lock.release()

    def _upload_now(self) -> TXID:
        uploader = self._uploader
        if uploader is None:
            raise DatabaseError(f"{self.path} is not open")
        now = time.monotonic()
        due = now >= self._contact_due and (uploader.position or 0) < self._position
        if uploader.position is None or self._must_compare or due:
            self._must_compare = False
            uploader.forget_contact()
            self._contact_due = now + self.settings.contact_interval.total_seconds()
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

    def compare_again(self) -> None:
        """The replica lost files: before anything else, compare it with the local files and upload what it lacks."""
        self._must_compare = True

    def report(self, error: VfsstreamError) -> None:
        """Something that was done for this database on the remote failed: show it in status and events."""
        self._upload_failed(error)

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

    def sync_and_wait(self, timeout: float = 30.0, give_base: Callable[[float], None] | None = None) -> TXID:
        """Capture and upload; when it returns, everything committed before the call can be restored.

        Args:
            give_base: called with a deadline when that takes a snapshot; by default :meth:`ensure_base`.

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
                reached = self._upload(deadline)
                if reached >= self._position and self._position > 0:
                    wanted = self.sync()  # after a rebase the content has a higher TXID than before
                    if self._upload(deadline) >= wanted:
                        if self.needs_snapshot:
                            (give_base or self.ensure_base)(deadline)
                        return wanted
            except (StoreError, DiskFull) as error:
                if time.monotonic() >= deadline or (isinstance(error, StoreError) and not error.retryable):
                    raise DeadlineExceeded(f"{self.path} was not replicated in time: {error.message}") from error
            if time.monotonic() >= deadline:
                raise DeadlineExceeded(f"{self.path} was not replicated within {timeout:g} seconds")
            time.sleep(0.05)

    def ensure_base(self, deadline: float | None = None) -> None:
        """Write a snapshot if the replica has no base from which the position can be restored.

        Args:
            deadline: a value of ``time.monotonic()`` at which to give up.

        Raises:
            StoreError, DatabaseError, DeadlineExceeded: it was not written.
        """
        from vfsstream.replicate.snapshot import snapshot_from_database

        if not self.needs_snapshot:
            return
        if not self._base_lock.acquire(timeout=_seconds_until(deadline)):
            raise DeadlineExceeded(f"another thread has not finished a snapshot of {self.path} in time")
        try:
            if self.needs_snapshot:
                self.snapshot_written(snapshot_from_database(self, deadline=deadline).max_txid)
        finally:
            self._base_lock.release()

    def snapshot_written(self, txid: int) -> None:
        """A snapshot at ``txid`` reached the replica, so that it has a base again."""
        if self._uploader is not None and txid >= (self._uploader.position or 0):
            self._uploader.needs_snapshot = False

    # --- looking --------------------------------------------------------------------------------------------

    @property
    def replica_position(self) -> TXID | None:
        """Everything up to here is in the replica; ``None`` while that is not known."""
        return self._uploader.position if self._uploader is not None and not self._must_compare else None

    @property
    def needs_snapshot(self) -> bool:
        """The replica has no base from which the position can be restored: write a snapshot at once."""
        return self._uploader is not None and self._uploader.needs_snapshot

    @property
    def listing(self) -> dict[int, list[FileInfo]] | None:
        """What the replica held at first contact, by level."""
        return self._uploader.listing if self._uploader is not None else None

    @property
    def own_folder(self) -> Path:
        """Where notes of ours about this database lie."""
        return self.local.own

    def local_file(self, txid: int) -> Path | None:
        """The local copy of a level-0 file, if it is still there."""
        path = self.local.path(txid)
        return path if path.exists() else None

    def local_files(self) -> list[FileInfo]:
        """All local level-0 files."""
        return self.local.infos()

    def forget_local(self, max_txid: int) -> None:
        """Delete local copies up to ``max_txid`` that are uploaded.

        The newest stays, and the newest that is uploaded: by it the replica is known again.
        """
        reached = self.replica_position or TXID(0)
        txids = self.local.txids()
        self.local.delete([txid for txid in txids[:-1] if txid <= max_txid and txid < reached])

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


def _seconds_until(deadline: float | None) -> float:
    """As a lock's time limit."""
    return -1 if deadline is None else max(0.0, deadline - time.monotonic())
