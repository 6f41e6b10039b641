"""Which replica a command means: a URL, or a database that the configuration names."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vfsstream.cli.grammar import flag, option
from vfsstream.errors import StoreError, UsageError

if TYPE_CHECKING:
    from vfsstream.config.schema import Config
    from vfsstream.replica.replica import Replica
    from vfsstream.stores.trace import Trace

__all__ = ["Found", "config_flags", "is_url", "load", "one_argument", "replica_source"]

_URL = re.compile(r"\w+://")


@dataclass(frozen=True)
class Found:
    """A replica, and the database it belongs to when the configuration says so.

    Attributes:
        open: opens the same replica once more.
    """

    replica: Replica
    kind: str
    open: Callable[[], Replica]
    db_path: str | None = None


def config_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """``-config`` and ``-no-expand-env``."""
    expand = flag("no-expand-env", "do not expand $NAME in the configuration file")
    config = option(
        "config", str, metavar="PATH", help="configuration file ($LITESTREAM_CONFIG or /etc/litestream.yml)"
    )
    return config(expand(function))


def is_url(text: str) -> bool:
    """Whether an argument is a replica URL rather than the path of a database."""
    return _URL.match(text) is not None


def one_argument(command: str, words: Sequence[str], what: str, example: str) -> str:
    """The single positional argument.

    Raises:
        UsageError: none, or too many.
    """
    if not words or not words[0]:
        raise UsageError(f"{what} required", hint=f"vfsstream {command} {example}")
    if len(words) > 1:
        raise UsageError(f"too many arguments: {' '.join(words[1:])}", hint=f"vfsstream {command} -h")
    return words[0]


@contextmanager
def replica_source(command: str, words: Sequence[str], config: str | None, no_expand_env: bool) -> Iterator[Found]:
    """The replica that a command's positional argument names; closed at the end.

    Raises:
        UsageError: no argument, a URL together with ``-config``, a database that is not in the configuration.
    """
    word = one_argument(command, words, "database path or replica URL", "REPLICA_URL")
    opener, db_path = replica_opener(word, config, no_expand_env)
    replica = opener()
    try:
        yield Found(replica, replica.store.kind, opener, db_path)
    finally:
        replica.store.close()


def replica_opener(word: str, config: str | None, no_expand_env: bool) -> tuple[Callable[[], Replica], str | None]:
    """What opens the replica of a URL or of a configured database, and that database's path.

    Raises:
        UsageError: a URL together with ``-config``, a database that is not in the configuration.
    """
    if not is_url(word):
        return _configured(word, config, no_expand_env)
    if config:
        raise UsageError("a replica URL cannot be combined with -config", hint="give one or the other")

    def open_url() -> Replica:
        from vfsstream.replica.replica import Replica
        from vfsstream.stores.url import open_store

        return Replica(open_store(word, None, trace=_Notice()))

    return open_url, None


class _Notice:
    """Says on stderr, now and then, that the storage fails and is asked again: silence would look like a hang."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, trace: Trace) -> None:
        if not isinstance(trace.error, StoreError) or not trace.error.retryable or time.monotonic() < self._next:
            return
        import click

        from vfsstream.config.secrets import redact

        self._next = time.monotonic() + 5.0
        text = " ".join(redact(str(trace.error)).split())
        click.echo(f"storage request failed, trying again: {text}", err=True)


def _configured(word: str, config: str | None, no_expand_env: bool) -> tuple[Callable[[], Replica], str]:
    from vfsstream.config.checks import database_path
    from vfsstream.config.replicas import find_database, open_replica

    loaded = load(config, no_expand_env)
    found = find_database(loaded, word)
    path = database_path(word)
    if found is None:
        from vfsstream.cli.grammar import nearest

        near = nearest(path, [database_path(entry.path) for entry in loaded.dbs if entry.path])
        hint = f"did you mean {near}?" if near else "vfsstream databases"
        raise UsageError(f"database not in {loaded.file or 'the configuration'}: {path}", hint=hint)
    return lambda: open_replica(loaded, found[1], trace=_Notice()), path


def load(config: str | None, no_expand_env: bool) -> Config:
    """The configuration; its warnings go to stderr."""
    import click

    from vfsstream.config.load import load_config

    loaded = load_config(config or None, expand_env=not no_expand_env)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    return loaded
