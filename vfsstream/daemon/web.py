"""The page, the health check and the metrics over HTTP: reading only, for local eyes by default."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from vfsstream.config.secrets import redact
from vfsstream.daemon.http import Answer, HttpError, Request, Server, json_answer
from vfsstream.daemon.manager import DatabaseState
from vfsstream.daemon.metrics import CONTENT_TYPE, Metrics
from vfsstream.errors import UsageError

__all__ = ["Web", "listen", "unhealthy"]

HISTORY = 300
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)
_HEADERS = {
    "Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def listen(address: str) -> socket.socket:
    """A socket bound to ``host:port``; without a host to the loopback only.

    Raises:
        UsageError: the address cannot be used.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"cannot listen on {address}: {error.strerror or error}") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(where)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {address}: {error.strerror or error}", hint="is it in use?") from None
    return listener


def unhealthy(states: Sequence[DatabaseState], max_lag: float) -> list[str]:
    """Why replication is not well: one line per database that is behind or cannot work."""
    found = []
    for state in states:
        if not state.enabled:
            continue
        if state.verify_problem is not None:
            found.append(f"{state.path}: verification failed: {redact(state.verify_problem)}")
        elif state.lag_seconds > max_lag:
            found.append(f"{state.path}: {state.lag_seconds:.0f} seconds behind")
        elif state.stalled:
            found.append(f"{state.path}: stalled")
        elif state.error is not None and state.consecutive_errors > 2:
            found.append(f"{state.path}: {redact(state.error)}")
    return found


class Web:
    """Serves ``/`` (the page), ``/api/status``, ``/healthz`` and ``/metrics``.

    A page in a browser may be made to ask us under a foreign name; the page and its data are given out under our
    own names only.

    Args:
        address: ``host:port``.
        secrets: values that never appear in an answer.
    """

    def __init__(
        self,
        address: str,
        states: Callable[[], Sequence[DatabaseState]],
        metrics: Metrics,
        max_lag: float,
        *,
        details: Callable[[], dict[str, Any]] | None = None,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self._states, self._metrics, self._max_lag = states, metrics, max_lag
        self._details, self._secrets = details or dict, secrets
        self._names = {"localhost", socket.gethostname().lower(), address.rpartition(":")[0].strip("[]").lower()}
        self._history: deque[dict[str, float]] = deque(maxlen=HISTORY)
        self._history_lock = threading.Lock()
        self._server = Server(listen(address), self._routes(), "web")
        self.port = int(self._server.socket.getsockname()[1])
        self._server.start()

    def change(self, max_lag: float, secrets: tuple[str, ...]) -> None:
        """Judge by another limit, and keep other values secret."""
        self._max_lag, self._secrets = max_lag, secrets

    def close(self) -> None:
        """Stop answering."""
        self._server.close()

    def _routes(self) -> dict[str, dict[str, Callable[[Request], Answer]]]:
        return {
            "/": {"GET": self._guarded(self._page)},
            "/api/status": {"GET": self._guarded(self._status)},
            "/healthz": {"GET": self._health},
            "/metrics": {"GET": lambda request: Answer(self._clean(self._metrics.text()), CONTENT_TYPE)},
        }

    def _guarded(self, route: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
        def guard(request: Request) -> Answer:
            host = request.headers.get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if not self._is_ours(name.strip("[]").lower()):
                raise HttpError(421, "this name is not ours; open the page by address or as localhost")
            return route(request)

        return guard

    def _is_ours(self, name: str) -> bool:
        if name in self._names and name:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _page(self, request: Request) -> Answer:
        page = files("vfsstream.daemon").joinpath("page.html").read_bytes()
        return Answer(page, "text/html; charset=utf-8", headers=_HEADERS)

    def _health(self, request: Request) -> Answer:
        problems = unhealthy(self._states(), self._max_lag)
        if problems:
            return Answer(self._clean(("\n".join(problems) + "\n").encode()), status=503)
        return Answer(b"ok\n")

    def record(self) -> None:
        """Remember the present for the curves of the page; called about once a second."""
        states = self._states()
        totals = self._metrics.totals()
        point = {
            "time": time.time(),
            "lag": max((state.lag_seconds for state in states if state.enabled), default=0.0),
            "requests": sum(value for name, value in totals.items() if name.startswith("operations.")),
            "bytes": sum(value for name, value in totals.items() if name.startswith("operation_bytes.")),
        }
        with self._history_lock:
            self._history.append(point)

    def _status(self, request: Request) -> Answer:
        states = self._states()
        with self._history_lock:
            history = list(self._history)
        value = {
            "time": datetime.now(UTC).isoformat(),
            "problems": unhealthy(states, self._max_lag),
            "databases": [_shown(state) for state in states],
            "totals": self._metrics.totals(),
            "history": history,
            **self._details(),
        }
        answer = json_answer(value)
        return Answer(self._clean(answer.body), answer.content_type, headers=_HEADERS)

    def _clean(self, body: bytes) -> bytes:
        for secret in self._secrets:
            body = body.replace(secret.encode(), b"***")
        return body


def _shown(state: DatabaseState) -> dict[str, Any]:
    return {
        "path": state.path,
        "status": state.status,
        "replica": redact(state.replica),
        "txid": f"{state.txid:016x}",
        "replica_txid": None if state.replica_txid is None else f"{state.replica_txid:016x}",
        "last_sync_at": state.last_sync_at.isoformat() if state.last_sync_at else None,
        "lag_seconds": round(state.lag_seconds, 3),
        "lag_txids": state.lag_txids,
        "database_size": state.database_size,
        "wal_size": state.wal_size,
        "error": redact(state.error) if state.error else None,
        "stalled": state.stalled,
        "verified_at": state.verified_at.isoformat() if state.verified_at else None,
        "verify_problem": redact(state.verify_problem) if state.verify_problem else None,
    }
