"""The tools of the MCP server. Each returns plain values; errors are one line without secrets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from vfsstream import __version__
from vfsstream.config.checks import database_path
from vfsstream.config.replicas import databases_in, find_database, shown
from vfsstream.config.schema import Config
from vfsstream.config.secrets import redact
from vfsstream.config.values import parse_time, parse_txid
from vfsstream.errors import UsageError, VfsstreamError
from vfsstream.ltx.names import LEVELS
from vfsstream.plan.files import FileInfo

__all__ = ["INSTRUCTIONS", "Tools"]

INSTRUCTIONS = (
    "SQLite databases replicated to object storage. A source is the path of a configured database or a replica "
    "URL. TXIDs are 16 hex digits; times are RFC 3339, UTC."
)
MAX_ROWS = 1000
QUERY_SECONDS = 30.0


class Tools:
    """Bound to a configuration.

    Args:
        open: gives the replica of a source; closed after use.
    """

    def __init__(self, config: Config, open: Callable[[str], Any]) -> None:
        self._config, self._open = config, open

    def reading(self) -> list[Callable[..., Any]]:
        """Those that change nothing."""
        return [self.version, self.databases, self.status, self.ltx, self.points, self.plan_restore, self.query]

    def version(self) -> dict[str, str]:
        """The version of vfsstream."""
        return {"version": __version__}

    def databases(self) -> list[dict[str, str]]:
        """The configured databases and where each is replicated to."""
        found = []
        for entry in self._config.dbs:
            assert entry.replica is not None
            for path in [database_path(entry.path)] if entry.path else databases_in(entry):
                replica = find_database(self._config, path)
                found.append(
                    {"path": path, "replica": shown(self._config, replica[1] if replica else entry.replica)}
                )
        return found

    def status(self, source: str) -> dict[str, Any]:
        """The newest TXID and time in a replica, and its files by level."""
        files = self._files(source)
        newest = max((f for level in files.values() for f in level), key=lambda f: f.max_txid, default=None)
        levels = {
            str(level): {"files": len(listed), "bytes": sum(f.size for f in listed)}
            for level, listed in files.items()
            if listed
        }
        return {"txid": str(newest.max_txid) if newest else None, "time": _time(newest), "levels": levels}

    def ltx(self, source: str, level: int | None = None) -> list[dict[str, Any]]:
        """The LTX files of a replica, of one level or of all."""
        files = self._files(source)
        return [_file(f) for number, listed in files.items() if level in (None, number) for f in listed]

    def points(self, source: str) -> list[dict[str, Any]]:
        """The TXIDs and times that can be restored."""
        from vfsstream.plan.points import every_file, restorable

        found = restorable(every_file(self._files(source)))
        return [{"txid": str(f.max_txid), "time": _time(f)} for f in found]

    def plan_restore(self, source: str, txid: str = "", timestamp: str = "") -> dict[str, Any]:
        """The files that a restore to a TXID or a time would read; the newest state when neither is given."""
        from vfsstream.replicate.planning import find_plan

        with _plain_errors(), self._open(source) as replica:
            plan = find_plan(replica, **_target(txid, timestamp))
        files = [_file(f) for f in plan]
        return {"txid": str(plan[-1].max_txid), "bytes": sum(f.size for f in plan), "files": files}

    def query(self, source: str, sql: str, txid: str = "") -> dict[str, Any]:
        """Run one read-only SQL query on a replica, straight from storage; at most 1000 rows."""
        from vfsstream.vfs.lending import lent

        with _plain_errors(), lent(lambda: self._open(source)) as name:
            return _query(name, sql, txid)

    def restore(self, source: str, output: str, txid: str = "", timestamp: str = "") -> dict[str, Any]:
        """Write a database file from a replica. An existing file is never replaced."""
        from vfsstream.replicate.restore import restore

        with _plain_errors(), self._open(source) as replica:
            result = restore(replica, output, integrity_check="quick", **_target(txid, timestamp))
        return {"output": str(result.output), "txid": str(result.txid), "bytes": result.size}

    def _files(self, source: str) -> dict[int, list[FileInfo]]:
        with _plain_errors(), self._open(source) as replica:
            files: dict[int, list[FileInfo]] = replica.all_files(LEVELS)
            return files


def _query(url: str, sql: str, txid: str) -> dict[str, Any]:
    import apsw

    import vfsstream

    connect: Any = getattr(vfsstream, "connect")  # noqa: B009 - made when first asked for
    connection = connect(url, **({"txid": txid} if txid else {}))
    timer = threading.Timer(QUERY_SECONDS, connection.interrupt)
    timer.name, timer.daemon = "vfsstream-query-limit", True
    timer.start()
    try:
        connection.authorizer = _only_reading
        cursor = connection.execute(sql)
        try:
            names = [name for name, _ in cursor.get_description()]
        except apsw.ExecutionCompleteError:  # no rows
            names = []
        rows = [list(row) for _, row in zip(range(MAX_ROWS + 1), cursor, strict=False)]
    except apsw.Error as error:
        raise UsageError(f"query failed: {error}") from None
    finally:
        timer.cancel()
        connection.close()
    values = [[cell.hex() if isinstance(cell, bytes) else cell for cell in row] for row in rows[:MAX_ROWS]]
    return {"columns": names, "rows": values, "truncated": len(rows) > MAX_ROWS}


def _only_reading(
    action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
) -> int:
    """SQLite's authorizer: no other file may be attached, no setting changed, nothing written."""
    import apsw

    reading = (apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE)
    allowed = action in reading or (action == apsw.SQLITE_PRAGMA and second is None)
    return apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY


def _target(txid: str, timestamp: str) -> dict[str, Any]:
    if txid and timestamp:
        raise UsageError("txid and timestamp exclude each other")
    try:
        return {
            "txid": parse_txid(txid) if txid else None,
            "timestamp": parse_time(timestamp, datetime.now(UTC))[0] if timestamp else None,
        }
    except ValueError as error:
        raise UsageError(str(error)) from None


class _plain_errors:
    """Our errors as those that the protocol reports to the model, redacted; others stay defects."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (VfsstreamError, OSError)):
            from mcp.server.mcpserver.exceptions import ToolError

            raise ToolError(redact(str(error))) from None


def _time(file: FileInfo | None) -> str | None:
    return file.created_at.astimezone(UTC).isoformat() if file and file.created_at else None


def _file(file: FileInfo) -> dict[str, Any]:
    return {"level": file.level, "name": file.name, "size": file.size, "time": _time(file)}
