"""An HTTP front that spoils the next answers and lets the others through."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass
class Fault:
    """What happens to the next ``times`` requests whose head holds ``match``.

    Attributes:
        status: answer this instead of asking the server.
        truncate: bytes of the body that arrive before the connection ends.
        slow: seconds before the answer.
    """

    times: int
    match: bytes = b""
    status: int | None = None
    truncate: int | None = None
    slow: float = 0.0
    headers: bytes = b""


class HttpFaults:
    """Forwards a loopback port of its own to ``target``, one request per connection to it."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.hits = 0
        self.requests = 0
        self._faults: list[Fault] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http-faults", daemon=True)

    def add(self, fault: Fault) -> None:
        """One more fault; several apply in turn."""
        self._faults.append(fault)

    def clear(self) -> None:
        """No more faults."""
        self._faults.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _close(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _next(self, head: bytes) -> Fault | None:
        self.requests += 1
        for fault in self._faults:
            if fault.times > 0 and fault.match in head:
                fault.times -= 1
                self.hits += 1
                return fault
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._one(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        fault = self._next(head)
        if b"100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)\r\nexpect: [^\r]*", b"", head)
        body = await _body(reader, head)
        if fault is not None and fault.slow:
            await asyncio.sleep(fault.slow)
        if fault is not None and fault.status is not None:
            line = b"HTTP/1.1 %d Fault\r\n%sContent-Length: 0\r\nConnection: close\r\n\r\n"
            writer.write(line % (fault.status, fault.headers))
            await writer.drain()
            return
        answers, upstream = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            head = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head)
            upstream.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
            await upstream.drain()
            await _pass(answers, writer, fault.truncate if fault is not None else None)
        finally:
            upstream.close()


async def _pass(answers: asyncio.StreamReader, writer: asyncio.StreamWriter, truncate: int | None) -> None:
    head = await answers.readuntil(b"\r\n\r\n")
    writer.write(head)
    while data := await answers.read(65536):
        if truncate is not None:
            data, truncate = data[:truncate], truncate - len(data)
        writer.write(data)
        await writer.drain()
        if truncate is not None and truncate <= 0:
            return


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
    if length:
        return await reader.readexactly(int(length[1]))
    if b"transfer-encoding: chunked" not in head.lower():
        return b""
    parts = []
    while True:
        line = await reader.readline()
        size = int(line.split(b";")[0], 16)
        parts.append(line + await reader.readexactly(size + 2))
        if size == 0:
            return b"".join(parts)
