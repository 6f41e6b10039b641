"""An S3-compatible server in memory with a latency, one bandwidth for all and exact counts of requests.

In a thread of this process (tests, which may reach into it)::

    with S3Server(latency=0.02, bandwidth=100e6) as server:
        url = server.url("bucket", "db")
        server.counts["GET"], server.faults.append(...)

In a process of its own (measurements, where it must not share the interpreter)::

    with ServerProcess(latency=0.02, bandwidth=100e6) as server: ...
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, unquote

from bench.objects import Bucket, Stored, decode_aws_chunked, error_xml, listing_xml

__all__ = ["Fault", "Request", "S3Server", "ServerProcess", "replica_url"]

PIECE = 1 << 17


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the counters and faults see it: kind is LIST, GET, HEAD, PUT, DELETE or POST."""

    kind: str
    bucket: str
    key: str
    range: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one answer.

    Attributes:
        status: answer with this error instead.
        delay: wait so many seconds longer.
        cut_after: close the connection after so many bytes of the body.
        shorten: give so many bytes fewer than asked for, and say so.
        shift: read the range this many bytes further along, and hide it.
        flip: flip one bit in the middle of the body.
    """

    status: int = 0
    delay: float = 0.0
    cut_after: int | None = None
    shorten: int = 0
    shift: int = 0
    flip: bool = False


@dataclass(slots=True)
class _Answer:
    status: int
    body: bytes | memoryview = b""
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None
    cut_after: int | None = None


class S3Server:
    """The server in a thread.

    Args:
        latency: seconds before each answer starts.
        bandwidth: bytes per second, shared by all answers; 0 = unlimited.
        per_connection: bytes per second that one connection gets, as real object stores limit it; 0 = unlimited.

    Attributes:
        counts: requests so far by kind; only LIST, GET, HEAD, PUT, DELETE, POST.
        sent: bytes of bodies sent.
        log: every request, in order of arrival.
        faults: called with each request, in order; the first that returns a :class:`Fault` decides.
        peak: the most requests that were under way at once.
    """

    def __init__(
        self, latency: float = 0.0, bandwidth: float = 0.0, port: int = 0, per_connection: float = 0.0
    ) -> None:
        self.latency, self.bandwidth, self.port = latency, bandwidth, port
        self.per_connection = per_connection
        self.buckets: dict[str, Bucket] = {}
        self.counts: Counter[str] = Counter()
        self.sent = 0
        self.log: list[Request] = []
        self.faults: list[Callable[[Request], Fault | None]] = []
        self.peak = self.active = 0
        self.free_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self.serve, name="bench-s3", daemon=True)
        self._stop: asyncio.Event | None = None

    def serve(self) -> None:
        """Serve until stopped (the body of the thread, or of the process)."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        connections: set[_Connection] = set()
        server = await self._loop.create_server(lambda: _Connection(self, connections), "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for connection in list(connections):
            connection.abort()
        await server.wait_closed()
        await asyncio.sleep(0)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, bucket: str, path: str = "") -> str:
        """The replica URL of a path in a bucket."""
        return replica_url(self.port, bucket, path)

    def bucket(self, name: str) -> Bucket:
        return self.buckets.setdefault(name, Bucket())

    def load(self, bucket: str, prefix: str, directory: Path) -> None:
        """Put every file below a directory into a bucket, under ``prefix`` and its relative path."""
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(directory).as_posix()}".lstrip("/")
                self.bucket(bucket).put(key, Stored(path.read_bytes()))

    def reset(self) -> None:
        """Start the counters again."""
        self.counts.clear()
        self.log.clear()
        self.sent = self.peak = 0

    def fault(self, request: Request) -> Fault:
        for decide in self.faults:
            found = decide(request)
            if found is not None:
                return found
        return Fault()

    def pace(self, now: float, size: int) -> float:
        """Seconds from now until ``size`` more bytes may leave."""
        if not self.bandwidth:
            return 0.0
        self.free_at = max(self.free_at, now) + size / self.bandwidth
        return self.free_at - now


class _Connection(asyncio.Protocol):
    """One connection: HTTP/1.1, one request after the other."""

    def __init__(self, server: S3Server, peers: set[_Connection]) -> None:
        self.server, self.peers = server, peers
        self.buffer = bytearray()
        self.task: asyncio.Task[None] | None = None
        self.wanted: tuple[str, str, dict[str, str], int] | None = None
        self.free_at = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.peers.discard(self)
        if self.task is not None:
            self.task.cancel()

    def abort(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._next()

    def _next(self) -> None:
        if self.task is not None and not self.task.done():
            return
        if self.wanted is None and not self._read_head():
            return
        assert self.wanted is not None
        method, target, headers, length = self.wanted
        if len(self.buffer) < length:
            return
        body = bytes(self.buffer[:length])
        del self.buffer[:length]
        self.wanted = None
        self.task = asyncio.get_running_loop().create_task(self._serve(method, target, headers, body))
        self.task.add_done_callback(lambda task: None if task.cancelled() else self._after(task))

    def _after(self, task: asyncio.Task[None]) -> None:
        if task.exception() is not None:
            self.transport.abort()
        else:
            self._next()

    def _read_head(self) -> bool:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *rest = self.buffer[:end].decode("latin-1").split("\r\n")
        del self.buffer[: end + 4]
        method, target, _ = first.split(" ")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)
        }
        if headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.wanted = (method, target, headers, int(headers.get("content-length", "0")))
        return True

    async def _serve(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        server, loop = self.server, asyncio.get_running_loop()
        path, _, raw_query = target.partition("?")
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        if bucket == "-":
            self._send_head(control(server, key, query))
            return
        request = Request(kind_of(method, key, query), bucket, key, headers.get("range", ""))
        server.counts[request.kind] += 1
        server.log.append(request)
        server.active += 1
        server.peak = max(server.peak, server.active)
        try:
            fault = server.fault(request)
            if server.latency + fault.delay > 0:
                await asyncio.sleep(server.latency + fault.delay)
            answer = spoil(answer_to(server, method, bucket, key, query, headers, body, fault), fault, key)
            await self._send(method, answer, loop)
        finally:
            server.active -= 1

    def _send_head(self, answer: _Answer) -> None:
        length = len(answer.body) if answer.length is None else answer.length
        lines = [f"HTTP/1.1 {answer.status} X", f"Content-Length: {length}", "x-amz-request-id: bench"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        self.transport.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if answer.length is None and len(answer.body) <= PIECE:
            self.transport.write(answer.body)

    def _pace(self, now: float, size: int) -> float:
        if not self.server.per_connection:
            return 0.0
        self.free_at = max(self.free_at, now) + size / self.server.per_connection
        return self.free_at - now

    async def _send(self, method: str, answer: _Answer, loop: asyncio.AbstractEventLoop) -> None:
        if method == "HEAD":
            answer.length = len(answer.body)
            self._send_head(answer)
            return
        answer.length, body = len(answer.body), memoryview(answer.body)
        if answer.cut_after is not None:
            body = body[: answer.cut_after]
        self._send_head(answer)
        for start in range(0, len(body), PIECE):
            piece = body[start : start + PIECE]
            now = loop.time()
            wait = max(self.server.pace(now, len(piece)), self._pace(now, len(piece)))
            if wait > 0.001:
                await asyncio.sleep(wait)
            if self.transport.is_closing():
                return
            self.transport.write(piece)
            self.server.sent += len(piece)
        if answer.cut_after is not None:
            self.transport.close()


def replica_url(port: int, bucket: str, path: str) -> str:
    """A replica URL that Litestream and vfsstream both read."""
    return f"s3://{bucket}/{path}?endpoint=http://127.0.0.1:{port}&region=us-east-1&forcePathStyle=true"


def kind_of(method: str, key: str, query: dict[str, str]) -> str:
    """The kind under which a request is counted."""
    return "LIST" if method == "GET" and (not key or "list-type" in query) else method


def answer_to(
    server: S3Server,
    method: str,
    name: str,
    key: str,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes,
    fault: Fault,
) -> _Answer:
    """Carry a request out."""
    bucket = server.bucket(name)
    if "aws-chunked" in headers.get("content-encoding", "") or headers.get("x-amz-content-sha256", "").startswith(
        "STREAMING"
    ):
        body = decode_aws_chunked(body)
    if not key:
        return _bucket_request(name, bucket, method, query, body)
    if method in ("GET", "HEAD"):
        return _read(bucket, key, headers, fault)
    if method == "DELETE":
        bucket.uploads.pop(query.get("uploadId", ""), None)
        if "uploadId" not in query:
            bucket.delete(key)
        return _Answer(204)
    if method == "PUT":
        return _write(bucket, key, query, headers, body)
    if "uploads" in query:
        upload = bucket.begin_upload(key, _metadata(headers))
        return _xml(
            f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        )
    stored = bucket.finish_upload(query["uploadId"])
    return _xml(
        f"<CompleteMultipartUploadResult><ETag>&quot;{stored.etag}&quot;</ETag></CompleteMultipartUploadResult>"
    )


def _bucket_request(name: str, bucket: Bucket, method: str, query: dict[str, str], body: bytes) -> _Answer:
    if method == "POST" and "delete" in query:
        for part in body.decode().split("<Key>")[1:]:
            bucket.delete(part.split("</Key>", 1)[0])
        return _xml("<DeleteResult></DeleteResult>")
    if method == "GET" and "location" in query:
        return _xml("<LocationConstraint>us-east-1</LocationConstraint>")
    if method == "GET":
        return _xml(listing_xml(name, bucket, query))
    return _Answer(200)


def _read(bucket: Bucket, key: str, headers: dict[str, str], fault: Fault) -> _Answer:
    stored = bucket.objects.get(key)
    if stored is None:
        return _Answer(404, error_xml("NoSuchKey", "The specified key does not exist.", key).encode())
    named = (
        ("ETag", f'"{stored.etag}"'),
        ("Last-Modified", format_datetime(stored.modified.replace(microsecond=0), usegmt=True)),
        ("Accept-Ranges", "bytes"),
        ("Content-Type", "application/octet-stream"),
        *((f"x-amz-meta-{name}", value) for name, value in stored.metadata.items()),
    )
    total = len(stored.data)
    if "range" not in headers:
        return _Answer(200, memoryview(stored.data), named)
    first, _, last = headers["range"].removeprefix("bytes=").partition("-")
    start = int(first) if first else max(0, total - int(last))
    stop = min(total, int(last) + 1) if first and last else total
    if start >= total:
        return _Answer(416, error_xml("InvalidRange", "The requested range is not satisfiable", key).encode())
    body = memoryview(stored.data)[start + fault.shift : stop + fault.shift]
    return _Answer(206, body, (*named, ("Content-Range", f"bytes {start}-{stop - 1}/{total}")))


def _metadata(headers: dict[str, str]) -> dict[str, str]:
    start = "x-amz-meta-"
    return {name[len(start) :]: value for name, value in headers.items() if name.startswith(start)}


def _write(bucket: Bucket, key: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> _Answer:
    if "uploadId" in query:
        bucket.uploads[query["uploadId"]][2][int(query["partNumber"])] = body
        return _Answer(200, headers=(("ETag", f'"{Stored(body).etag}"'),))
    if headers.get("if-none-match") == "*" and key in bucket.objects:
        return _Answer(412, error_xml("PreconditionFailed", "At least one precondition failed", key).encode())
    stored = Stored(body, _metadata(headers))
    bucket.put(key, stored)
    return _Answer(200, headers=(("ETag", f'"{stored.etag}"'),))


def _xml(text: str) -> _Answer:
    return _Answer(200, text.encode(), (("Content-Type", "application/xml"),))


def spoil(answer: _Answer, fault: Fault, key: str) -> _Answer:
    """The answer with the fault in it."""
    if fault.status:
        return _Answer(fault.status, error_xml("InternalError", f"scripted {fault.status}", key).encode())
    if fault.shorten:
        answer.body = answer.body[: max(0, len(answer.body) - fault.shorten)]
    if fault.flip and answer.body:
        changed = bytearray(answer.body)
        changed[len(changed) // 2] ^= 1
        answer.body = bytes(changed)
    answer.cut_after = fault.cut_after
    return answer


def control(server: S3Server, command: str, query: dict[str, str]) -> _Answer:
    """Requests below ``/-/`` steer a server in another process; they are not counted."""
    if command == "reset":
        server.reset()
    elif command == "set":
        server.latency = float(query.get("latency", server.latency))
        server.bandwidth = float(query.get("bandwidth", server.bandwidth))
        server.per_connection = float(query.get("per_connection", server.per_connection))
    elif command == "load":
        server.load(query["bucket"], query["prefix"], Path(query["directory"]))
    state = {"counts": dict(server.counts), "sent": server.sent, "peak": server.peak}
    return _Answer(200, json.dumps(state).encode(), (("Content-Type", "application/json"),))


class ServerProcess:
    """The server in a process of its own, steered over HTTP."""

    def __init__(self, latency: float = 0.0, bandwidth: float = 0.0) -> None:
        self.arguments = ["--latency", str(latency), "--bandwidth", str(bandwidth)]
        self.port = 0

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "bench.server", *self.arguments]
        root = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, bucket: str, path: str = "") -> str:
        """The replica URL of a path in a bucket."""
        return replica_url(self.port, bucket, path)

    def _ask(self, command: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/{command}", timeout=600) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def load(self, bucket: str, prefix: str, directory: Path) -> None:
        self._ask(f"load?bucket={bucket}&prefix={prefix}&directory={directory}")

    def reset(self) -> None:
        self._ask("reset")

    def set(self, latency: float, bandwidth: float, per_connection: float = 0.0) -> None:
        self._ask(f"set?latency={latency}&bandwidth={bandwidth}&per_connection={per_connection}")

    def state(self) -> dict[str, Any]:
        """``counts``, ``sent`` and ``peak``."""
        return self._ask("state")

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.state()["counts"])


def main() -> None:
    """Serve in this process; the port is the first line of the output."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--bandwidth", type=float, default=0.0, help="bytes per second, shared; 0 = unlimited")
    parser.add_argument("--port", type=int, default=0, help="0 = any free port")
    options = parser.parse_args()
    server = S3Server(options.latency, options.bandwidth, options.port)
    threading.Thread(target=lambda: (server._ready.wait(), print(server.port, flush=True)), daemon=True).start()
    server.serve()


if __name__ == "__main__":
    main()
