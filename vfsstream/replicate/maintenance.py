"""Compaction, snapshots and retention of one replica: what is due, and doing it.

No thread of its own: somebody asks :meth:`Maintenance.seconds_until_due` and calls :meth:`Maintenance.run`, one call
at a time. What lies in the replica is listed once and then remembered; a database that does not change costs no
request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

from vfsstream.errors import Interrupted, MissingError, VfsstreamError
from vfsstream.ltx.names import SNAPSHOT_LEVEL, TXID
from vfsstream.plan.compaction import plan_compaction
from vfsstream.plan.contiguity import find_problems
from vfsstream.plan.files import FileInfo
from vfsstream.plan.restore import restore_plan
from vfsstream.plan.retention import L0State, l0_states
from vfsstream.replicate.audit import Audit
from vfsstream.replicate.catalogue import Catalogue
from vfsstream.replicate.compactor import Compactor
from vfsstream.replicate.events import Event, Observer
from vfsstream.replicate.maintained import Maintained
from vfsstream.replicate.pagesums import PageSums
from vfsstream.replicate.retention import Retention, RetentionResult
from vfsstream.replicate.schedule import TrustedClock, seconds_to_next_run, spread, too_early
from vfsstream.replicate.snapshot import take_snapshot
from vfsstream.replicate.timetable import (
    Compacted,
    FilesLost,
    MaintenanceFailed,
    MaintenanceSettings,
    ProblemsFound,
    Retired,
    SnapshotTaken,
)

__all__ = ["Maintenance"]

_Task = int | Literal["l0", "validate", "audit"]
_ALWAYS = frozenset({"validate", "audit"})
_NAMES: dict[_Task, str] = {"l0": "level-0 retention", "audit": "the look at the replica"}
_FIRST_RETRY, _LAST_RETRY = 2.0, 300.0


class Maintenance:
    """The timetable of one database.

    Args:
        observer: is told what happened.
        stop: set it to end what is running.
        wall: the wall clock, aware UTC.
        monotonic: a clock that never steps, seconds.
    """

    def __init__(
        self,
        database: Maintained,
        settings: MaintenanceSettings | None = None,
        *,
        observer: Observer | None = None,
        stop: threading.Event | None = None,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database, self.settings = database, settings or MaintenanceSettings()
        self.catalogue = Catalogue()
        self.errors: dict[str, VfsstreamError] = {}
        self.l0_states: Mapping[L0State, int] = {}  # replaced, never changed
        self._observer = observer or (lambda event: None)
        self._stop = stop or threading.Event()
        self._wall, self._monotonic = wall, monotonic
        self._clock = TrustedClock(wall(), monotonic())
        self._sums = PageSums(database.own_folder / "sums") if database.own_folder is not None else None
        self._compactor = Compactor(database.replica, local=database.local_file, sums=self._sums, stop=self._stop)
        self._retention = Retention(database.replica, self.catalogue, self.settings.retention, monotonic=monotonic)
        self._lock = threading.Lock()  # guards the three below
        self._early: list[FileInfo] = []
        self._full: FileInfo | None = None
        self._dirty: set[_Task] = {*range(1, len(self.settings.levels) + 1), SNAPSHOT_LEVEL, "l0"}
        self._failures: dict[_Task, int] = {}
        self._due: dict[_Task, float] = dict.fromkeys(self._tasks(), monotonic())
        self._first = set(self._due)
        self._must_retire = False
        idle = self.settings.idle_audit_interval
        early = timedelta(seconds=spread(str(database.path), idle, idle))  # not all databases at the same moment
        self._audit = Audit(self.settings.audit_interval, idle - early, monotonic())

    def _tasks(self) -> list[_Task]:
        """In the order in which they run when all are due: a snapshot before what relies on it."""
        tasks: list[_Task] = ["audit", SNAPSHOT_LEVEL, *range(1, len(self.settings.levels) + 1), "l0"]
        return [*tasks, "validate"] if self.settings.validation_interval else tasks

    def uploaded(self, info: FileInfo, *, full: bool) -> None:
        """A level-0 file reached the replica. From any thread."""
        with self._lock:
            if self.catalogue.loaded:
                self.catalogue.add(info)
            else:
                self._early.append(info)
            if full:
                self._full = info
            self._dirty |= {1, SNAPSHOT_LEVEL, "l0", "audit"}

    def seconds_until_due(self) -> float:
        """How long nothing has to be done; 0 when something is due. No request, no waiting."""
        if self.database.replica_position is None:
            return 1.0
        if self.database.needs_snapshot and not self._failures.get(SNAPSHOT_LEVEL):
            return 0.0
        with self._lock:
            due = [self._due_at(task) for task in self._due if task in self._dirty or task in _ALWAYS]
        return max(0.0, min(due) - self._monotonic())

    def _due_at(self, task: _Task) -> float:
        """When a task runs, if there is something to do for it. The lock is held."""
        looks = self._audit.due(changed="audit" in self._dirty) if task == "audit" else 0.0
        return max(self._due[task], looks)

    def run(self) -> None:
        """Do everything that is due. Never raises for what a store or a file does: see ``errors`` and the events."""
        if self.database.replica_position is None:
            return
        for task in self._tasks():
            if self._stop.is_set() or self.database.replica_position is None:
                return
            urgent = task == SNAPSHOT_LEVEL and self.database.needs_snapshot
            if not urgent and not self._is_due(task):
                continue
            if urgent and self._failures.get(task) and self._due[task] > self._monotonic():
                continue
            self._attempt(task)

    def snapshot_now(self) -> FileInfo | None:
        """Write a snapshot whatever the timetable says; ``None`` when the newest one holds the position already.

        Raises:
            StoreError, DatabaseError: it was not written.
        """
        self._load()
        newest = self.catalogue.newest(SNAPSHOT_LEVEL)
        if newest is not None and newest.max_txid >= self._newest_txid():
            return None
        urgent = self.database.needs_snapshot or self._is_broken()
        return self._write_snapshot(self._full, urgent=urgent, reach=self._newest_txid())

    def enforce_retention(self, *, dry_run: bool = False) -> list[RetentionResult]:
        """Delete now what may be deleted; with ``dry_run`` only say what.

        Raises:
            StoreError: a listing or deletion failed.
        """
        self._reload()
        now = self._now()
        results = [
            self._retention.enforce_snapshots(now, dry_run=dry_run),
            self._retention.enforce_l0(now, dry_run=dry_run),
        ]
        return [result for result in results if result != RetentionResult()]

    def _is_due(self, task: _Task) -> bool:
        with self._lock:
            return (task in self._dirty or task in _ALWAYS) and self._due_at(task) <= self._monotonic()

    def _attempt(self, task: _Task) -> None:
        name = f"level {task}" if isinstance(task, int) else _NAMES.get(task, task)
        try:
            self._load()
            self._perform(task)
        except Interrupted:
            return
        except VfsstreamError as error:
            count = self._failures[task] = self._failures.get(task, 0) + 1
            self.errors[name] = error
            self._due[task] = self._monotonic() + min(_LAST_RETRY, _FIRST_RETRY * 2 ** (count - 1))
            if isinstance(error, MissingError):
                self._audit.hurried = True  # somebody deleted files
            self._tell(MaintenanceFailed(*self._stamp(), name, error, count))
            return
        self._failures.pop(task, None)
        self.errors.pop(name, None)
        self._first.discard(task)
        if task != "audit":
            self._due[task] = self._monotonic() + self._pause(task)

    def _pause(self, task: _Task) -> float:
        interval = self._interval(task)
        if task == "l0":
            return interval / timedelta(seconds=1)
        return seconds_to_next_run(self._wall(), interval, spread(str(self.database.path), interval))

    def _interval(self, task: _Task) -> timedelta:
        if task == "l0":
            return self.settings.l0_check_interval
        if isinstance(task, str):
            return self.settings.validation_interval
        return self.settings.snapshot_interval if task == SNAPSHOT_LEVEL else self.settings.levels[task - 1]

    def _load(self) -> None:
        if self.catalogue.loaded:
            return
        listing = self.database.listing
        if listing is not None and not self.catalogue.used:
            self.catalogue.fill(listing)
        else:
            self._report_losses(self.catalogue.load(self.database.replica))
        with self._lock:
            early, self._early = self._early, []
        for info in early:
            self.catalogue.add(info)
        if self._is_broken():
            with self._lock:
                self._dirty.add(SNAPSHOT_LEVEL)
            self._due[SNAPSHOT_LEVEL] = self._monotonic()

    def _perform(self, task: _Task) -> None:
        if task == "audit":
            self._look_for_losses()
        elif task == SNAPSHOT_LEVEL:
            self._snapshot()
        elif task == "l0":
            self._retire_l0()
        elif task == "validate":
            problems = find_problems(self.catalogue.all())
            if problems:
                self._tell(ProblemsFound(*self._stamp(), tuple(problems)))
        else:
            self._compact(task)

    def _look_for_losses(self) -> None:
        with self._lock:
            changed = "audit" in self._dirty
            self._dirty.discard("audit")
        used = (level for level, files in self.catalogue.all().items() if files)
        try:
            lost = self.catalogue.missing(self.database.replica, self._audit.levels(used, changed=changed))
        except VfsstreamError:
            with self._lock:
                self._dirty.add("audit")
            raise
        if lost or self._audit.hurried:
            self._distrust()
        self._audit.made(self._monotonic())
        self._report_losses(lost)

    def _report_losses(self, lost: list[FileInfo]) -> None:
        if lost:
            self.database.compare_again()
            self._tell(FilesLost(*self._stamp(), tuple(lost)))

    def _compact(self, level: int) -> None:
        newest = self.catalogue.newest(level)
        if level in self._first and too_early(newest, self._wall(), self._interval(level)):
            return
        with self._lock:
            self._dirty.discard(level)
        source = self.catalogue.files(level - 1)
        snapshots = self.catalogue.snapshots()
        plan = plan_compaction(level, source, self.catalogue.files(level), snapshots, limits=self.settings.limits)
        if plan.waits_for_snapshot:
            with self._lock:
                self._dirty |= {level, SNAPSHOT_LEVEL}
            return
        try:
            for merge in plan.merges:
                started = self._monotonic()
                for info in self._compactor.compact(merge):
                    self.catalogue.add(info)
                    self._retention.proved.add(info)
                    seconds = self._monotonic() - started
                    self._tell(Compacted(*self._stamp(), info, len(merge.inputs), merge.size, seconds))
                with self._lock:
                    self._dirty |= {level + 1, "l0"}
        except VfsstreamError:
            with self._lock:
                self._dirty.add(level)
            raise
        if len(plan.merges) > 1 and level < len(self.settings.levels):
            self._due[level + 1] = self._monotonic()  # so that no level keeps a gap above its end for long
        if level == 1:
            self._retire_l0()

    def _snapshot(self) -> None:
        if self.database.needs_snapshot:
            self._reload()
        newest = self.catalogue.newest(SNAPSHOT_LEVEL)
        urgent = self.database.needs_snapshot or self._is_broken()
        position = self._newest_txid()
        if not position or (newest is not None and newest.max_txid >= position and not urgent):
            with self._lock:
                self._dirty.discard(SNAPSHOT_LEVEL)
            if self._must_retire:
                self._retire_snapshots()
            return
        interval = self.settings.snapshot_interval
        recent = newest is not None and newest.created_at is not None and self._age(newest) < interval
        if SNAPSHOT_LEVEL in self._first and recent and not urgent:
            return
        with self._lock:
            full = self._full
        self._write_snapshot(full, urgent=urgent)
        self._retire_snapshots()

    def _write_snapshot(self, full: FileInfo | None, *, urgent: bool, reach: int = 0) -> FileInfo:
        started = self._monotonic()
        with self._lock:
            self._dirty.discard(SNAPSHOT_LEVEL)
        try:
            info, way = take_snapshot(
                self.database, self._compactor, self.catalogue, full, urgent=urgent, reach=reach
            )
        except VfsstreamError:
            with self._lock:
                self._dirty.add(SNAPSHOT_LEVEL)
            raise
        self.catalogue.add(info)
        self._retention.proved.add(info)
        # Files after it are in the replica too: what counts is how far all of them lead. That may be less far than the
        # replica's position, when a local file was lost before its upload.
        reached = info.max_txid if self._is_broken() else max(info.max_txid, self._newest_txid())
        self.database.snapshot_written(reached)
        with self._lock:
            if info.max_txid < self._newest_txid():
                self._dirty.add(SNAPSHOT_LEVEL)
            self._dirty |= {1, "l0"}
        self._tell(SnapshotTaken(*self._stamp(), info, way, self._monotonic() - started))
        return info

    def _newest_txid(self) -> TXID:
        return max((i.max_txid for level in range(9) for i in self.catalogue.files(level)), default=TXID(0))

    def _is_broken(self) -> bool:
        try:
            restore_plan(self.catalogue.all())
        except MissingError:
            return bool(self.catalogue.files(0))
        return False

    def _age(self, info: FileInfo) -> timedelta:
        assert info.created_at is not None
        return max(self._wall() - info.created_at, timedelta(0))

    def _retire_l0(self) -> None:
        if not self.settings.levels:
            position = self.database.replica_position
            self.database.forget_local(position or 0)
            return
        newest = self.catalogue.newest(1)
        if newest is not None:
            self.database.forget_local(int(newest.max_txid))
        levels = (self.catalogue.files(0), self.catalogue.files(1), self.catalogue.snapshots())
        self.l0_states = l0_states(*levels, self._now(), self.settings.retention)
        self._report(self._retention.enforce_l0(self._now()))
        self._drop_notes()
        with self._lock:
            if len(self.catalogue.files(0)) <= 1 or not self.settings.retention.delete_remote:
                self._dirty.discard("l0")

    def _retire_snapshots(self) -> None:
        self._must_retire = True
        self._reload()
        self._report(self._retention.enforce_snapshots(self._now()))
        self._drop_notes()
        self._must_retire = False

    def _drop_notes(self) -> None:
        """Of files that are gone."""
        if self._sums is not None:
            self._sums.keep([info for files in self.catalogue.all().values() for info in files])

    def _reload(self) -> None:
        self._distrust()
        self._load()

    def _distrust(self) -> None:
        with self._lock:  # an upload is in the catalogue before the listing begins, or is added after it
            self.catalogue.loaded = False

    def _report(self, result: RetentionResult) -> None:
        if result.blocked is not None:
            raise result.blocked
        if result.deleted or result.retained:
            self._tell(Retired(*self._stamp(), result))

    def _now(self) -> datetime:
        return self._clock.now(self._wall(), self._monotonic())

    def _stamp(self) -> tuple[str, datetime]:
        return str(self.database.path), self._wall()

    def _tell(self, event: Event) -> None:
        self._observer(event)
