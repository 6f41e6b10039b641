"""The same VFS for the standard library's ``sqlite3``, and with it for SQLAlchemy, Django and Datasette.

::

    import sqlite3
    import vfsstream.sqlite3

    vfsstream.sqlite3.register()
    db = sqlite3.connect("file:app?vfs=litestream&mode=ro&replica_url=s3%3A%2F%2Fbucket%2Fapp", uri=True)

apsw carries its own SQLite, so a VFS registered there is unknown to ``sqlite3``; this module registers one in the
SQLite that ``sqlite3`` uses, and nothing else changes for other connections.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from vfsstream.vfs.connect import database_uri
from vfsstream.vfs.functions import functions_of

if TYPE_CHECKING:
    from vfsstream.vfs.file import ReplicaFile

__all__ = ["add_functions", "connect", "last_error", "register"]


def register() -> None:
    """Register the VFS ``litestream`` in the SQLite that the ``sqlite3`` module uses. Idempotent.

    Raises:
        MissingExtra: this Python hides its SQLite; the message names the ways out.
    """
    from vfsstream.vfs.bridge import register as register_bridge

    register_bridge()


def connect(
    replica_url: str | None = None,
    *,
    name: str | None = None,
    timeout: float = 5.0,
    check_same_thread: bool = True,
    **options: str | int | float | bool | datetime | timedelta | None,
) -> sqlite3.Connection:
    """Open a replica as a connection of the standard library, with the SQL functions of the VFS.

    The arguments are those of :func:`vfsstream.connect`.

    Raises:
        VfsstreamError: what made the opening fail, rather than SQLite's bare code.
    """
    register()
    from vfsstream.vfs import bridge

    bridge.forget_error()
    try:
        connection = sqlite3.connect(
            database_uri(replica_url, name=name, **options),
            uri=True,
            timeout=timeout,
            check_same_thread=check_same_thread,
        )
    except sqlite3.Error as error:
        cause = bridge.thread_error()
        if cause is not None:
            raise cause from error
        raise
    add_functions(connection)
    return connection


def add_functions(connection: sqlite3.Connection) -> None:
    """Give a connection ``litestream_txid()`` and its like; the PRAGMAs work without."""
    file = _file_of(connection)
    if file is None:
        return
    for name, (arguments, function) in functions_of(file).items():
        connection.create_function(name, arguments, function)


def last_error(connection: sqlite3.Connection | None = None) -> BaseException | None:
    """The cause of the last failure in this thread, which SQLite reports as a bare code."""
    from vfsstream.vfs import bridge

    if connection is not None:
        file = _file_of(connection)
        return None if file is None else file.last_error
    return bridge.thread_error()


def _file_of(connection: sqlite3.Connection) -> ReplicaFile | None:
    from vfsstream.vfs import bridge

    try:
        row: Any = connection.execute("PRAGMA litestream_file_id").fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else bridge.file_by_id(int(row[0]))
