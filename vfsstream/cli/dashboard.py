"""``vfsstream dashboard``: a page over replicas, without a replicator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfsstream.cli.databases import each_database
from vfsstream.cli.grammar import GoCommand, argument, option
from vfsstream.cli.progress import interruptible
from vfsstream.cli.sources import config_flags, is_url, load
from vfsstream.cli.types import DURATION
from vfsstream.errors import UsageError

if TYPE_CHECKING:
    from datetime import timedelta

    from vfsstream.replica.replica import Replica

__all__ = ["dashboard"]

Replicas = dict[str, Callable[[], "Replica"]]


@click.command(cls=GoCommand)
@config_flags
@option("addr", str, metavar="HOST:PORT", default="127.0.0.1:9091", help="where to serve (default 127.0.0.1:9091)")
@option("interval", DURATION, default="5s", help="time between two looks at each replica (default 5s)")
@option("max-lag", DURATION, default="1m", help="/healthz fails beyond this (default 1m)")
@argument("words", "[REPLICA_URL ...]", many=True)
def dashboard(
    config: str | None,
    no_expand_env: bool,
    addr: str,
    interval: timedelta,
    max_lag: timedelta,
    words: tuple[str, ...],
) -> None:
    """Serve a page that shows replicas: the configuration's, or those given. It can change nothing."""
    from vfsstream.daemon.metrics import Metrics
    from vfsstream.daemon.onlooker import Onlooker
    from vfsstream.daemon.web import Web

    replicas, meta, secrets = _given(words) if words else _configured(config, no_expand_env)
    onlooker = Onlooker(replicas, meta, max(0.1, interval.total_seconds()))
    metrics = Metrics(onlooker.states)
    with interruptible() as stop:
        web = Web(
            addr, onlooker.states, metrics, max_lag.total_seconds(), details=onlooker.details, secrets=secrets
        )
        onlooker.start()
        click.echo(f"dashboard: http://{addr.rpartition(':')[0] or '127.0.0.1'}:{web.port}/", err=True)
        try:
            while not stop.wait(1.0):
                web.record()
        finally:
            web.close()
            onlooker.close()


def _given(words: tuple[str, ...]) -> tuple[Replicas, dict[str, Path], tuple[str, ...]]:
    from vfsstream.config.secrets import redact
    from vfsstream.replica.replica import Replica

    for word in words:
        if not is_url(word):
            raise UsageError(f"not a replica URL: {word}", hint="a scheme is needed, as file:///backup/app")
    return {redact(word): partial(Replica.open, word) for word in words}, {}, ()


def _configured(config: str | None, no_expand_env: bool) -> tuple[Replicas, dict[str, Path], tuple[str, ...]]:
    from vfsstream.config.checks import secrets_of
    from vfsstream.config.replicas import find_database, meta_path, open_replica

    loaded = load(config, no_expand_env)
    replicas: Replicas = {}
    meta = {}
    for entry, path in each_database(loaded):
        found = find_database(loaded, path)
        assert found is not None
        replicas[path] = partial(open_replica, loaded, found[1])
        meta[path] = Path(meta_path(entry, path))
    if not replicas:
        raise UsageError("no databases are configured", hint="vfsstream dashboard REPLICA_URL")
    return replicas, meta, tuple(secrets_of(loaded))
