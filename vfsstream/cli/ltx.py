"""``vfsstream ltx``: what is in a replica."""

from __future__ import annotations

from typing import Any

import click

from vfsstream.cli.grammar import GoCommand, argument, flag, option
from vfsstream.cli.output import print_json, print_table, rfc3339
from vfsstream.cli.sources import config_flags, replica_source
from vfsstream.cli.types import LEVEL
from vfsstream.ltx.names import LEVELS
from vfsstream.plan.files import FileInfo

__all__ = ["ltx"]


@click.command(cls=GoCommand)
@config_flags
@option("level", LEVEL, default="0", help="level to list, 0 to 9 or all (default 0)")
@flag("json", "print JSON")
@argument("source", "DB_PATH|REPLICA_URL", many=True)
def ltx(config: str | None, no_expand_env: bool, level: int | None, json: bool, source: tuple[str, ...]) -> None:
    """List the LTX files of a replica, level by level."""
    with replica_source("ltx", source, config, no_expand_env) as found:
        levels = LEVELS if level is None else (level,)
        listing = found.replica.all_files(levels)
    files = [file for files in listing.values() for file in files]
    if json:
        print_json([_row(file) for file in files])
    else:
        rows = [(file.level, file.min_txid, file.max_txid, file.size, rfc3339(file.created_at)) for file in files]
        print_table(("level", "min_txid", "max_txid", "size", "created"), rows)


def _row(file: FileInfo) -> dict[str, Any]:
    return {
        "level": file.level,
        "min_txid": str(file.min_txid),
        "max_txid": str(file.max_txid),
        "size": file.size,
        "timestamp": rfc3339(file.created_at),
    }
