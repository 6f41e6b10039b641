"""One thread that looks at every database, and bounded pools of workers for what is due.

A look costs a few hundred nanoseconds per database. Each database has at most one job of each kind at a time. No I/O
is done under a lock, and a slow upload or a large snapshot of one database holds up no other's capture.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from vfsstream.replicate.database import Database
from vfsstream.replicate.maintenance import Maintenance
from vfsstream.replicate.replicator import PollRate
from vfsstream.replicate.servicestatus import ServiceSettings

__all__ = ["Managed", "Scheduler"]

_log = logging.getLogger(__name__)

_MAINTENANCE_LOOK = 0.2
_STALL_LOOK = 2.0
_Kind = Literal["capture", "upload", "maintenance"]


class Managed:
    """One database under a scheduler. ``busy`` and ``enabled`` are guarded by the scheduler's lock."""

    def __init__(self, database: Database, maintenance: Maintenance, stop: threading.Event, describe: str) -> None:
        self.database, self.maintenance, self.stop, self.replica = database, maintenance, stop, describe
        self.busy: dict[_Kind, float] = {}  # what runs, since when by the monotonic clock
        self.enabled = False
        self.next_look = 0.0


class Scheduler:
    """Runs the databases given to it until it is stopped.

    Args:
        lock: guards what is said to be guarded by the scheduler's lock; its owner may share it.
    """

    def __init__(self, settings: ServiceSettings, lock: threading.Lock) -> None:
        self._settings = settings
        self._lock = lock
        self._idle = threading.Condition(lock)
        self._active: tuple[Managed, ...] = ()  # replaced, never changed; guarded by _lock
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._pools: dict[_Kind, ThreadPoolExecutor] = {}
        self._rate = PollRate(settings.database.poll_interval.total_seconds())
        self._next_stall_look = 0.0

    def start(self) -> None:
        """Begin. The lock is held, and nothing was started before."""
        settings = self._settings
        sizes: dict[_Kind, int] = {
            "capture": settings.capture_workers,
            "upload": settings.upload_workers,
            "maintenance": settings.maintenance_workers,
        }
        for kind, size in sizes.items():
            self._pools[kind] = ThreadPoolExecutor(size, thread_name_prefix=f"vfsstream-{kind}")
        self._thread = threading.Thread(target=self._loop, name="vfsstream-scheduler", daemon=True)
        self._thread.start()

    @property
    def started(self) -> bool:
        """Whether :meth:`start` was called."""
        return self._thread is not None

    @property
    def active(self) -> tuple[Managed, ...]:
        """What is looked at."""
        return self._active

    def set_active(self, active: tuple[Managed, ...]) -> None:
        """Look at these from now on. The lock is held."""
        assert self._lock.locked()
        self._active = active
        self._wake.set()

    def stop(self, deadline: float) -> None:
        """Look no more; jobs that run go on."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(max(1.0, deadline - time.monotonic()))

    def end_workers(self, *, wait: bool) -> None:
        """End the pools."""
        for pool in self._pools.values():
            pool.shutdown(wait=wait, cancel_futures=True)

    def wait_idle(self, managed: Managed, deadline: float) -> bool:
        """Wait until no job of a database runs; ``False`` when one still does at the deadline."""
        with self._idle:
            self._idle.wait_for(lambda: not managed.busy, max(0.0, deadline - time.monotonic()))
            return not managed.busy

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

    def _look_at(self, managed: Managed, now: float, look_for_stalls: bool) -> None:
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

    def _capture(self, managed: Managed) -> None:
        before = managed.database.position
        managed.database.step_capture()
        if managed.database.position != before:
            self._rate.changed(time.monotonic())
            self._wake.set()

    def _submit(self, managed: Managed, kind: _Kind, work: Callable[[], None]) -> None:
        if self._take(managed, kind):
            try:
                self._pools[kind].submit(self._run, managed, kind, work)
            except RuntimeError:  # the pool is shut down
                self._release(managed, kind)

    def maintain(self, managed: Managed) -> None:
        """Run a database's maintenance in this thread, unless a worker is at it."""
        if self._take(managed, "maintenance"):
            self._run(managed, "maintenance", managed.maintenance.run)

    def _take(self, managed: Managed, kind: _Kind) -> bool:
        with self._lock:
            if kind in managed.busy or not managed.enabled:
                return False
            managed.busy[kind] = time.monotonic()
            return True

    def _release(self, managed: Managed, kind: _Kind) -> None:
        with self._idle:
            managed.busy.pop(kind, None)
            self._idle.notify_all()

    def _run(self, managed: Managed, kind: _Kind, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            _log.exception("%s of %s failed unexpectedly", kind, managed.database.path)
            time.sleep(0.2)  # whatever it is, do not spin on it
        finally:
            self._release(managed, kind)
