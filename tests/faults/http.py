"""An HTTP front that spoils the next answers and lets the others through."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from tests.faults.front import Front


@dataclass
class Fault:
    """What happens to the next ``times`` requests in whose head ``match``, a pattern, is found.

    Attributes:
        status: answer this instead of asking the server.
        truncate: bytes of the body that arrive before the connection ends.
        slow: seconds before the answer.
        lose: the server does what it is asked, and the connection ends without an answer.
        shift: the answer is about a part so many bytes further on.
        short: the answer is about a part that ends so many bytes earlier, and consistent in itself.
    """

    times: int
    match: bytes = b""
    status: int | None = None
    truncate: int | None = None
    slow: float = 0.0
    headers: bytes = b""
    lose: bool = False
    shift: int = 0
    short: int = 0


class HttpFaults(Front):
    """Forwards a loopback port of its own to ``target``, one request per connection to it."""

    name = "http-faults"

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.hits = 0
        self.requests = 0
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """One more fault; several apply in turn."""
        self._faults.append(fault)

    def clear(self) -> None:
        """No more faults."""
        self._faults.clear()

    def _next(self, head: bytes) -> Fault | None:
        self.requests += 1
        for fault in self._faults:
            if fault.times > 0 and re.search(fault.match, head):
                fault.times -= 1
                self.hits += 1
                return fault
        return None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
            upstream.write(_last(head) + body)
            await upstream.drain()
            if fault is not None and (fault.lose or fault.shift or fault.short):
                answer = await answers.read(-1)
                if not fault.lose:
                    writer.write(_other_part(answer, fault.shift, fault.short))
                    await writer.drain()
                return
            await _pass(answers, writer, fault.truncate if fault is not None else None)
        finally:
            upstream.close()


def _last(head: bytes) -> bytes:
    """Nothing more follows on this connection; unsaid, the other side would send its next request into the void."""
    return re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head)[:-2] + b"Connection: close\r\n\r\n"


def _other_part(answer: bytes, shift: int, short: int) -> bytes:
    head, gap, body = answer.partition(b"\r\n\r\n")

    def span(match: re.Match[bytes]) -> bytes:
        return b"%s%d-%d/" % (match[1], int(match[2]) + shift, int(match[3]) + shift - short)

    def length(match: re.Match[bytes]) -> bytes:
        return b"%s%d" % (match[1], int(match[2]) - short)

    assert b"content-range" in head.lower()
    head = re.sub(rb"(?i)(content-range: *bytes +)(\d+)-(\d+)/", span, head)
    head = re.sub(rb"(?i)(content-length: *)(\d+)", length, head)
    return _last(head + gap) + body[: len(body) - short]


async def _pass(answers: asyncio.StreamReader, writer: asyncio.StreamWriter, truncate: int | None) -> None:
    writer.write(_last(await answers.readuntil(b"\r\n\r\n")))
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
