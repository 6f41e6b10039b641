"""``vfsstream query``: one question to a replica, without restoring it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from vfsstream.cli.grammar import GoCommand, argument, flag, option
from vfsstream.cli.output import print_json, print_table
from vfsstream.errors import DatabaseError, UsageError, VfsstreamError

__all__ = ["open_replica", "query"]


def open_replica(url: str, txid: str | None, timestamp: str | None) -> Any:
    """A connection to a replica at a TXID, before a moment, or live."""
    import apsw

    import vfsstream

    if txid and timestamp:
        raise UsageError("-txid and -timestamp exclude each other")
    try:
        return vfsstream.connect(url, txid=txid, time=timestamp)
    except apsw.Error as error:
        if isinstance(error, VfsstreamError):
            raise
        raise DatabaseError(f"{url}: {error}") from error


@click.command(cls=GoCommand)
@option("txid", str, help="the state after this transaction")
@option("timestamp", str, help="the state before this moment: RFC 3339, or as '5 minutes ago'")
@flag("json", "print JSON, one object per row")
@flag("csv", "print CSV")
@argument("arguments", "REPLICA_URL SQL", many=True)
def query(txid: str | None, timestamp: str | None, json: bool, csv: bool, arguments: tuple[str, ...]) -> None:
    """Run SQL on a replica and print the rows. Nothing is restored; only the pages needed are read."""
    if len(arguments) != 2:
        raise UsageError(
            "expected a replica URL and one SQL text", hint="vfsstream query s3://bucket/db 'SELECT 1'"
        )
    if json and csv:
        raise UsageError("-json and -csv exclude each other")
    url, sql = arguments
    connection = open_replica(url, txid, timestamp)
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
