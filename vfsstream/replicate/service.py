"""Many databases in one process: one scheduler thread, bounded pools of workers, nothing per database that polls.

The scheduler looks at every database (a few hundred nanoseconds each) and hands what is due to the pools: capture,
upload, maintenance. Each database has at most one job of each kind at a time. No I/O is done under a lock, and a
slow upload or a large snapshot of one database holds up no other's capture.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from vfsstream.errors import DatabaseError, DeadlineExceeded, UsageError, VfsstreamError
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Event, Observer, Uploaded
from vfsstream.replicate.maintenance import Maintenance, MaintenanceSettings
from vfsstream.replicate.replicator import PollRate
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.status import CloseResult, DatabaseStatus

__all__ = ["MaintenanceStatus", "Service", "ServiceResult", "ServiceSettings", "ServiceStatus"]

_log = logging.getLogger(__name__)

_MAINTENANCE_LOOK = 0.2
_STALL_LOOK = 2.0
_CLOSERS = 50
_Kind = Literal["capture", "upload", "maintenance"]


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How the service shares the machine.

    Attributes:
        database: for databases registered without settings of their own.
        maintenance: the timetable, likewise.
        capture_workers: databases captured at once.
        upload_workers: databases uploading at once.
        maintenance_workers: compactions, snapshots and retention passes at once.
        shutdown_timeout: for all databases together when the service is closed without a deadline.
    """

    database: Settings = field(default_factory=Settings)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    capture_workers: int = 4
    upload_workers: int = 8
    maintenance_workers: int = 2
    shutdown_timeout: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        for name in ("capture_workers", "upload_workers", "maintenance_workers"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, found {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class MaintenanceStatus:
    """Compaction, snapshots and retention of one database.

    Attributes:
        levels: ``{level: (files, newest TXID)}`` as far as known.
        errors: the last error of each task that fails at the moment.
        running: a task runs now.
    """

    levels: dict[int, tuple[int, TXID]]
    errors: dict[str, VfsstreamError]
    running: bool


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One look at one database of the service."""

    database: DatabaseStatus
    replica: str
    enabled: bool
    maintenance: MaintenanceStatus


@dataclass(frozen=True, slots=True)
class ServiceResult:
    """What closing achieved: truthful, database by database.

    Attributes:
        uploaded: everything of every database is in its replica.
        databases: the result of each, by path.
    """

    uploaded: bool
    databases: dict[str, CloseResult]


class _Managed:
    """One registered database. ``busy``, ``enabled`` and ``gone`` are guarded by the service's lock."""

    def __init__(self, database: Database, maintenance: Maintenance, stop: threading.Event, describe: str) -> None:
        self.database, self.maintenance, self.stop, self.replica = database, maintenance, stop, describe
        self.busy: set[_Kind] = set()
        self.enabled = False
        self.next_look = 0.0


class Service:
    """Replicates many databases until it is closed.

    ::

        with Service() as service:
            service.register("a.db", "s3://bucket/a")
            service.register("b.db", "s3://bucket/b")
            ...

    Databases may be registered, stopped, started and unregistered at any time, from any thread.

    Args:
        observer: is told every event of every database, from the worker threads.
    """

    def __init__(self, settings: ServiceSettings | None = None, *, observer: Observer | None = None) -> None:
        self.settings = settings or ServiceSettings()
        self._observer = observer
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._managed: dict[str, _Managed | None] = {}  # None: being registered; guarded by _lock
        self._active: tuple[_Managed, ...] = ()  # replaced, never changed; guarded by _lock
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._pools: dict[_Kind, ThreadPoolExecutor] = {}
        self._rate = PollRate(self.settings.database.poll_interval.total_seconds())
        self._next_stall_look = 0.0
        self._result: ServiceResult | None = None

    # --- databases ------------------------------------------------------------------------------------------

    def register(
        self,
        path: str | os.PathLike[str],
        replica: str | Callable[[], Replica],
        *,
        settings: Settings | None = None,
        maintenance: MaintenanceSettings | None = None,
        meta_dir: Path | None = None,
        enabled: bool = True,
    ) -> bool:
        """Replicate one more database; it need not exist yet.

        Args:
            replica: its URL, or a function that opens it. Each database has a replica of its own.

        Returns:
            ``False`` when the path was registered already: nothing was changed.

        Raises:
            UsageError: an impossible URL, or the replica of another registered database.
            DatabaseError: another process replicates it, or its files cannot be used.
        """
        key = str(Path(path).absolute())
        with self._lock:
            if self._result is not None:
                raise UsageError("the service is closed")
            if key in self._managed:
                return False
            self._managed[key] = None
        try:
            managed = self._make(Path(key), replica, settings, maintenance, meta_dir)
            if enabled:
                managed.database.open()
        except BaseException:
            with self._lock:
                del self._managed[key]
            raise
        with self._lock:
            taken = next((m for m in self._managed.values() if m and m.replica == managed.replica), None)
            if taken is None:
                self._managed[key] = managed
                managed.enabled = enabled
                self._refresh()
            else:
                del self._managed[key]
        if taken is not None:
            managed.database.close(time.monotonic())
            managed.database.replica.close()
            raise UsageError(
                f"{managed.replica} is the replica of {taken.database.path} already, not free for {key}",
                hint="give each database a path of its own",
            )
        self._wake.set()
        return True

    def _make(
        self,
        path: Path,
        replica: str | Callable[[], Replica],
        settings: Settings | None,
        maintenance: MaintenanceSettings | None,
        meta_dir: Path | None,
    ) -> _Managed:
        opened = Replica.open(replica) if isinstance(replica, str) else replica()
        stop = threading.Event()
        parts: list[Maintenance] = []

        def observe(event: Event) -> None:
            if isinstance(event, Uploaded):
                parts[0].uploaded(event.info, full=event.full)
            self._tell(event)

        database = Database(
            path, opened, settings=settings or self.settings.database, meta_dir=meta_dir, observer=observe
        )
        timetable = maintenance or self.settings.maintenance
        parts.append(Maintenance(database, timetable, observer=self._tell, stop=stop))
        return _Managed(database, parts[0], stop, opened.describe())

    def _refresh(self) -> None:
        """Rebuild the list that the scheduler walks. The lock is held."""
        assert self._lock.locked()
        self._active = tuple(m for m in self._managed.values() if m is not None and m.enabled)

    def unregister(self, path: str | os.PathLike[str], timeout: float = 30.0) -> CloseResult | None:
        """Upload the rest, close and forget a database; ``None`` when it is not registered."""
        key = str(Path(path).absolute())
        managed = self._disable(key)
        if managed is None:
            return None
        result = self._shut(managed, time.monotonic() + timeout)
        managed.database.replica.close()
        with self._lock:
            if self._managed.get(key) is managed:
                del self._managed[key]
        return result

    def stop_database(self, path: str | os.PathLike[str], timeout: float = 30.0) -> CloseResult | None:
        """Upload the rest and pause a database, which stays registered; ``None`` when it is stopped already."""
        managed = self._find(path)
        with self._lock:
            if not managed.enabled:
                return None
        self._disable(str(managed.database.path))
        return self._shut(managed, time.monotonic() + timeout)

    def start_database(self, path: str | os.PathLike[str]) -> bool:
        """Replicate a stopped database again; ``False`` when it runs already.

        Raises:
            UsageError: it is not registered.
            DatabaseError: its files cannot be used.
        """
        managed = self._find(path)
        with self._lock:
            if managed.enabled:
                return False
        managed.stop.clear()
        managed.database.open()
        with self._lock:
            managed.enabled = True
            self._refresh()
        self._wake.set()
        return True

    def _find(self, path: str | os.PathLike[str]) -> _Managed:
        key = str(Path(path).absolute())
        with self._lock:
            managed = self._managed.get(key)
        if managed is None:
            raise UsageError(f"{key} is not registered")
        return managed

    def _disable(self, key: str) -> _Managed | None:
        with self._lock:
            managed = self._managed.get(key)
            if managed is not None:
                managed.enabled = False
                self._refresh()
        return managed

    def _shut(self, managed: _Managed, deadline: float) -> CloseResult:
        """Wait for running jobs, then close. Maintenance is interrupted, capture and upload may finish."""
        managed.stop.set()
        with self._idle:
            self._idle.wait_for(lambda: not managed.busy, max(0.0, deadline - time.monotonic()))
            stuck = bool(managed.busy)
        if stuck:
            managed.database.interrupt()
        return managed.database.close(deadline)

    @property
    def paths(self) -> list[str]:
        """The registered databases."""
        with self._lock:
            return sorted(key for key, managed in self._managed.items() if managed is not None)

    def sync(self, path: str | os.PathLike[str], *, wait: bool = True, timeout: float = 30.0) -> TXID:
        """Capture what is committed now; with ``wait`` until it is in the replica. Returns its TXID.

        Raises:
            UsageError: not registered.
            DatabaseError: it is stopped, or cannot be read.
            DeadlineExceeded, ConflictError: the replica could not be reached, or is somebody else's.
        """
        managed = self._find(path)
        if not managed.enabled:
            raise DatabaseError(f"{managed.database.path} is stopped")
        return managed.database.sync_and_wait(timeout) if wait else managed.database.sync()

    def maintain(self, path: str | os.PathLike[str]) -> None:
        """Do in this thread what compaction, snapshots and retention have due, unless a worker is at it."""
        managed = self._find(path)
        if self._take(managed, "maintenance"):
            self._run(managed, "maintenance", managed.maintenance.run)

    # --- looking --------------------------------------------------------------------------------------------

    def status(self) -> list[ServiceStatus]:
        """Every database, by path."""
        with self._lock:
            everyone = [(m, m.enabled, "maintenance" in m.busy) for m in self._managed.values() if m is not None]
        found = [
            ServiceStatus(
                m.database.status(),
                m.replica,
                enabled,
                MaintenanceStatus(_levels(m), dict(m.maintenance.errors), busy),
            )
            for m, enabled, busy in everyone
        ]
        return sorted(found, key=lambda status: status.database.path)

    def behind(self, within: timedelta) -> list[str]:
        """Databases whose replica misses something older than this, or that was never reached.

        A heartbeat is due when there is a database and this is empty.
        """
        limit = within.total_seconds()
        late = []
        for one in self.status():
            state = one.database
            if one.enabled and (
                state.lag_seconds > limit or state.replica_position is None or state.state == "blocked"
            ):
                late.append(state.path)
        return late

    # --- running --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin. Does nothing when already running.

        Raises:
            UsageError: it was closed.
        """
        with self._lock:
            if self._result is not None:
                raise UsageError("a closed service cannot be started again")
            if self._thread is not None:
                return
            settings = self.settings
            sizes: dict[_Kind, int] = {
                "capture": settings.capture_workers,
                "upload": settings.upload_workers,
                "maintenance": settings.maintenance_workers,
            }
            for kind, size in sizes.items():
                self._pools[kind] = ThreadPoolExecutor(size, thread_name_prefix=f"vfsstream-{kind}")
            self._thread = threading.Thread(target=self._loop, name="vfsstream-scheduler", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stop.is_set():
            now = time.monotonic()
            look_for_stalls = now >= self._next_stall_look
            if look_for_stalls:
                self._next_stall_look = now + _STALL_LOOK
            for managed in self._active:
                try:
                    self._look_at(managed, now, look_for_stalls)
                except Exception:
                    _log.exception("looking at %s failed", managed.database.path)
            self._wake.wait(self._rate.pause(time.monotonic()))
            self._wake.clear()

    def _look_at(self, managed: _Managed, now: float, look_for_stalls: bool) -> None:
        database = managed.database
        if database.poll_capture():
            self._submit(managed, "capture", lambda: self._capture(managed))
        if database.poll_upload():
            self._submit(managed, "upload", database.step_upload)
        if now >= managed.next_look:
            due = managed.maintenance.seconds_until_due()
            managed.next_look = now + min(max(due, _MAINTENANCE_LOOK), 1.0)
            if due <= 0:
                self._submit(managed, "maintenance", managed.maintenance.run)
        if look_for_stalls:
            database.watch()

    def _capture(self, managed: _Managed) -> None:
        before = managed.database.position
        managed.database.step_capture()
        if managed.database.position != before:
            self._rate.changed(time.monotonic())
            self._wake.set()

    def _submit(self, managed: _Managed, kind: _Kind, work: Callable[[], None]) -> None:
        if self._take(managed, kind):
            try:
                self._pools[kind].submit(self._run, managed, kind, work)
            except RuntimeError:  # the pool is shut down
                self._release(managed, kind)

    def _take(self, managed: _Managed, kind: _Kind) -> bool:
        with self._lock:
            if kind in managed.busy or not managed.enabled:
                return False
            managed.busy.add(kind)
            return True

    def _release(self, managed: _Managed, kind: _Kind) -> None:
        with self._idle:
            managed.busy.discard(kind)
            self._idle.notify_all()

    def _run(self, managed: _Managed, kind: _Kind, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            _log.exception("%s of %s failed unexpectedly", kind, managed.database.path)
            time.sleep(0.2)  # whatever it is, do not spin on it
        finally:
            self._release(managed, kind)

    def _tell(self, event: Event) -> None:
        if self._observer is None:
            return
        try:
            self._observer(event)
        except Exception:
            _log.exception("an observer failed on %s", type(event).__name__)

    # --- the end --------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Make a running :meth:`close` give up uploading at once."""
        with self._lock:
            everyone = [m for m in self._managed.values() if m is not None]
        for managed in everyone:
            managed.database.interrupt()

    def close(self, deadline: float | None = None) -> ServiceResult:
        """Upload the rest of all databases at once, and end. Idempotent.

        Args:
            deadline: a value of ``time.monotonic()`` for all of them together.
        """
        if self._result is not None:
            return self._result
        if deadline is None:
            deadline = time.monotonic() + self.settings.shutdown_timeout.total_seconds()
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(max(1.0, deadline - time.monotonic()))
        with self._lock:
            everyone = {key: m for key, m in self._managed.items() if m is not None}
            for managed in everyone.values():
                managed.enabled = False
                managed.stop.set()
            self._refresh()
        results = self._close_all(everyone, deadline)
        for pool in self._pools.values():
            pool.shutdown(wait=all(result.error is None for result in results.values()), cancel_futures=True)
        for managed in everyone.values():
            managed.database.replica.close()
        self._result = ServiceResult(all(result.uploaded for result in results.values()), results)
        return self._result

    def _close_all(self, everyone: dict[str, _Managed], deadline: float) -> dict[str, CloseResult]:
        if not everyone:
            return {}
        pool = ThreadPoolExecutor(min(_CLOSERS, len(everyone)), thread_name_prefix="vfsstream-close")
        futures: dict[str, Future[CloseResult]] = {
            key: pool.submit(self._shut, managed, deadline) for key, managed in everyone.items()
        }
        _, pending = wait(futures.values(), max(0.0, deadline - time.monotonic()) + 0.5)
        if pending:
            for key, managed in everyone.items():
                if futures[key] in pending:
                    managed.database.interrupt()
            wait(futures.values(), 5.0)
        results = {key: _result_of(futures[key], everyone[key].database) for key in everyone}
        pool.shutdown(wait=all(future.done() for future in futures.values()), cancel_futures=True)
        return results

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        result = self.close()
        if kind is None and not result.uploaded:
            late = [path for path, one in result.databases.items() if not one.uploaded]
            first = result.databases[late[0]].error
            raise DeadlineExceeded(
                f"not everything reached the replicas of {len(late)} databases, {late[0]} first"
            ) from first

    def __repr__(self) -> str:
        with self._lock:
            return f"<Service {len(self._managed)} databases, {len(self._active)} active>"


def _levels(managed: _Managed) -> dict[int, tuple[int, TXID]]:
    everything = managed.maintenance.catalogue.all()
    return {level: (len(files), _end(files)) for level, files in everything.items() if files}


def _end(files: Sequence[FileInfo]) -> TXID:
    return max((info.max_txid for info in files), default=TXID(0))


def _result_of(future: Future[CloseResult], database: Database) -> CloseResult:
    if not future.done():
        late = DeadlineExceeded(f"{database.path} could not be closed in time")
        return CloseResult(False, database.position, database.replica_position, late)
    error = future.exception()
    if error is None:
        return future.result()
    wrapped = error if isinstance(error, VfsstreamError) else DatabaseError(f"closing {database.path}: {error!r}")
    return CloseResult(False, database.position, database.replica_position, wrapped)
