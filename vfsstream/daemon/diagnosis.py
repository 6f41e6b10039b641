"""What ``/debug/sync-status`` says of one database."""

from __future__ import annotations

import contextlib
import os
from datetime import datetime, timedelta
from typing import Any

from vfsstream.config.secrets import redact
from vfsstream.daemon.control import rfc3339_nano
from vfsstream.daemon.verdict import Verdict
from vfsstream.replicate.service import ServiceStatus

__all__ = ["diagnose"]

_OPERATIONS = {"capture": "sync", "upload": "upload", "maintenance": "maintenance"}


def diagnose(status: ServiceStatus, verdict: Verdict | None, now: datetime) -> dict[str, Any]:
    """Litestream's fields, then ours; without what is zero or unknown."""
    entry = {**_litestreams(status, now), **_ours(status, verdict)}
    return {name: value for name, value in entry.items() if value or name in ("path", "active")}


def _litestreams(status: ServiceStatus, now: datetime) -> dict[str, Any]:
    database, tasks = status.database, status.maintenance
    kind = next((kind for kind in _OPERATIONS if kind in status.busy), None)
    entry: dict[str, Any] = {"path": database.path, "active": kind is not None}
    if kind is not None:
        since = now - timedelta(seconds=status.busy[kind])
        entry |= {"operation": _OPERATIONS[kind], "started_at": rfc3339_nano(since)}
        entry |= {"updated_at": rfc3339_nano(now), "elapsed_seconds": round(status.busy[kind], 6)}
    size = 0
    with contextlib.suppress(OSError):
        size = os.stat(f"{database.path}-wal").st_size
    errors = [error for error in (database.last_error, *tasks.errors.values()) if error is not None]
    return {
        **entry,
        "txid": int(database.position),
        "wal_size": size,
        "last_synced_wal_offset": database.wal_size,
        "snapshotting": tasks.running and database.needs_snapshot,
        "reason": database.state if database.state != "replicating" else "",
        "error": "; ".join(redact(str(error)) for error in errors),
    }


def _ours(status: ServiceStatus, verdict: Verdict | None) -> dict[str, Any]:
    database, tasks = status.database, status.maintenance
    return {
        "replica_txid": int(database.replica_position or 0),
        "lag_seconds": round(database.lag_seconds, 3),
        "lag_txids": database.lag_txids,
        "lag_bytes": database.lag_bytes,
        "stalled": database.stalled,
        "consecutive_errors": database.consecutive_errors,
        "disk_full": database.disk_full,
        "needs_snapshot": database.needs_snapshot,
        "checkpoints": database.checkpoints,
        "longest_stall_seconds": round(database.longest_stall_seconds, 6),
        "running": {kind: round(seconds, 3) for kind, seconds in status.busy.items()},
        "levels": {str(level): files for level, (files, _) in tasks.levels.items()},
        "failing_tasks": sorted(tasks.errors),
        "last_verified_at": rfc3339_nano(verdict.at) if verdict else "",
    }
