"""``vfsstream config``: what a configuration file means, before anything runs."""

from __future__ import annotations

from typing import Any

import click

from vfsstream.cli.grammar import GoCommand, argument, flag
from vfsstream.cli.output import print_json, print_table
from vfsstream.cli.sources import load
from vfsstream.config.schema import Config
from vfsstream.config.values import format_duration
from vfsstream.errors import UsageError

__all__ = ["config"]


@click.command(cls=GoCommand)
@flag("json", "print JSON")
@flag("no-expand-env", "do not expand $NAME in the file")
@argument("words", "check [FILE] | keys", many=True)
def config(json: bool, no_expand_env: bool, words: tuple[str, ...]) -> None:
    """Check a configuration file and explain what would run; or list every key."""
    if words[:1] == ("keys",) and len(words) == 1:
        _keys(json)
    elif words[:1] == ("check",) and len(words) <= 2:
        _check(load(words[1] if len(words) == 2 else None, no_expand_env), json)
    else:
        raise UsageError("expected 'check FILE' or 'keys'", hint="vfsstream config check /etc/litestream.yml")


def _keys(json: bool) -> None:
    from vfsstream.config.reference import rows

    table = rows()
    if json:
        print_json(
            [dict(zip(("key", "type", "default", "meaning", "variable"), row, strict=True)) for row in table]
        )
    else:
        print_table(("key", "type", "default", "meaning"), [row[:4] for row in table])


def _check(loaded: Config, json: bool) -> None:
    databases = [_describe(loaded, index) for index in range(len(loaded.dbs))]
    if json:
        document = {"file": loaded.file, "databases": databases, "settings": _settings(loaded)}
        print_json({**document, "warnings": loaded.warnings})
        return
    click.echo(f"{loaded.file or 'the environment'}: ok")
    for name, value in _settings(loaded).items():
        click.echo(f"  {name}: {value}")
    for database in databases:
        click.echo(f"  {database['what']}: {database['path']}")
        click.echo(f"    replica: {database['replica']}")
        click.echo(f"    local state: {database['local_state']}")
    if not databases:
        click.echo("  no databases: nothing would be replicated")


def _describe(loaded: Config, index: int) -> dict[str, Any]:
    from vfsstream.config.checks import database_path
    from vfsstream.config.replicas import meta_path, open_replica, shown

    entry = loaded.dbs[index]
    assert entry.replica is not None
    open_replica(loaded, entry.replica).store.close()  # impossible options and missing packages show here
    if entry.path:
        what, path = "database", database_path(entry.path)
    else:
        depth = " and below" if entry.recursive else ""
        watched = ", as they come and go" if entry.watch else ""
        what, path = f"every {entry.pattern} in{depth}{watched}", database_path(entry.dir or "")
    local = meta_path(entry, path if entry.path else f"{path}/NAME")
    return {"what": what, "path": path, "replica": shown(loaded, entry.replica), "local_state": local}


def _settings(loaded: Config) -> dict[str, str]:
    from vfsstream.config.secrets import redact

    levels = loaded.levels
    intervals = (
        "30s, 5m0s, 1h0m0s"
        if levels is None
        else ", ".join(format_duration(x.interval) for x in levels if x.interval)
    )
    snapshot = loaded.snapshot
    shown = {
        "compaction levels": intervals or "none",
        "snapshot": f"every {_or_day(snapshot.interval)}, kept {_or_day(snapshot.retention)}",
        "metrics": loaded.addr or "off",
        "control socket": loaded.socket.path if loaded.socket.enabled else "off",
        "mcp": loaded.mcp_addr or "off",
    }
    if loaded.exec:
        shown["exec"] = redact(loaded.exec)
    return shown


def _or_day(value: Any) -> str:
    return format_duration(value) if value is not None else "24h0m0s"
