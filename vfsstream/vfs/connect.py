"""Opening a replica with keywords instead of a URI."""

from __future__ import annotations

from datetime import datetime, timedelta
from urllib.parse import quote

import apsw

from vfsstream.errors import OptionError
from vfsstream.vfs.options import require_key
from vfsstream.vfs.times import format_duration
from vfsstream.vfs.vfs import NAME, register

__all__ = ["connect", "database_uri"]

Value = str | int | float | bool | datetime | timedelta | None


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise OptionError(f"time={value}: the time has no zone", hint="use datetime(..., tzinfo=UTC)")
        return value.isoformat()
    if isinstance(value, timedelta):
        return format_duration(value.total_seconds())
    if isinstance(value, float):
        return format_duration(value)
    return str(value)


def database_uri(replica_url: str | None = None, *, name: str | None = None, **options: Value) -> str:
    """The database name to give to any SQLite driver, as ``file:app?vfs=litestream&mode=ro&replica_url=…``.

    Args:
        replica_url: the replica; by default that of the environment.
        name: what the database is called; without meaning for the replica.
        options: the VFS's options; durations as text, seconds (float) or timedelta.

    Raises:
        OptionError: an unknown option.
    """
    parameters = {"vfs": NAME, "mode": "ro"}
    if replica_url is not None:
        parameters["replica_url"] = replica_url
    for key, value in options.items():
        require_key(key)
        if value is not None:
            parameters[key] = _text(value)
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in parameters.items())
    label = name or (replica_url or "").partition("?")[0].rstrip("/").rpartition("/")[2] or "replica"
    return f"file:{quote(label, safe='')}?{query}"


def connect(
    replica_url: str | None = None,
    *,
    name: str | None = None,
    statementcachesize: int = 100,
    **options: Value,
) -> apsw.Connection:
    """Open a replica, read-only, following its primary unless ``txid`` or ``time`` is given.

    Args:
        replica_url: as ``s3://bucket/path`` or ``file:///path``; by default ``LITESTREAM_REPLICA_URL``.
        name: what the database is called.
        statementcachesize: of the apsw connection.
        options: the VFS's options, as ``cache_size="64MB"``, ``poll_interval="500ms"``, ``time=datetime(…)``.

    Raises:
        OptionError: an option that cannot be honoured.
        ReplicaEmpty: the replica has no files.
        NotRestorable: no files lead to ``txid`` or ``time``.
        StoreError: the store cannot be reached.
    """
    register()
    return apsw.Connection(
        database_uri(replica_url, name=name, **options),
        flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        statementcachesize=statementcachesize,
    )
