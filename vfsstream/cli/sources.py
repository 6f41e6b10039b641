"""Which replica a command means: a URL, or a database that the configuration names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vfsstream.cli.grammar import flag, option
from vfsstream.errors import UsageError
from vfsstream.replica.replica import Replica

__all__ = ["Found", "config_flags", "is_url", "one_argument", "replica_source"]

_URL = re.compile(r"\w+://")


@dataclass(frozen=True)
class Found:
    """A replica, and the database it belongs to when the configuration says so."""

    replica: Replica
    kind: str
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
    if not is_url(word):
        raise UsageError(f"{word}: configuration files are not read yet", hint="give the replica URL")
    if config:
        raise UsageError("a replica URL cannot be combined with -config", hint="give one or the other")
    replica = Replica.open(word)
    try:
        yield Found(replica, replica.store.kind)
    finally:
        replica.store.close()
