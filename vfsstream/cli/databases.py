"""``vfsstream databases``: what the configuration names."""

from __future__ import annotations

from collections.abc import Iterator

import click

from vfsstream.cli.grammar import GoCommand, argument, flag
from vfsstream.cli.output import print_json, print_table
from vfsstream.cli.sources import config_flags, load
from vfsstream.config.schema import Config, Database
from vfsstream.errors import UsageError

__all__ = ["databases", "each_database"]


@click.command(cls=GoCommand)
@config_flags
@flag("json", "print JSON")
@argument("words", "", many=True)
def databases(config: str | None, no_expand_env: bool, json: bool, words: tuple[str, ...]) -> None:
    """List the databases of the configuration; those of directories as they are now."""
    if words:
        raise UsageError(f"too many arguments: {' '.join(words)}", hint="vfsstream databases -h")
    from vfsstream.config.replicas import scheme_of

    loaded = load(config, no_expand_env)
    rows = []
    for entry, path in each_database(loaded):
        assert entry.replica is not None
        rows.append((path, scheme_of(entry.replica)))
    if json:
        print_json([{"path": path, "replica": kind} for path, kind in rows])
    else:
        print_table(("path", "replica"), rows)


def each_database(config: Config) -> Iterator[tuple[Database, str]]:
    """Every entry with the absolute path of each of its databases."""
    from vfsstream.config.checks import database_path
    from vfsstream.config.replicas import databases_in

    for entry in config.dbs:
        if entry.path:
            yield entry, database_path(entry.path)
        else:
            for found in databases_in(entry):
                yield entry, found
