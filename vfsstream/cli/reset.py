"""``vfsstream reset``: forget the local state, so that the next sync writes the whole database again."""

from __future__ import annotations

import os
import shutil

import click

from vfsstream.cli.grammar import GoCommand, argument, flag
from vfsstream.cli.output import print_json
from vfsstream.cli.sources import config_flags, load, one_argument
from vfsstream.config.schema import Database
from vfsstream.errors import DatabaseError

__all__ = ["reset"]


@click.command(cls=GoCommand)
@config_flags
@flag("dry-run", "list the files that would be removed")
@flag("json", "print JSON")
@argument("words", "DB_PATH", many=True)
def reset(config: str | None, no_expand_env: bool, dry_run: bool, json: bool, words: tuple[str, ...]) -> None:
    """Remove the local LTX files of a database; the database and its replica stay untouched."""
    from vfsstream.config.checks import database_path

    path = database_path(one_argument("reset", words, "database path", "/path/to/db"))
    if not os.path.exists(path):
        raise DatabaseError(f"database does not exist: {path}")
    directory = os.path.join(_meta(config, no_expand_env, path), "ltx")
    files = sorted(os.path.join(base, name) for base, _, names in os.walk(directory) for name in names)
    if files and not dry_run:
        _refuse_a_living_replicator(path, os.path.dirname(directory))
        shutil.rmtree(directory)
    if json:
        print_json({"db_path": path, "removed": not dry_run and bool(files), "files": files})
    elif not files:
        click.echo(f"no local state: {directory}")
    elif dry_run:
        for file in files:
            click.echo(f"would remove {file}")
    else:
        click.echo(f"removed {len(files)} files of {directory}; the next sync writes the whole database again")


def _meta(config: str | None, no_expand_env: bool, path: str) -> str:
    from vfsstream.config.replicas import find_database, meta_path

    found = find_database(load(config, no_expand_env), path) if config else None
    return meta_path(found[0] if found else Database(path=path), path)


def _refuse_a_living_replicator(path: str, meta: str) -> None:
    """A replicator holds a lock in the directory of local state as long as it lives."""
    import fcntl

    lock = os.path.join(meta, "vfsstream", "lock")
    if not os.path.exists(lock):
        return
    with open(lock, "rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DatabaseError(f"{path} is being replicated now", hint="stop the replicator first") from None
