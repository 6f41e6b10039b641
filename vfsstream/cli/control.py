"""The commands that ask a running daemon: register, unregister, start, stop, sync, list, info."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from vfsstream.cli.client import call, client_flags, local_path
from vfsstream.cli.grammar import GoCommand, argument, flag, option
from vfsstream.cli.output import print_json
from vfsstream.cli.sources import one_argument
from vfsstream.errors import UsageError

__all__ = ["info", "list", "register", "start", "stop", "sync", "unregister"]


def _print(values: Mapping[str, Any], json: bool) -> None:
    if json:
        print_json(values)
    else:
        for name, value in values.items():
            click.echo(f"{name}: {value}")


@click.command(cls=GoCommand)
@option("replica", str, metavar="URL", help="where to replicate to (required)")
@client_flags(30)
@argument("words", "DB_PATH", many=True)
def register(replica: str | None, socket: str, timeout: int, json: bool, words: tuple[str, ...]) -> None:
    """Replicate one more database, until the daemon ends."""
    path = local_path(one_argument("register", words, "database path", "-replica s3://bucket/app /path/to/db"))
    if not replica:
        raise UsageError("-replica is required", hint=f"vfsstream register -replica s3://bucket/app {path}")
    body = {"path": path, "replica_url": replica}
    reply = call("register", socket, timeout, "POST", "/register", body)
    status = reply["status"] if json else reply["status"].replace("_", " ")
    _print({"status": status, "db_path": path, "replica": replica, "socket": socket}, json)


@click.command(cls=GoCommand)
@flag("dry-run", "say what would be unregistered, ask nobody")
@client_flags(30)
@argument("words", "DB_PATH", many=True)
def unregister(dry_run: bool, socket: str, timeout: int, json: bool, words: tuple[str, ...]) -> None:
    """Sync a database a last time and stop replicating it."""
    path = local_path(one_argument("unregister", words, "database path", "/path/to/db"))
    if dry_run:
        _print({"status": "dry_run", "db_path": path, "socket": socket}, json)
        return
    reply = call("unregister", socket, timeout, "POST", "/unregister", {"path": path, "timeout": timeout})
    answer = {"status": reply["status"], "db_path": path, "final_txid": reply["txid"], "socket": socket}
    _print(answer, json)


def _switch(command: str, state: str, socket: str, timeout: int, json: bool, words: tuple[str, ...]) -> None:
    path = local_path(one_argument(command, words, "database path", "/path/to/db"))
    reply = call(command, socket, timeout, "POST", f"/{command}", {"path": path, "timeout": timeout})
    answer = {"status": reply["status"], "db_path": path, "state": state, "txid": reply["txid"], "socket": socket}
    _print(answer, json)


@click.command(cls=GoCommand)
@client_flags(30)
@argument("words", "DB_PATH", many=True)
def start(socket: str, timeout: int, json: bool, words: tuple[str, ...]) -> None:
    """Replicate a stopped database again."""
    _switch("start", "running", socket, timeout, json, words)


@click.command(cls=GoCommand)
@client_flags(30)
@argument("words", "DB_PATH", many=True)
def stop(socket: str, timeout: int, json: bool, words: tuple[str, ...]) -> None:
    """Sync a database a last time and pause its replication."""
    _switch("stop", "stopped", socket, timeout, json, words)


@click.command(cls=GoCommand)
@flag("wait", "until everything committed is in the replica")
@client_flags(30)
@argument("words", "DB_PATH", many=True)
def sync(wait: bool, socket: str, timeout: int, json: bool, words: tuple[str, ...]) -> None:
    """Sync a database now."""
    path = local_path(one_argument("sync", words, "database path", "/path/to/db"))
    started = time.monotonic()
    reply = call("sync", socket, timeout, "POST", "/sync", {"path": path, "wait": wait, "timeout": timeout})
    answer = {"db_path": path, "txid": reply["txid"]}
    if wait:
        answer["replica_txid"] = reply["replicated_txid"]
    _print({**answer, "duration_ms": round((time.monotonic() - started) * 1000)}, json)


def _no_words(command: str, words: tuple[str, ...]) -> None:
    if words:
        raise UsageError(f"too many arguments: {' '.join(words)}", hint=f"vfsstream {command} -h")


@click.command(cls=GoCommand)
@client_flags(10)
@argument("words", "", many=True)
def list(socket: str, timeout: int, json: bool, words: tuple[str, ...]) -> None:
    """List the databases of the daemon."""
    _no_words("list", words)
    reply = call("list", socket, timeout, "GET", "/list")
    if json:
        print_json(reply)
        return
    for entry in reply["databases"]:
        verified = f", {entry['verified']} at {entry['last_verified_at']}" if "last_verified_at" in entry else ""
        when = entry.get("last_sync_at", "never")
        click.echo(f"{entry['path']} [{entry['status']}] (last sync: {when}{verified})")
    if not reply["databases"]:
        click.echo("no databases")


@click.command(cls=GoCommand)
@client_flags(10)
@argument("words", "", many=True)
def info(socket: str, timeout: int, json: bool, words: tuple[str, ...]) -> None:
    """Show version, process and age of the daemon."""
    from datetime import timedelta

    from vfsstream.config.values import format_duration

    _no_words("info", words)
    reply = call("info", socket, timeout, "GET", "/info")
    if json:
        print_json(reply)
        return
    click.echo(f"vfsstream {reply['version']}")
    uptime = format_duration(timedelta(seconds=reply["uptime_seconds"]))
    rows = {"PID": reply["pid"], "Uptime": uptime, "Started at": reply["started_at"]}
    rows["Databases"] = reply["database_count"]
    if "last_verified_at" in reply:
        rows |= {"Verified since": reply["last_verified_at"], "Damaged replicas": reply["damaged_count"]}
    for name, value in rows.items():
        click.echo(f"  {name}: {value}")
