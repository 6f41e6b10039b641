"""One thread that finds what is due, and bounded pools of workers that do it.

An idle database costs a look of a few microseconds a second. Each database has at most one job of each kind at a
time. No I/O is done under a lock, and a slow upload or a large snapshot of one database holds up no other's capture.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from vfsstream.replicate.database import Database
from vfsstream.replicate.lookout import Lookout
from vfsstream.replicate.maintenance import Maintenance
from vfsstream.replicate.pacing import round_for
from vfsstream.replicate.servicestatus import ServiceSettings

__all__ = ["Managed", "Scheduler"]

_log = logging.getLogger(__name__)

_MAINTENANCE_LOOK = 0.2
_LONGEST_REST = 60.0
_STALL_LOOK = 2.0
_Kind = Literal["capture", "upload", "maintenance"]


class Managed:
    """One database under a scheduler. ``busy`` and ``enabled`` are guarded by the scheduler's lock."""

    def __init__(self, database: Database, maintenance: Maintenance, stop: threading.Event, describe: str) -> None:
        self.database, self.maintenance, self.stop, self.replica = database, maintenance, stop, describe
        self.busy: dict[_Kind, float] = {}  # what runs, since when by the monotonic clock
        self.enabled = False
        self.next_look = 0.0
        self.interval = min(_intervals(database, maintenance))


class Scheduler:
    """Runs the databases given to it until it is stopped.

    Args:
        lock: guards what is said to be guarded by the scheduler's lock; its owner may share it.
        wanted: gives the databases to look at; called with the lock held.
    """

    def __init__(
        self, settings: ServiceSettings, lock: threading.Lock, wanted: Callable[[], tuple[Managed, ...]]
    ) -> None:
        self._settings = settings
        self._lock = lock
        self._idle = threading.Condition(lock)
        self._wanted = wanted
        self._active: tuple[Managed, ...] = ()  # replaced, never changed; guarded by _lock
        self._stale = False  # guarded by _lock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pools: dict[_Kind, ThreadPoolExecutor] = {}
        poll = settings.database.poll_interval.total_seconds()
        self._lookout: Lookout[Managed] = Lookout(poll, kernel=settings.kernel_events)
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
        """What is looked at. The lock is not held."""
        self._ask()
        return self._active

    def refresh(self) -> None:
        """What is to be looked at has changed. The lock is held."""
        assert self._lock.locked()
        if not self._stale:  # a thousand changes, one look at all
            self._stale = True
            self._lookout.wake()

    def _ask(self) -> None:
        with self._lock:
            if not self._stale:
                return
            self._stale = False
            active = self._active = self._wanted()
            self._lookout.watch(
                [(managed.database, managed) for managed in active],
                round_for(managed.interval for managed in active),
            )

    def stop(self, deadline: float) -> None:
        """Look no more; jobs that run go on."""
        self._stop.set()
        self._lookout.wake()
        if self._thread is not None:
            self._thread.join(max(1.0, deadline - time.monotonic()))
        else:
            self._lookout.close()

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
        try:
            while not self._stop.is_set():
                try:
                    self._once()
                except Exception:
                    _log.exception("looking for work failed")
                    self._stop.wait(1.0)  # whatever it is, do not spin on it
        finally:
            self._lookout.close()

    def _once(self) -> None:
        self._ask()
        for managed in self._lookout.due():
            self._submit(managed, "capture")
        if self._lookout.in_round:
            self._round(time.monotonic())

    def _round(self, now: float) -> None:
        look_for_stalls = now >= self._next_stall_look
        if look_for_stalls:
            self._next_stall_look = now + _STALL_LOOK
        for managed in self._active:
            try:
                self._attend(managed, now)
                if look_for_stalls:
                    managed.database.watch()
            except Exception:
                _log.exception("looking at %s failed", managed.database.path)

    def _attend(self, managed: Managed, now: float) -> None:
        """Uploads after a pause, and maintenance when its time has come."""
        if managed.database.poll_upload():
            self._submit(managed, "upload")
        if now >= managed.next_look:
            due = managed.maintenance.seconds_until_due()
            managed.next_look = now + min(max(due, _MAINTENANCE_LOOK), _LONGEST_REST)
            if due <= 0:
                self._submit(managed, "maintenance")

    def _work(self, managed: Managed, kind: _Kind) -> None:
        if kind == "capture":
            managed.database.step_capture()
        elif kind == "upload":
            managed.database.step_upload()
        else:
            managed.maintenance.run()

    def _follow_up(self, managed: Managed, kind: _Kind) -> None:
        """What a finished job makes due."""
        if kind == "capture":
            self._lookout.stir(managed.database)
        else:
            managed.next_look = 0.0
        if kind != "maintenance" and managed.database.poll_upload():
            self._submit(managed, "upload")

    def _submit(self, managed: Managed, kind: _Kind) -> None:
        if self._take(managed, kind):
            try:
                self._pools[kind].submit(self._run, managed, kind)
            except RuntimeError:  # the pool is shut down
                self._release(managed, kind)

    def maintain(self, managed: Managed) -> None:
        """Run a database's maintenance in this thread, unless a worker is at it."""
        if self._take(managed, "maintenance"):
            self._run(managed, "maintenance")

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

    def _run(self, managed: Managed, kind: _Kind) -> None:
        try:
            self._work(managed, kind)
        except Exception:
            _log.exception("%s of %s failed unexpectedly", kind, managed.database.path)
            time.sleep(0.2)  # whatever it is, do not spin on it
        finally:
            self._release(managed, kind)
            self._follow_up(managed, kind)


def _intervals(database: Database, maintenance: Maintenance) -> list[float]:
    """Seconds that must not pass between two looks, lest something runs late by more than half its interval."""
    timetable = maintenance.settings
    halves = (*timetable.levels, timetable.l0_check_interval, timetable.snapshot_interval)
    return [
        database.settings.monitor_interval.total_seconds(),
        *(interval.total_seconds() / 2 for interval in halves),
    ]
