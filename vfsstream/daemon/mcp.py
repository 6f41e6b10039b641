"""An MCP server: an assistant may look at databases, restore points and data; changing anything needs a flag."""

from __future__ import annotations

import contextlib
import hmac
import threading
from collections.abc import Callable
from typing import Any

from vfsstream import __version__
from vfsstream.config.replicas import find_database, open_replica
from vfsstream.config.schema import Config
from vfsstream.daemon import mcp_tools
from vfsstream.errors import UsageError
from vfsstream.stores.extras import require

__all__ = ["make_server", "serve_http", "serve_stdio"]

Asgi = Callable[[Any, Any, Any], Any]


def make_server(config: Config, *, allow_restore: bool = False) -> Any:
    """The server with its tools.

    Args:
        config: names the databases; replica URLs may be given as well.
        allow_restore: also offer the tool that writes a database.

    Raises:
        MissingExtra: the package is not installed.
    """
    require("mcp", "mcp", "MCP servers")
    from mcp.server import MCPServer
    from mcp.types import ToolAnnotations

    server: Any = MCPServer("vfsstream", version=__version__, instructions=mcp_tools.INSTRUCTIONS)
    tools = mcp_tools.Tools(config, lambda source: _open(config, source))
    reading = ToolAnnotations(read_only_hint=True, destructive_hint=False)
    for tool in tools.reading():
        server.add_tool(tool, annotations=reading)
    if allow_restore:
        server.add_tool(tools.restore, annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False))
    return server


def _open(config: Config, source: str) -> Any:
    if "://" in source:
        from vfsstream.replica.replica import Replica

        return Replica.open(source)
    found = find_database(config, source)
    if found is None:
        raise UsageError(f"no such database in the configuration: {source}", hint="ask for databases first")
    return open_replica(config, found[1])


def serve_stdio(config: Config, *, allow_restore: bool = False) -> None:
    """Serve one client over stdin and stdout until it goes away."""
    make_server(config, allow_restore=allow_restore).run("stdio")


def serve_http(
    address: str, config: Config, *, token: str | None = None, allow_restore: bool = False
) -> Callable[[], None]:
    """Serve over HTTP at ``/mcp``; returns the function that ends it.

    Raises:
        UsageError: the address cannot be used, or is open to others without a token.
    """
    server = make_server(config, allow_restore=allow_restore)
    from vfsstream.daemon.web import listen

    host = address.rpartition(":")[0].strip("[]") or "127.0.0.1"
    if host not in ("127.0.0.1", "::1", "localhost") and not token:
        raise UsageError(f"MCP on {address} would be open to the network without a token", hint="set mcp-token")
    listener = listen(address)
    import uvicorn

    app = server.streamable_http_app(host=host)
    guarded = _with_token(app, token) if token else app
    settings = uvicorn.Config(guarded, log_level="error", access_log=False, lifespan="on")
    http = uvicorn.Server(settings)
    thread = threading.Thread(target=http.run, args=([listener],), name="vfsstream-mcp", daemon=True)
    thread.start()

    def close() -> None:
        http.should_exit = True
        thread.join(5.0)
        if thread.is_alive():
            http.force_exit = True
            thread.join(2.0)
        with contextlib.suppress(OSError):
            listener.close()

    close.port = listener.getsockname()[1]  # type: ignore[attr-defined]
    return close


def _with_token(app: Asgi, token: str) -> Asgi:
    expected = f"Bearer {token}".encode()

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, expected):
                headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b"a bearer token is required\n"})
                return
        await app(scope, receive, send)

    return guard
