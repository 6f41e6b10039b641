"""``vfsstream status``: local state of the configured databases, without asking daemon or replica."""

from __future__ import annotations

import os
from typing import Any

import click

from vfsstream.cli.databases import each_database
from vfsstream.cli.grammar import GoCommand, argument, flag
from vfsstream.cli.output import human_size, print_json, print_table, rfc3339
from vfsstream.cli.sources import config_flags, load
from vfsstream.config.schema import Config, Database
from vfsstream.errors import UsageError
from vfsstream.ltx.names import LEVELS, parse_name

__all__ = ["status"]


@click.command(cls=GoCommand)
@config_flags
@flag("json", "print JSON")
@flag("remote", "also ask each replica for its newest TXID")
@argument("words", "[DB_PATH]", many=True)
def status(config: str | None, no_expand_env: bool, json: bool, remote: bool, words: tuple[str, ...]) -> None:
    """Show the local state of the configured databases."""
    from vfsstream.config.checks import database_path

    loaded = load(config, no_expand_env)
    wanted = database_path(words[0]) if words and words[0] else None
    rows = [_row(entry, path) for entry, path in each_database(loaded) if wanted in (None, path)]
    if wanted is not None and not rows:
        raise UsageError(
            f"database not in {loaded.file or 'the configuration'}: {wanted}", hint="vfsstream databases"
        )
    if remote:
        for row in rows:
            row.update(_remote(loaded, row["database"]))
    if json:
        print_json(rows)
    else:
        columns = ["database", "status", "local_txid", "wal_size"]
        columns += ["replica_txid", "replica_time"] if remote else []
        columns += ["verified_at", "verified"] if any("verified" in row for row in rows) else []
        titles = [name.replace("_", " ") for name in columns]
        print_table(titles, [[row.get(name, "-") for name in columns] for row in rows])


def _row(entry: Database, path: str) -> dict[str, Any]:
    from vfsstream.config.replicas import meta_path

    if not os.path.exists(path):
        return {"database": path, "status": "no database", "local_txid": "-", "wal_size": "-"}
    state, txid = _local(os.path.join(meta_path(entry, path), "ltx", "0"))
    try:
        size = os.stat(path + "-wal").st_size
    except OSError:
        size = 0
    row = {"database": path, "status": state, "local_txid": txid, "wal_size": human_size(size)}
    return {**row, **_verified(meta_path(entry, path))}


def _verified(meta: str) -> dict[str, str]:
    """What the daemon found when it read the replica last, if it ever did."""
    from pathlib import Path

    from vfsstream.daemon import verdict as kept

    verdict = kept.load(Path(meta))
    if verdict is None:
        return {}
    return {"verified_at": rfc3339(verdict.at), "verified": "whole" if verdict.ok else verdict.problems[0]}


def _local(directory: str) -> tuple[str, str]:
    try:
        names = [parsed for name in os.listdir(directory) if (parsed := parse_name(name))]
    except FileNotFoundError:
        names = []
    except OSError:
        return "error", "-"
    if not names:
        return "not initialized", "-"
    return "ok", str(max(high for _, high in names))


def _remote(config: Config, path: str) -> dict[str, str]:
    from vfsstream.config.replicas import find_database, open_replica

    found = find_database(config, path)
    assert found is not None
    with open_replica(config, found[1]) as replica:
        files = [file for level in replica.all_files(LEVELS).values() for file in level]
    newest = max(files, key=lambda file: file.max_txid, default=None)
    if newest is None:
        return {"replica_txid": "-", "replica_time": "-"}
    return {"replica_txid": str(newest.max_txid), "replica_time": rfc3339(newest.created_at)}
