"""Reading whole files of a replica quickly: many requests at once, answers in order, memory bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

from vfsstream.errors import Interrupted, LtxError
from vfsstream.plan.files import FileInfo
from vfsstream.replica.replica import Replica

__all__ = ["RANGE_SIZE", "Downloader"]

RANGE_SIZE = 1 << 20
"""Bytes of one request. A file up to this size is read whole; of a larger one a lost connection costs one range."""

_BUDGET = 16 << 20
"""Bytes asked for and not yet used."""

_REQUESTS = 32
_LOCAL_RANGE = 256 << 10
_WAIT_SLICE = 0.05


class _Piece(NamedTuple):
    info: FileInfo
    size: int
    data: Future[bytes]


class Downloader:
    """Streams files through a pool of requests.

    Small files that follow one another are fetched at the same time. Of a large file nothing is asked for before its
    chunks are: the caller may know by then that it does not need it.

    Args:
        replica: where the files are. Trying again is its store's part.
        parallelism: requests at once; by default what the kind of store can use.
        stop: set to end every wait with :class:`Interrupted`.
    """

    def __init__(
        self, replica: Replica, parallelism: int | None = None, stop: threading.Event | None = None
    ) -> None:
        self.replica = replica
        self._direct = parallelism is None and replica.store.kind == "file"  # the kernel reads ahead by itself
        self._window = max(1, min(parallelism or _REQUESTS, replica.store.capabilities.max_concurrency))
        self._stop = stop or threading.Event()
        self._pool = ThreadPoolExecutor(self._window, thread_name_prefix="vfsstream-download")
        self._pending: deque[_Piece] = deque()
        self._held = 0

    def files(self, infos: Sequence[FileInfo]) -> Iterator[tuple[FileInfo, Iterator[bytes]]]:
        """Each file with its chunks, which may be left unread."""
        ahead = deque(infos)
        for info in infos:
            if self._direct:
                yield info, self._read_here(info)
            elif _is_small(info):
                yield info, self._whole(info, ahead)
            else:
                yield info, self.read(info)
                ahead.popleft()

    def _whole(self, info: FileInfo, ahead: deque[FileInfo]) -> Iterator[bytes]:
        while True:
            while ahead and _is_small(ahead[0]) and self._has_room(ahead[0].size):
                self._ask(ahead[0], 0, ahead[0].size)
                ahead.popleft()
            piece = self._pending.popleft()
            data = self._take(piece)
            if piece.info is info:
                yield data
                return

    def read(self, info: FileInfo, start: int = 0) -> Iterator[bytes]:
        """One file from an offset on."""
        if self._direct:
            yield from self._read_here(info, start)
            return
        while self._pending:  # left unread
            self._take(self._pending.popleft())
        offset = start
        while offset < info.size or self._pending:
            while offset < info.size and self._has_room(size := min(RANGE_SIZE, info.size - offset)):
                self._ask(info, offset, size)
                offset += size
            yield self._take(self._pending.popleft())

    def _read_here(self, info: FileInfo, start: int = 0) -> Iterator[bytes]:
        for offset in range(start, info.size, _LOCAL_RANGE):
            if self._stop.is_set():
                raise Interrupted("interrupted while reading")
            yield self._fetch(info, offset, min(_LOCAL_RANGE, info.size - offset))

    def _has_room(self, size: int) -> bool:
        return not self._pending or (len(self._pending) < self._window and self._held + size <= _BUDGET)

    def _ask(self, info: FileInfo, offset: int, size: int) -> None:
        self._pending.append(_Piece(info, size, self._pool.submit(self._fetch, info, offset, size)))
        self._held += size

    def _fetch(self, info: FileInfo, offset: int, size: int) -> bytes:
        data = self.replica.fetch(info, offset, size).data
        if len(data) != size:
            name = self.replica.key(info)
            raise LtxError(f"file is shorter than listed: {offset + len(data)} bytes", name=name)
        return data

    def _take(self, piece: _Piece) -> bytes:
        self._held -= piece.size
        while not self._stop.is_set():
            try:
                return piece.data.result(_WAIT_SLICE)
            except TimeoutError:
                if piece.data.done():
                    raise
        raise Interrupted("interrupted while downloading")

    def close(self) -> None:
        """Cancel what is waiting and join the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_small(info: FileInfo) -> bool:
    return info.size <= RANGE_SIZE
