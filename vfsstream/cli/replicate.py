"""``vfsstream replicate``: the replicator."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from vfsstream.cli.exits import ExitStatus
from vfsstream.cli.grammar import GoCommand, argument, flag, option
from vfsstream.cli.sources import config_flags, is_url
from vfsstream.config.schema import Config
from vfsstream.errors import UsageError

__all__ = ["replicate"]


@click.command(cls=GoCommand)
@config_flags
@option("exec", str, metavar="COMMAND", help="run a program; its end is the end of the replicator")
@option("log-level", str, metavar="LEVEL", help="trace, debug, info, warn or error")
@flag("once", "sync and upload every database once, then exit")
@flag("force-snapshot", "with -once: also write a snapshot")
@flag("enforce-retention", "with -once: also delete what is out of retention")
@flag("restore-if-db-not-exists", "restore missing databases before starting")
@flag("json", "with -once: print a JSON summary")
@argument("words", "[DB_PATH REPLICA_URL]", many=True)
def replicate(words: tuple[str, ...], **flags: Any) -> None:
    """Replicate databases until stopped: those of the configuration, or one given here."""
    _check(words, flags)
    _aws_names()
    load = _loader(words, flags)
    config = load()
    for database in config.dbs:
        database.restore_if_db_not_exists |= flags["restore_if_db_not_exists"] and not database.dir
    if flags["once"] and config.exec:
        raise UsageError("-once cannot be combined with exec", hint="remove exec from the configuration")
    if flags["once"]:
        from vfsstream.daemon.once import run_once

        _once(config, flags, run_once)
        return
    from vfsstream.daemon.logs import make_log
    from vfsstream.daemon.run import Daemon

    log = make_log(_level(config, flags), config.logging.type, secrets=_secrets(config))
    for warning in config.warnings:
        log.warn("configuration", warning=warning)
    status = Daemon(config, log, None if words else load, flags["exec"]).run()
    if status:
        raise ExitStatus(status)


def _check(words: tuple[str, ...], flags: dict[str, Any]) -> None:
    if len(words) == 1:
        raise UsageError("a replica URL is required", hint=f"vfsstream replicate {words[0]} s3://bucket/app")
    if len(words) > 2:
        hint = "one replica per database; 'vfsstream copy' feeds a second one from the first"
        raise UsageError(f"too many arguments: {' '.join(words[2:])}", hint=hint)
    if words and flags["config"]:
        raise UsageError("DB_PATH and REPLICA_URL cannot be combined with -config", hint="give one or the other")
    if words and not is_url(words[1]):
        path = os.path.abspath(words[1])
        raise UsageError(f"not a replica URL: {words[1]}", hint=f"a scheme is needed, as file://{path}")
    for name in ("force-snapshot", "enforce-retention", "json"):
        if flags[name.replace("-", "_")] and not flags["once"]:
            raise UsageError(f"-{name} needs -once", hint="add -once")
    if flags["once"] and flags["exec"] is not None:
        raise UsageError("-once cannot be combined with -exec", hint="leave one of them out")
    if flags["log_level"]:
        from vfsstream.config.build import suggest

        known = ("trace", "debug", "info", "warn", "warning", "error")
        if flags["log_level"].lower() not in known:
            hint = suggest(flags["log_level"], known) or "trace, debug, info, warn or error"
            raise UsageError(f"unknown log level {flags['log_level']!r}", hint=hint)


def _aws_names() -> None:
    """Litestream's own names of the credentials stand in for the AWS ones, for the child too."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        value = os.environ.get(f"LITESTREAM_{name}")
        if value and not os.environ.get(f"AWS_{name}"):
            os.environ[f"AWS_{name}"] = value


def _loader(words: tuple[str, ...], flags: dict[str, Any]) -> Callable[[], Config]:
    from vfsstream.config.load import load_config, load_pair

    if words:
        return lambda: load_pair(words[0], words[1])
    return lambda: load_config(flags["config"] or None, expand_env=not flags["no_expand_env"])


def _level(config: Config, flags: dict[str, Any]) -> str:
    level = str(flags["log_level"] or os.environ.get("LOG_LEVEL") or config.logging.level).lower()
    if flags["log_level"]:
        os.environ["LOG_LEVEL"] = level
    return level


def _secrets(config: Config) -> tuple[str, ...]:
    from vfsstream.config.checks import secrets_of

    return tuple(secrets_of(config))


def _once(config: Config, flags: dict[str, Any], run_once: Callable[..., list[dict[str, Any]]]) -> None:
    from vfsstream.cli.output import print_json

    for warning in config.warnings:
        click.echo(f"warning: {warning}", err=True)
    results = run_once(config, snapshot=flags["force_snapshot"], retention=flags["enforce_retention"])
    if flags["json"]:
        print_json(results)
    else:
        for result in results:
            click.echo(f"{result['db_path']}: TXID {result['txid']} is in the replica", err=True)
