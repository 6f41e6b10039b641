"""A small HTTP server over TCP or a Unix socket: routes to functions, JSON out, nothing served that is not listed."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Answer", "HttpError", "Request", "Server", "json_answer"]

MAX_BODY = 1 << 20
SOCKET_TIMEOUT = 30.0


@dataclass(frozen=True)
class Request:
    """What a route gets."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What a route gives back."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpError(Exception):
    """Answer with this status and text instead."""

    def __init__(self, status: int, text: str, details: Any = None) -> None:
        super().__init__(text)
        self.status, self.text, self.details = status, text, details


Route = Callable[[Request], Answer]


def json_answer(value: Any, status: int = 200) -> Answer:
    """A JSON document with a newline at its end."""
    text = json.dumps(value, ensure_ascii=False)
    return Answer(text.encode() + b"\n", "application/json", status)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "vfsstream"
    sys_version = ""
    timeout = SOCKET_TIMEOUT

    def log_message(self, format: str, *arguments: Any) -> None:
        """No access log: a scrape every few seconds says nothing."""

    def address_string(self) -> str:
        return "client"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _serve(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            return self._reply(Answer(b"body too large\n", status=413))
        body = self.rfile.read(int(length))
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        method = "GET" if self.command == "HEAD" else self.command
        return self._reply(server.answer(Request(method, parts.path, query, headers, body)))

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = _serve

    def _reply(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves routes from a thread of its own.

    Args:
        listener: a bound socket; listened on and closed by the server.
        routes: ``{path: {method: function}}``.
        name: of the thread.
        guard: called with each request first; raises :class:`HttpError` to refuse it.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listener: socket.socket,
        routes: Mapping[str, Mapping[str, Route]],
        name: str,
        guard: Callable[[Request], None] | None = None,
    ) -> None:
        self.address_family = listener.family
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_address = listener.getsockname()
        listener.listen(64)
        self.routes, self.guard = routes, guard
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.1,), name=f"vfsstream-{name}", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and join the thread. Idempotent."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join(5)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = self.socket.accept()
        return connection, ("client", 0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not our error."""

    def answer(self, request: Request) -> Answer:
        """The answer of the route, or the error's."""
        try:
            if self.guard is not None:
                self.guard(request)
            methods = self.routes.get(request.path)
            if methods is None:
                return Answer(b"404 page not found\n", status=404)
            route = methods.get(request.method)
            if route is None:
                allowed = {"Allow": ", ".join(sorted(methods))}
                return Answer(b"Method Not Allowed\n", status=405, headers=allowed)
            return route(request)
        except HttpError as error:
            value = {"error": error.text}
            if error.details is not None:
                value["details"] = error.details
            return json_answer(value, error.status)
        except Exception as error:
            from vfsstream.config.secrets import redact

            return json_answer({"error": redact(str(error) or type(error).__name__)}, 500)
