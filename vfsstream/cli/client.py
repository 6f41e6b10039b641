"""Speaks to a running daemon over its control socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable
from typing import Any

from vfsstream.cli.grammar import flag, option
from vfsstream.cli.types import INTEGER
from vfsstream.errors import StoreError, UsageError

__all__ = ["DEFAULT_SOCKET", "call", "client_flags", "local_path"]

DEFAULT_SOCKET = "/var/run/litestream.sock"


def client_flags(seconds: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``-socket``, ``-timeout`` and ``-json``."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        text = f"longest wait in whole seconds (default {seconds})"
        for decorate in (
            flag("json", "print JSON"),
            option("timeout", INTEGER, metavar="SECONDS", default=str(seconds), help=text),
            option(
                "socket",
                str,
                metavar="PATH",
                default=DEFAULT_SOCKET,
                help=f"control socket (default {DEFAULT_SOCKET})",
            ),
        ):
            function = decorate(function)
        return function

    return add


def local_path(word: str) -> str:
    """The absolute path of a database as the caller means it, not as the daemon's directory would have it."""
    from vfsstream.config.checks import database_path

    return database_path(word)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def call(command: str, path: str, timeout: int, method: str, route: str, body: Any = None) -> Any:
    """One request; the answer's JSON.

    Raises:
        UsageError: a timeout that is not positive.
        StoreError: no daemon there, or its answer is an error.
    """
    if timeout < 0 or (timeout == 0 and command not in ("start", "stop")):
        raise UsageError(f"-timeout must be greater than 0, found {timeout}")
    connection = _Connection(os.path.expanduser(path) if path.startswith("~/") else path, timeout or None)
    try:
        connection.request(method, route, None if body is None else json.dumps(body))
        reply = connection.getresponse()
        status, text = reply.status, reply.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        hint = "is the daemon running with socket.enabled: true, and is this its socket.path? See -socket"
        raise StoreError(f"cannot reach the control socket {path}: {reason}", hint=hint) from None
    finally:
        connection.close()
    return _value(command, status, text)


def _value(command: str, status: int, text: bytes) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        raise StoreError(f"{command} failed: unexpected answer, HTTP status {status}") from None
    if status != 200:
        message = (
            value.get("error", f"HTTP status {status}") if isinstance(value, dict) else f"HTTP status {status}"
        )
        details = value.get("details") if isinstance(value, dict) else None
        raise StoreError(f"{command} failed: {message}" + (f": {details}" if details else ""))
    return value
