"""What an observer of a replicated database is told, each as a value of its own type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from vfsstream.errors import VfsstreamError
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo

__all__ = [
    "CheckpointFailed",
    "CheckpointResult",
    "Checkpointed",
    "Event",
    "Forked",
    "FullImage",
    "Observer",
    "Rebased",
    "Recovered",
    "StallEnded",
    "Stalled",
    "SyncFailed",
    "Synced",
    "UploadFailed",
    "Uploaded",
]


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """What one checkpoint did.

    Attributes:
        complete: every frame of the log is in the database, so the next writer starts the log anew.
        log_frames: frames in the log.
        done_frames: of these in the database.
        truncated: the log file was cut to nothing.
        stall_seconds: how long writers were kept waiting.
    """

    complete: bool
    log_frames: int
    done_frames: int
    truncated: bool
    stall_seconds: float


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events.

    Attributes:
        path: of the database.
        at: aware UTC time.
    """

    path: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Synced(Event):
    """A local level-0 file was written: ``size`` bytes with ``pages`` pages in ``seconds``."""

    txid: TXID
    pages: int
    commit: int
    size: int
    full: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class FullImage(Event):
    """An increment could not be proven complete, so all pages (or all that differ) were written."""

    txid: TXID
    reason: str


@dataclass(frozen=True, slots=True)
class Uploaded(Event):
    """A level-0 file reached the replica; ``full`` when it holds all pages."""

    info: FileInfo
    full: bool
    page_size: int


@dataclass(frozen=True, slots=True)
class Checkpointed(Event):
    """A checkpoint ran."""

    result: CheckpointResult


@dataclass(frozen=True, slots=True)
class CheckpointFailed(Event):
    """A checkpoint did not come to its end; ``waited`` when it was to wait for readers and truncate."""

    error: Exception
    waited: bool


@dataclass(frozen=True, slots=True)
class Rebased(Event):
    """The replica was ahead of (or beside) the local files: capture went on above it with all pages."""

    old: TXID
    new: TXID
    reason: str


@dataclass(frozen=True, slots=True)
class Forked(Event):
    """The replica belongs to somebody else: uploads stopped until a person decides."""

    error: VfsstreamError


@dataclass(frozen=True, slots=True)
class SyncFailed(Event):
    """Capturing failed the ``consecutive``-th time in a row."""

    error: VfsstreamError
    consecutive: int


@dataclass(frozen=True, slots=True)
class UploadFailed(Event):
    """Uploading failed the ``consecutive``-th time in a row."""

    error: VfsstreamError
    consecutive: int


@dataclass(frozen=True, slots=True)
class Recovered(Event):
    """The first success after failures; ``what`` is ``sync`` or ``upload``."""

    what: str
    failures: int


@dataclass(frozen=True, slots=True)
class Stalled(Event):
    """Committed data has been missing in the replica for ``seconds``; ``what`` says where it stands."""

    seconds: float
    what: str


@dataclass(frozen=True, slots=True)
class StallEnded(Event):
    """The replica has caught up again."""


Observer = Callable[[Event], None]
"""Called from the thread that did the work; must not block and must not raise."""


def now() -> datetime:
    """The time for :attr:`Event.at`."""
    return datetime.now(UTC)
