"""A source of any length as the parts of an upload, in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from vfsstream.stores.base import Source, chunks_of

__all__ = ["Part", "send_parts", "upload_parts"]

T = TypeVar("T")

_GROW_EVERY = 2000


@dataclass(frozen=True, slots=True)
class Part:
    """One part.

    Attributes:
        number: from 1.
        data: its bytes.
        last: no other follows.
    """

    number: int
    data: bytes
    last: bool


def upload_parts(source: Source, size: int, *, grow: bool = False) -> Iterator[Part]:
    """The parts of a source, at least one (which may be empty). One part is read ahead to know which is the last.

    Args:
        size: bytes of a part; only the last is shorter.
        grow: double the size every 2000 parts, so that a source of unknown length fits into 10,000 of them.
    """
    held: list[bytes] = []
    count, number = 0, 1
    wanted = size
    for chunk in chunks_of(source):
        view = memoryview(chunk)
        while len(view) > wanted - count:
            # More follows, so a full part cannot be the last.
            take = wanted - count
            held.append(bytes(view[:take]))
            view = view[take:]
            yield Part(number, b"".join(held), False)
            held, count, number = [], 0, number + 1
            wanted = size << ((number - 1) // _GROW_EVERY if grow else 0)
        if view:
            held.append(chunk if len(view) == len(chunk) and isinstance(chunk, bytes) else bytes(view))
            count += len(view)
    yield Part(number, held[0] if len(held) == 1 else b"".join(held), True)


def send_parts(parts: Iterator[Part], send: Callable[[Part], T], concurrency: int) -> list[T]:
    """Send parts in parallel and return the answers in the order of the parts.

    At most ``concurrency`` parts are in flight, one more in memory. The first failure ends it, the source's too.
    """
    done: dict[int, T] = {}
    running: dict[Future[T], int] = {}
    failed = threading.Event()

    def guarded(part: Part) -> T:
        if failed.is_set():
            raise InterruptedError
        return send(part)

    with ThreadPoolExecutor(concurrency, thread_name_prefix="vfsstream-upload") as pool:
        try:
            for part in parts:
                if len(running) >= concurrency:
                    _collect(running, done)
                running[pool.submit(guarded, part)] = part.number
                del part  # its bytes belong to the sender now
            while running:
                _collect(running, done)
        except BaseException:
            failed.set()
            raise
    return [done[number] for number in sorted(done)]


def _collect(running: dict[Future[T], int], done: dict[int, T]) -> None:
    finished, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in finished:
        done[running.pop(future)] = future.result()
