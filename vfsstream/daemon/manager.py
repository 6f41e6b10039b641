"""What the daemon's doors (control socket, metrics, dashboard, MCP) may ask of the replicator behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from vfsstream.errors import VfsstreamError

__all__ = ["DatabaseState", "Manager", "NotManaged", "NotRunning", "SyncAnswer"]


class NotManaged(VfsstreamError):
    """The daemon does not know this database."""


class NotRunning(VfsstreamError):
    """The database is known, but its replication is stopped."""


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """One database as the daemon sees it now. Sizes in bytes, times aware UTC, lag in seconds.

    Attributes:
        verified_at: end of the last verification of the replica, whatever it found.
        verify_problem: what it found wrong first.
        l0_files: level-0 files of the replica by what retention makes of them, when known.
    """

    path: str
    status: str
    replica: str
    replica_type: str
    txid: int = 0
    replica_txid: int | None = None
    last_sync_at: datetime | None = None
    lag_seconds: float = 0.0
    lag_txids: int = 0
    database_size: int = 0
    wal_size: int = 0
    error: str | None = None
    consecutive_errors: int = 0
    disk_full: bool = False
    stalled: bool = False
    verified_at: datetime | None = None
    verify_problem: str | None = None
    l0_files: Mapping[str, int] | None = None

    @property
    def enabled(self) -> bool:
        """Whether it is to be replicated."""
        return self.status != "stopped"


@dataclass(frozen=True, slots=True)
class SyncAnswer:
    """What a sync did: ``no_change``, ``synced`` (in the replica) or ``synced_local``."""

    status: str
    txid: int
    replicated_txid: int


class Manager(Protocol):
    """The databases of one daemon; thread-safe."""

    def states(self) -> Sequence[DatabaseState]:
        """Every database, by path."""

    def register(self, path: str, replica_url: str) -> bool:
        """Replicate one more database; ``False`` when it was there already."""

    def unregister(self, path: str, timeout: float) -> int | None:
        """Close and forget a database; its last TXID, or ``None`` when it was unknown."""

    def start(self, path: str, timeout: float) -> tuple[bool, int]:
        """Replicate again; whether anything changed, and the TXID."""

    def stop(self, path: str, timeout: float) -> tuple[bool, int]:
        """Sync and stop; whether anything changed, and the TXID."""

    def sync(self, path: str, wait: bool, timeout: float) -> SyncAnswer:
        """Capture what is committed; with ``wait`` until it is in the replica."""

    def diagnostics(self, path: str | None) -> list[dict[str, Any]]:
        """What each database is doing at this moment."""
