"""A TCP proxy that does to a connection what networks do: cut, delay, stall, refuse, throttle."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from tests.faults.front import Front

_BLOCK = 16 * 1024


class FaultProxy(Front):
    """Forwards a loopback port of its own to ``target``. Attributes may be changed at any time, from any thread.

    Attributes:
        cut_down_after: reset a connection once so many bytes of answers have passed; ``None``: never.
        cut_up_after: the same for requests.
        lose_answer_to: bytes of a request that passes, while the connection ends before its answer does.
        cuts_left: how many connections are cut; then the proxy behaves.
        delay: seconds that every block waits.
        rate: bytes per second and connection, or ``None``.
        stall: nothing passes, connections stay open.
        refuse: new connections are reset at once.
        connections, cut: counters.
    """

    name = "fault-proxy"

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.cut_down_after: int | None = None
        self.cut_up_after: int | None = None
        self.lose_answer_to: bytes | None = None
        self.cuts_left = 1 << 30
        self.delay = 0.0
        self.rate: float | None = None
        self.stall = False
        self.refuse = False
        self.connections = 0
        self.cut = 0
        self._open: set[asyncio.StreamWriter] = set()

    def reset_all(self) -> None:
        """Reset every connection there is."""

        async def reset() -> None:
            for writer in list(self._open):
                _reset(writer)

        self.call(reset())

    def behave(self) -> None:
        """No more faults."""
        self.cut_down_after = self.cut_up_after = self.rate = self.lose_answer_to = None
        self.cuts_left, self.delay, self.stall, self.refuse = 1 << 30, 0.0, False, False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuse:
            _reset(writer)
            return
        self._open.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self.target)
            self._open.add(upstream)
            both = (writer, upstream)
            await asyncio.gather(
                self._pump(reader, upstream, "cut_up_after", both),
                self._pump(answers, writer, "cut_down_after", both),
            )
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            _reset(writer)
            raise
        finally:
            for each in (writer, upstream):
                if each is not None:
                    self._open.discard(each)
                    each.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        which: str,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        passed = 0
        while data := await reader.read(_BLOCK):
            while self.stall:
                await asyncio.sleep(0.02)
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)
            if (
                which == "cut_up_after"
                and self.lose_answer_to
                and self.lose_answer_to in data
                and self.cuts_left > 0
            ):
                self.cuts_left -= 1
                self.cut += 1
                self._open.discard(both[0])
                _reset(both[0])
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(0.3)  # the server shall do what it is asked
                return
            limit = getattr(self, which)
            if limit is not None and passed + len(data) > limit and self.cuts_left > 0:
                self.cuts_left -= 1
                self.cut += 1
                writer.write(data[: max(0, limit - passed)])
                with contextlib.suppress(OSError):
                    await writer.drain()
                await asyncio.sleep(0.01)  # what was let through shall arrive
                for each in both:
                    _reset(each)
                return
            passed += len(data)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
