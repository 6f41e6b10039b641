"""``vfsstream mcp``: serve an assistant over stdin and stdout, or over HTTP."""

from __future__ import annotations

import os
import threading

import click

from vfsstream.cli.grammar import GoCommand, argument, flag, option
from vfsstream.cli.progress import interruptible
from vfsstream.cli.sources import config_flags
from vfsstream.config.schema import Config
from vfsstream.errors import ConfigError, UsageError

__all__ = ["mcp"]


@click.command(cls=GoCommand)
@config_flags
@option("addr", str, metavar="HOST:PORT", help="serve HTTP at /mcp instead of stdin and stdout")
@option("token", str, help="bearer token of HTTP clients (default: $VFSSTREAM_MCP_TOKEN)")
@flag("allow-restore", "also offer the tool that writes a restored database")
@argument("words", "", many=True)
def mcp(
    config: str | None,
    no_expand_env: bool,
    addr: str | None,
    token: str | None,
    allow_restore: bool,
    words: tuple[str, ...],
) -> None:
    """Serve the Model Context Protocol: databases, restore points, read-only queries."""
    from vfsstream.daemon.mcp import serve_http, serve_stdio

    if words:
        raise UsageError(f"too many arguments: {' '.join(words)}", hint="vfsstream mcp -h")
    loaded = _config(config, no_expand_env)
    if not addr:
        serve_stdio(loaded, allow_restore=allow_restore)
        return
    token = token or os.environ.get("VFSSTREAM_MCP_TOKEN") or loaded.mcp_token
    close = serve_http(addr, loaded, token=token, allow_restore=allow_restore)
    click.echo(f"serving MCP on port {close.port}", err=True)  # type: ignore[attr-defined]
    with interruptible() as stop:
        _wait(stop)
    close()


def _wait(stop: threading.Event) -> None:
    while not stop.wait(1.0):
        pass


def _config(path: str | None, no_expand_env: bool) -> Config:
    """The configuration; without any there are only replica URLs."""
    from vfsstream.config.load import load_config

    try:
        return load_config(path or None, expand_env=not no_expand_env)
    except ConfigError:
        if path or os.environ.get("LITESTREAM_CONFIG"):
            raise
        return Config()
