"""Replicating one database in the background: two threads around a :class:`Database`, each watching the other."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from vfsstream.errors import DatabaseError, DeadlineExceeded, VfsstreamError
from vfsstream.ltx.names import TXID
from vfsstream.replica import Replica
from vfsstream.replicate.backoff import Backoff
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Observer
from vfsstream.replicate.lookout import Lookout
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.status import CloseResult, DatabaseStatus

__all__ = ["Replicator", "ensure_base", "once"]

_KEEP_LOCAL = 100  # uploaded files that stay for comparisons with the replica


class Replicator:
    """Replicates one database until it is closed.

    ::

        with Replicator("app.db", "s3://bucket/app") as replicator:
            ...
            replicator.sync_and_wait()

    Args:
        path: of the database; it need not exist yet. The application may use it in other processes; inside this
            process only through apsw, because two SQLite libraries in one process drop each other's locks.
        replica: an object or a URL.
        observer: is told every event, from the background threads.

    Raises:
        UsageError: an impossible URL or setting.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        replica: Replica | str,
        *,
        settings: Settings | None = None,
        meta_dir: Path | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.database = Database(path, replica, settings=settings, meta_dir=meta_dir, observer=observer)
        self._stop = threading.Event()
        self._captured = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lookout: Lookout[None] | None = None
        self._result: CloseResult | None = None
        interval, longest = self.database.settings.sync_interval, self.database.settings.max_backoff
        self._base_backoff = Backoff(interval.total_seconds(), longest.total_seconds())

    def start(self) -> None:
        """Open the database and begin; does nothing when already running.

        Raises:
            DatabaseError: another process replicates it, or its files cannot be used.
        """
        if self._threads:
            return
        self.database.open()
        self._stop.clear()
        self._result = None
        intervals = self.database.settings
        self._lookout = Lookout(
            intervals.poll_interval.total_seconds(), intervals.monitor_interval.total_seconds()
        )
        self._lookout.watch([(self.database, None)])
        name = self.database.path.name
        self._threads = [
            threading.Thread(target=self._capture_loop, name=f"vfsstream-capture-{name}", daemon=True),
            threading.Thread(target=self._upload_loop, name=f"vfsstream-upload-{name}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _capture_loop(self) -> None:
        database = self.database
        lookout = self._lookout
        assert lookout is not None
        try:
            while not self._stop.is_set():
                if not lookout.due():
                    continue
                database.step_capture()
                lookout.stir(database)
                if database.poll_upload():
                    self._captured.set()
        finally:
            lookout.close()

    def _upload_loop(self) -> None:
        database = self.database
        pause = database.settings.monitor_interval.total_seconds()
        while not self._stop.is_set():
            self._captured.wait(pause)
            self._captured.clear()
            if database.poll_upload() and not self._stop.is_set():
                database.step_upload()
            if not self._stop.is_set():
                self._give_base()
                self._forget_old_files()
            database.watch()

    def _forget_old_files(self) -> None:
        reached = self.database.replica_position
        if reached is not None and reached > _KEEP_LOCAL:
            with contextlib.suppress(VfsstreamError):  # the next round tries again
                self.database.forget_local(reached - _KEEP_LOCAL)

    def _give_base(self) -> None:
        now = time.monotonic()
        if not self.database.needs_snapshot or not self._base_backoff.ready(now):
            return
        try:
            ensure_base(self.database)
            self._base_backoff.succeeded()
        except VfsstreamError as error:
            self._base_backoff.failed(now)
            self.database.report(error)

    def sync_and_wait(self, txid: TXID | None = None, timeout: float = 30.0) -> TXID:
        """Wait until the replica has ``txid``, or everything committed before the call.

        Raises:
            DeadlineExceeded: not within ``timeout`` seconds.
            ConflictError: the replica is somebody else's.
        """
        if txid is None:
            reached = self.database.sync_and_wait(timeout)
            ensure_base(self.database)
            return reached
        deadline = time.monotonic() + timeout
        while (reached := self.database.replica_position or TXID(0)) < txid:
            if not self._threads:
                raise DatabaseError(f"{self.database.path} is not being replicated")
            if time.monotonic() >= deadline:
                raise DeadlineExceeded(
                    f"TXID {txid} is not in the replica after {timeout:g} seconds ({reached} is)"
                )
            self._captured.set()
            time.sleep(0.005)
        return reached

    def status(self) -> DatabaseStatus:
        """How it is doing."""
        return self.database.status()

    def interrupt(self) -> None:
        """Make a running :meth:`close` give up uploading at once."""
        self.database.interrupt()

    def close(self, deadline: float | None = None) -> CloseResult:
        """Stop, capture and upload the rest. Idempotent.

        Args:
            deadline: a value of ``time.monotonic()``; by default the shutdown timeout from now.

        Returns:
            Whether everything is in the replica.
        """
        if self._result is not None:
            return self._result
        if deadline is None:
            deadline = time.monotonic() + self.database.settings.shutdown_sync_timeout.total_seconds()
        self._stop.set()
        self._captured.set()
        if self._lookout is not None:
            self._lookout.wake()
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            self.database.interrupt()
            for thread in self._threads:
                thread.join(5.0)
        self._threads = []
        self._result = self.database.close(deadline)
        return self._result

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        result = self.close()
        if kind is None and not result.uploaded:
            raise result.error or DeadlineExceeded(f"{self.database.path}: not everything reached the replica")

    def __repr__(self) -> str:
        return repr(self.database).replace("Database", "Replicator", 1)


def ensure_base(database: Database) -> None:
    """Write a snapshot if the replica has no base from which the position can be restored."""
    database.ensure_base()


def once(database: Database, timeout: float = 30.0) -> TXID:
    """Capture and upload what is there now, in this thread; returns the TXID reached.

    Raises:
        DatabaseError: there is no database.
        DeadlineExceeded, ConflictError: not everything is in the replica.
    """
    if not database.path.exists() or database.path.stat().st_size == 0:
        raise DatabaseError(f"{database.path} does not exist or is empty: nothing to replicate")
    reached = database.sync_and_wait(timeout)
    ensure_base(database)
    return reached
