"""The control socket: Litestream's HTTP API over a Unix socket that only its owner may open."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from vfsstream.daemon.http import Answer, HttpError, Request, Server, json_answer
from vfsstream.daemon.manager import Manager, NotManaged, NotRunning
from vfsstream.errors import ConflictError, UsageError

__all__ = ["ControlServer", "rfc3339_nano"]

DEFAULT_TIMEOUT = 30.0
PROBE_SECONDS = 2.0


def rfc3339_nano(moment: datetime) -> str:
    """UTC with as many decimals as there are, as Go's RFC3339Nano."""
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return f"{text}Z"


class ControlServer:
    """Listens on a Unix socket.

    Args:
        path: of the socket.
        permissions: its file mode.
        manager: who does the work.
        info: gives version, pid, uptime_seconds, started_at, database_count.
        resolve: makes a database path of a request absolute.

    Raises:
        ConflictError: a living daemon listens there already.
        UsageError: something that is not a socket is in the way, or the directory is missing.
    """

    def __init__(
        self,
        path: str,
        permissions: int,
        manager: Manager,
        info: Callable[[], dict[str, Any]],
        resolve: Callable[[str], str] = os.path.abspath,
    ) -> None:
        self.path, self.manager, self.info, self.resolve = path, manager, info, resolve
        listener = _bind(path, permissions)
        self._inode = os.stat(path).st_ino
        self._server = Server(listener, self._routes(), "control")
        self._server.start()

    def close(self) -> None:
        """Stop, and remove the socket file if it is still ours."""
        self._server.close()
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)

    def _routes(self) -> dict[str, dict[str, Callable[[Request], Answer]]]:
        return {
            "/info": {"GET": lambda request: json_answer(self.info())},
            "/list": {"GET": self._list},
            "/txid": {"GET": self._txid},
            "/start": {"POST": self._start},
            "/stop": {"POST": self._stop},
            "/sync": {"POST": self._sync},
            "/register": {"POST": self._register},
            "/unregister": {"POST": self._unregister},
            "/debug/sync-status": {"GET": self._diagnostics},
        }

    def _list(self, request: Request) -> Answer:
        databases = []
        for state in self.manager.states():
            entry = {"path": state.path, "status": state.status}
            if state.last_sync_at is not None:
                entry["last_sync_at"] = rfc3339_nano(state.last_sync_at)
            if state.verified_at is not None:
                entry["last_verified_at"] = rfc3339_nano(state.verified_at)
                entry["verified"] = "damaged" if state.verify_problem else "whole"
            databases.append(entry)
        return json_answer({"databases": databases})

    def _txid(self, request: Request) -> Answer:
        path = self._path(request.query)
        for state in self.manager.states():
            if state.path == path:
                return json_answer({"txid": state.txid})
        raise HttpError(404, f"database not found: {path}")

    def _start(self, request: Request) -> Answer:
        body = _body(request)
        path = self._path(body)
        changed, txid = _carry(lambda: self.manager.start(path, _timeout(body)), unknown=500)
        return json_answer({"status": "started" if changed else "already_running", "path": path, "txid": txid})

    def _stop(self, request: Request) -> Answer:
        body = _body(request)
        path = self._path(body)
        changed, txid = _carry(lambda: self.manager.stop(path, _timeout(body)), unknown=500)
        return json_answer({"status": "stopped" if changed else "already_stopped", "path": path, "txid": txid})

    def _sync(self, request: Request) -> Answer:
        body = _body(request)
        path = self._path(body)
        wait = bool(body.get("wait", False))
        answer = _carry(lambda: self.manager.sync(path, wait, _timeout(body)), unknown=404)
        found = {"status": answer.status, "path": path, "txid": answer.txid}
        return json_answer({**found, "replicated_txid": answer.replicated_txid})

    def _register(self, request: Request) -> Answer:
        body = _body(request)
        path = self._path(body)
        url = body.get("replica_url")
        if not isinstance(url, str) or not url:
            raise HttpError(400, "replica_url required")
        try:
            new = self.manager.register(path, url)
        except UsageError as error:
            raise HttpError(400, _text(error)) from None
        return json_answer({"status": "registered" if new else "already_registered", "path": path})

    def _unregister(self, request: Request) -> Answer:
        body = _body(request)
        path = self._path(body)
        txid = _carry(lambda: self.manager.unregister(path, _timeout(body)), unknown=500)
        status = "unregistered" if txid is not None else "already_unregistered"
        return json_answer({"status": status, "path": path, "txid": txid or 0})

    def _diagnostics(self, request: Request) -> Answer:
        path = self.resolve(request.query["path"]) if request.query.get("path") else None
        return json_answer({"databases": _carry(lambda: self.manager.diagnostics(path), unknown=404)})

    def _path(self, fields: Any) -> str:
        path = fields.get("path")
        if not isinstance(path, str) or not path:
            raise HttpError(400, "path required")
        return self.resolve(path)


def _text(error: Exception) -> str:
    from vfsstream.config.secrets import redact

    return redact(str(error))


def _carry(work: Callable[[], Any], unknown: int) -> Any:
    try:
        return work()
    except NotManaged as error:
        raise HttpError(unknown, _text(error)) from None
    except NotRunning as error:
        raise HttpError(409, _text(error)) from None


def _body(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(request.body)
    except ValueError as error:
        raise HttpError(400, "invalid request body", str(error)) from None
    if not isinstance(value, dict):
        raise HttpError(400, "invalid request body", "expected a JSON object")
    return value


def _timeout(body: dict[str, Any]) -> float:
    value = body.get("timeout", 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise HttpError(400, "invalid request body", "timeout must be a number of seconds")
    return float(value) if value > 0 else DEFAULT_TIMEOUT


def _bind(path: str, permissions: int) -> socket.socket:
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # never, not even for a moment, open to others
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise UsageError(f"cannot make the control socket {path}: {reason}", hint="set socket.path") from None
    finally:
        os.umask(before)
    os.chmod(path, permissions)
    return listener


def _clear(path: str) -> None:
    """Remove a socket file that nobody listens on; refuse anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot look at the control socket {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} is in the way of the control socket and is not a socket", hint="set socket.path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise UsageError(f"cannot look at the control socket {path}: {error.strerror or error}") from None
    hint = "stop it, or give this one another socket.path"
    raise ConflictError(f"another daemon listens on {path}", hint=hint)
