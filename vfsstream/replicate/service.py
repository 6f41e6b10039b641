"""Many databases in one process: registered, stopped, started and unregistered while the others go on."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from vfsstream.errors import DatabaseError, DeadlineExceeded, UsageError, VfsstreamError
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Event, Observer, Uploaded
from vfsstream.replicate.maintenance import Maintenance
from vfsstream.replicate.scheduler import Managed, Scheduler
from vfsstream.replicate.servicestatus import MaintenanceStatus, ServiceResult, ServiceSettings, ServiceStatus
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.status import CloseResult
from vfsstream.replicate.timetable import MaintenanceSettings

__all__ = ["MaintenanceStatus", "Service", "ServiceResult", "ServiceSettings", "ServiceStatus"]

_log = logging.getLogger(__name__)

_CLOSERS = 50


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
        self._managed: dict[str, Managed | None] = {}  # None: being registered; guarded by _lock
        self._replicas: dict[str, Managed] = {}  # by what they are; guarded by _lock
        self._scheduler = Scheduler(self.settings, self._lock, self._enabled)
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
            taken = self._replicas.setdefault(managed.replica, managed)
            if taken is managed:
                self._managed[key] = managed
                managed.enabled = enabled
                self._scheduler.refresh()
            else:
                del self._managed[key]
        if taken is not managed:
            managed.database.close(time.monotonic())
            managed.database.replica.close()
            raise UsageError(
                f"{managed.replica} is the replica of {taken.database.path} already, not free for {key}",
                hint="give each database a path of its own",
            )
        return True

    def _make(
        self,
        path: Path,
        replica: str | Callable[[], Replica],
        settings: Settings | None,
        maintenance: MaintenanceSettings | None,
        meta_dir: Path | None,
    ) -> Managed:
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
        return Managed(database, parts[0], stop, opened.describe())

    def _enabled(self) -> tuple[Managed, ...]:
        """What the scheduler looks at. The lock is held."""
        return tuple(m for m in self._managed.values() if m is not None and m.enabled)

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
                self._replicas.pop(managed.replica, None)
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
            self._scheduler.refresh()
        return True

    def _find(self, path: str | os.PathLike[str]) -> Managed:
        key = str(Path(path).absolute())
        with self._lock:
            managed = self._managed.get(key)
        if managed is None:
            raise UsageError(f"{key} is not registered")
        return managed

    def _disable(self, key: str) -> Managed | None:
        with self._lock:
            managed = self._managed.get(key)
            if managed is not None:
                managed.enabled = False
                self._scheduler.refresh()
        return managed

    def _shut(self, managed: Managed, deadline: float) -> CloseResult:
        """Wait for running jobs, then close. Maintenance is interrupted, capture and upload may finish."""
        managed.stop.set()
        if not self._scheduler.wait_idle(managed, deadline):
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
        if not wait:
            return managed.database.sync()
        return managed.database.sync_and_wait(timeout, lambda deadline: self._give_base(managed, deadline))

    def _give_base(self, managed: Managed, deadline: float) -> None:
        """Have maintenance write the snapshot without which the newest state cannot be restored."""
        while managed.database.needs_snapshot:
            self._scheduler.maintain(managed)
            if not managed.database.needs_snapshot:
                return
            if time.monotonic() >= deadline or not managed.enabled:
                raise DeadlineExceeded(f"{managed.database.path} got no snapshot in time") from next(
                    iter(managed.maintenance.errors.values()), None
                )
            time.sleep(0.05)

    def maintain(self, path: str | os.PathLike[str]) -> None:
        """Do in this thread what compaction, snapshots and retention have due, unless a worker is at it."""
        self._scheduler.maintain(self._find(path))

    # --- looking --------------------------------------------------------------------------------------------

    def status(self) -> list[ServiceStatus]:
        """Every database, by path."""
        with self._lock:
            everyone = [(m, m.enabled, dict(m.busy)) for m in self._managed.values() if m is not None]
        now = time.monotonic()
        found = [
            ServiceStatus(
                m.database.status(),
                m.replica,
                enabled,
                MaintenanceStatus(
                    _levels(m), dict(m.maintenance.errors), "maintenance" in busy, dict(m.maintenance.l0_states)
                ),
                {kind: now - since for kind, since in busy.items()},
            )
            for m, enabled, busy in everyone
        ]
        return sorted(found, key=lambda status: status.database.path)

    def positions(self) -> dict[str, TXID]:
        """What is replicated now, with how far each replica is known to reach; costs no system call."""
        found = ((m.database.path, m.database.replica_position) for m in self._scheduler.active)
        return {str(path): reached for path, reached in found if reached is not None}

    def behind(self, within: timedelta) -> list[str]:
        """Databases whose replica misses something older than this, has no base, or was never reached.

        A heartbeat is due when there is a database and this is empty.
        """
        limit = within.total_seconds()
        late = []
        for one in self.status():
            state = one.database
            if one.enabled and (
                state.lag_seconds > limit
                or state.replica_position is None
                or state.needs_snapshot
                or state.state == "blocked"
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
            if self._scheduler.started:
                return
            self._scheduler.start()

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
        self._scheduler.stop(deadline)
        with self._lock:
            everyone = {key: m for key, m in self._managed.items() if m is not None}
            for managed in everyone.values():
                managed.enabled = False
                managed.stop.set()
            self._scheduler.refresh()
        results = self._close_all(everyone, deadline)
        self._scheduler.end_workers(wait=all(result.error is None for result in results.values()))
        for managed in everyone.values():
            managed.database.replica.close()
        self._result = ServiceResult(all(result.uploaded for result in results.values()), results)
        return self._result

    def _close_all(self, everyone: dict[str, Managed], deadline: float) -> dict[str, CloseResult]:
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
            return f"<Service {len(self._managed)} databases, {len(self._scheduler.active)} active>"


def _levels(managed: Managed) -> dict[int, tuple[int, TXID]]:
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
