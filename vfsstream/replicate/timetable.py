"""The timetable of compaction, snapshots and retention, and what is told when they did something. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from vfsstream.errors import UsageError, VfsstreamError
from vfsstream.ltx.names import SNAPSHOT_LEVEL
from vfsstream.plan.compaction import Limits
from vfsstream.plan.contiguity import Problem
from vfsstream.plan.files import FileInfo
from vfsstream.plan.retention import RetentionPolicy
from vfsstream.replicate.events import Event
from vfsstream.replicate.retention import RetentionResult
from vfsstream.replicate.snapshot import SnapshotWay

__all__ = [
    "Compacted",
    "FilesLost",
    "MaintenanceFailed",
    "MaintenanceSettings",
    "ProblemsFound",
    "Retired",
    "SnapshotTaken",
]


@dataclass(frozen=True, slots=True)
class MaintenanceSettings:
    """The timetable; the defaults are Litestream's.

    Attributes:
        levels: interval of level 1, 2, ...; at most 8. Without any, level-0 files are never deleted.
        snapshot_interval: between two snapshots of a database that changes.
        retention: what is kept how long.
        l0_check_interval: between two looks for old level-0 files.
        validation_interval: between two checks of every level's order; zero switches them off.
        audit_interval: between two looks whether the replica of a database that changes still holds its level 0 (every
            tenth time: all levels); zero switches them off. What is missing is uploaded again, or a snapshot replaces
            it.
        idle_audit_interval: the same for a database that does not change, always all levels.
        limits: of one merge.
    """

    levels: tuple[timedelta, ...] = (timedelta(seconds=30), timedelta(minutes=5), timedelta(hours=1))
    snapshot_interval: timedelta = timedelta(hours=24)
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)
    l0_check_interval: timedelta = timedelta(seconds=15)
    validation_interval: timedelta = timedelta(0)
    audit_interval: timedelta = timedelta(seconds=30)
    idle_audit_interval: timedelta = timedelta(hours=24)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if len(self.levels) >= SNAPSHOT_LEVEL:
            raise UsageError(f"at most {SNAPSHOT_LEVEL - 1} compaction levels, found {len(self.levels)}")
        for name in ("snapshot_interval", "l0_check_interval"):
            if getattr(self, name) <= timedelta(0):
                raise UsageError(f"{name} must be positive, found {getattr(self, name)}")
        for name in ("audit_interval", "idle_audit_interval"):
            if getattr(self, name) < timedelta(0):
                raise UsageError(f"{name} must not be negative, found {getattr(self, name)}")
        for number, interval in enumerate(self.levels, 1):
            if interval <= timedelta(0):
                raise UsageError(f"the interval of level {number} must be positive, found {interval}")


@dataclass(frozen=True, slots=True)
class Compacted(Event):
    """A file was made from ``inputs`` files of the level below, ``bytes_in`` bytes together."""

    info: FileInfo
    inputs: int
    bytes_in: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SnapshotTaken(Event):
    """A snapshot was written, in one of the ways of :data:`SnapshotWay`."""

    info: FileInfo
    way: SnapshotWay
    seconds: float


@dataclass(frozen=True, slots=True)
class Retired(Event):
    """Retention deleted files, or could not."""

    result: RetentionResult


@dataclass(frozen=True, slots=True)
class ProblemsFound(Event):
    """Neighbours in a level do not follow one another."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class FilesLost(Event):
    """Files of the replica are gone that nobody here deleted. The replica is compared with the local files anew."""

    infos: tuple[FileInfo, ...]


@dataclass(frozen=True, slots=True)
class MaintenanceFailed(Event):
    """A task failed the ``consecutive``-th time in a row; it is tried again."""

    task: str
    error: VfsstreamError
    consecutive: int
