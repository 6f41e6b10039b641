"""How many databases share one process, and how they are doing: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from vfsstream.errors import UsageError, VfsstreamError
from vfsstream.ltx.names import TXID
from vfsstream.plan.retention import L0State
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.status import CloseResult, DatabaseStatus
from vfsstream.replicate.timetable import MaintenanceSettings

__all__ = ["MaintenanceStatus", "ServiceResult", "ServiceSettings", "ServiceStatus"]


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How the service shares the machine.

    Attributes:
        database: for databases registered without settings of their own.
        maintenance: the timetable, likewise.
        capture_workers: databases captured at once.
        upload_workers: databases uploading at once.
        maintenance_workers: compactions, snapshots and retention passes at once.
        kernel_events: let the kernel tell when a log is written, where it can; otherwise look all the time.
        shutdown_timeout: for all databases together when the service is closed without a deadline.
    """

    database: Settings = field(default_factory=Settings)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    capture_workers: int = 4
    upload_workers: int = 8
    maintenance_workers: int = 2
    kernel_events: bool = True
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
        l0: what the last retention pass made of the level-0 files; empty before the first.
    """

    levels: dict[int, tuple[int, TXID]]
    errors: dict[str, VfsstreamError]
    running: bool
    l0: Mapping[L0State, int]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One look at one database of the service.

    Attributes:
        busy: seconds since which each kind of job (``capture upload maintenance``) that runs now has been running.
    """

    database: DatabaseStatus
    replica: str
    enabled: bool
    maintenance: MaintenanceStatus
    busy: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ServiceResult:
    """What closing achieved: truthful, database by database.

    Attributes:
        uploaded: everything of every database is in its replica.
        databases: the result of each, by path.
    """

    uploaded: bool
    databases: dict[str, CloseResult]
