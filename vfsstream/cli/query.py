"""``vfsstream query``: one question to a replica, without restoring it."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from vfsstream.cli.grammar import GoCommand, argument, flag, option
from vfsstream.cli.output import print_json, print_table
from vfsstream.cli.sources import config_flags, is_url, replica_opener
from vfsstream.errors import DatabaseError, UsageError, VfsstreamError

__all__ = ["open_replica", "query"]


def open_replica(
    source: str, config: str | None, no_expand_env: bool, txid: str | None, timestamp: str | None
) -> Any:
    """A connection to a replica at a TXID, before a moment, or live.

    Args:
        source: replica URL, folder of a replica, or a database of the configuration.
    """
    import apsw

    import vfsstream
    from vfsstream.vfs.lending import lent

    if txid and timestamp:
        raise UsageError("-txid and -timestamp exclude each other")
    try:
        if not config and (is_url(source) or os.path.isdir(source)):
            return vfsstream.connect(source, txid=txid, time=timestamp)
        opener, _ = replica_opener(source, config, no_expand_env)
        with lent(opener) as name:
            return vfsstream.connect(name, name=os.path.basename(source), txid=txid, time=timestamp)
    except apsw.Error as error:
        if isinstance(error, VfsstreamError):
            raise
        raise DatabaseError(f"{source}: {error}") from error


@click.command(cls=GoCommand)
@config_flags
@option("txid", str, help="the state after this transaction")
@option("timestamp", str, help="the state before this moment: RFC 3339, or as '5 minutes ago'")
@flag("json", "print JSON, one object per row")
@flag("csv", "print CSV")
@argument("arguments", "DB_PATH|REPLICA_URL SQL", many=True)
def query(
    config: str | None,
    no_expand_env: bool,
    txid: str | None,
    timestamp: str | None,
    json: bool,
    csv: bool,
    arguments: tuple[str, ...],
) -> None:
    """Run SQL on a replica and print the rows. Nothing is restored; only the pages needed are read."""
    if len(arguments) != 2:
        hint = "vfsstream query s3://bucket/db 'SELECT 1'"
        raise UsageError("expected a database path or replica URL, and one SQL text", hint=hint)
    if json and csv:
        raise UsageError("-json and -csv exclude each other")
    source, sql = arguments
    connection = open_replica(source, config, no_expand_env, txid, timestamp)
    try:
        names, rows = _run(connection, sql)
        if json:
            print_json([dict(zip(names, map(_plain, row), strict=True)) for row in rows])
        elif csv:
            _print_csv(names, rows)
        elif names:
            print_table(names, [[_shown(value) for value in row] for row in rows])
    finally:
        connection.close()


def _run(connection: Any, sql: str) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    import apsw

    try:
        cursor = connection.execute(sql)
        names = [column[0] for column in cursor.get_description()]
    except apsw.ExecutionCompleteError:
        return [], []
    except apsw.Error as error:
        if isinstance(error, VfsstreamError):
            raise
        raise DatabaseError(str(error)) from error
    return names, _rows(cursor)


def _rows(cursor: Any) -> Iterable[Sequence[Any]]:
    import apsw

    try:
        yield from cursor
    except apsw.Error as error:
        if isinstance(error, VfsstreamError):
            raise
        raise DatabaseError(str(error)) from error


def _print_csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(names)
    writer.writerows([_plain(value) for value in row] for row in rows)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _shown(value: Any) -> str:
    if value is None:
        return "NULL"
    return f"x'{value.hex()}'" if isinstance(value, bytes) else str(value)
