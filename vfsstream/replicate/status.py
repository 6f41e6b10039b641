"""How a replicated database is doing: plain values, and the judgement whether it stalls. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from vfsstream.errors import VfsstreamError
from vfsstream.ltx.names import TXID

__all__ = ["CloseResult", "DatabaseStatus", "Lag"]


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """One look at a database.

    Attributes:
        state: ``waiting`` for the file, ``replicating``, ``blocked`` by another replicator, ``stopped``.
        lag_seconds: age of the oldest commit that is not in the replica; 0 when there is none.
        lag_bytes: of local files that are not uploaded.
        wal_size: logical bytes of the log that are captured in this lap.
        stalled: the lag is older than ``stall_after``, whatever the reason.
        needs_snapshot: the replica lacks a base from which the position can be restored.
    """

    path: str
    state: Literal["waiting", "replicating", "blocked", "stopped"]
    position: TXID
    replica_position: TXID | None
    lag_txids: int
    lag_bytes: int
    lag_seconds: float
    database_size: int
    wal_size: int
    last_sync_at: datetime | None
    last_upload_at: datetime | None
    last_error: VfsstreamError | None
    consecutive_errors: int
    disk_full: bool
    stalled: bool
    needs_snapshot: bool
    checkpoints: int
    longest_stall_seconds: float
    bytes_uploaded: int
    files_uploaded: int


@dataclass(frozen=True, slots=True)
class CloseResult:
    """What a close achieved.

    Attributes:
        uploaded: everything committed before the close is in the replica.
        error: why not, or what else went wrong.
    """

    uploaded: bool
    position: TXID
    replica_position: TXID | None
    error: VfsstreamError | None = None


class Lag:
    """Since when the replica lacks something, by a monotonic clock.

    A commit counts from the moment at which the wal-index showed it, captured or not, so neither a capture nor an
    upload that hangs can stay unseen.
    """

    def __init__(self) -> None:
        self._unseen_since: float | None = None
        self._marks: list[tuple[TXID, float]] = []

    def saw_change(self, now: float) -> None:
        """The database has commits that are not captured."""
        if self._unseen_since is None:
            self._unseen_since = now

    def captured(self, txid: TXID, now: float, *, complete: bool) -> None:
        """A file was written; ``complete`` when nothing is left to capture."""
        since = now if self._unseen_since is None else self._unseen_since
        self._marks.append((txid, since))
        if complete:
            self._unseen_since = None

    def nothing_left(self) -> None:
        """There was nothing to capture after all."""
        self._unseen_since = None

    def uploaded(self, position: TXID) -> None:
        """The replica has everything up to here."""
        while self._marks and self._marks[0][0] <= position:
            self._marks.pop(0)

    def seconds(self, now: float) -> float:
        """The age of the oldest commit that is missing in the replica."""
        starts = [since for _, since in self._marks[:1]]
        if self._unseen_since is not None:
            starts.append(self._unseen_since)
        return now - min(starts) if starts else 0.0
