"""``vfsstream shell``: SQLite's shell, as apsw has it, on a replica."""

from __future__ import annotations

from typing import Any

import click

from vfsstream.cli.grammar import GoCommand, argument, option
from vfsstream.cli.query import open_replica
from vfsstream.cli.sources import config_flags
from vfsstream.errors import UsageError

__all__ = ["shell"]


@click.command(cls=GoCommand)
@config_flags
@option("txid", str, help="the state after this transaction")
@option("timestamp", str, help="the state before this moment: RFC 3339, or as '5 minutes ago'")
@argument("arguments", "DB_PATH|REPLICA_URL [SQL...]", many=True)
def shell(
    config: str | None,
    no_expand_env: bool,
    txid: str | None,
    timestamp: str | None,
    arguments: tuple[str, ...],
) -> None:
    """Open an SQL shell on a replica: .tables, .schema, .mode and SQL; .exit leaves."""
    if not arguments:
        raise UsageError("expected a database path or replica URL", hint="vfsstream shell s3://bucket/db")
    import sys

    import apsw.shell

    connection = open_replica(arguments[0], config, no_expand_env, txid, timestamp)
    try:
        session: Any = apsw.shell.Shell(db=connection)
        if len(arguments) > 1:
            for line in arguments[1:]:
                session.process_complete_line(line)
        else:
            if sys.stdin.isatty():
                print(f"{arguments[0]} at TXID {connection.pragma('litestream_txid')}", file=sys.stderr)
            session.cmdloop()
    finally:
        connection.close()
