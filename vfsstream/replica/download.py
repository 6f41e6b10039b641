"""Reading whole files of a replica quickly: ranges in parallel, in order, resumed where a connection was lost."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from vfsstream.errors import Interrupted, LtxError, StoreError
from vfsstream.plan.files import FileInfo
from vfsstream.replica.replica import Replica

__all__ = ["RANGE_SIZE", "Downloader"]

RANGE_SIZE = 1 << 20
"""Bytes of one request; a lost connection costs at most one of them."""

_WAIT_SLICE = 0.05


class Downloader:
    """Streams files through a pool of ranged reads.

    Memory holds at most ``parallelism`` ranges. Retries within a range are the store's; a range is asked for anew
    once more when the store gave up with an error that may pass.

    Args:
        replica: where the files are.
        parallelism: requests at once.
        stop: set to end every wait with :class:`Interrupted`.
    """

    def __init__(self, replica: Replica, parallelism: int = 8, stop: threading.Event | None = None) -> None:
        self.replica = replica
        self._window = max(1, min(parallelism, replica.store.capabilities.max_concurrency))
        self._stop = stop or threading.Event()
        self._pool = ThreadPoolExecutor(self._window, thread_name_prefix="vfsstream-download")

    def files(self, infos: list[FileInfo]) -> Iterator[tuple[FileInfo, Iterator[bytes]]]:
        """Each file with its chunks; ranges of the files that follow are fetched meanwhile.

        The chunks of one file must be read before the next file is asked for.
        """
        wanted = iter([(info, offset) for info in infos for offset in range(0, max(info.size, 1), RANGE_SIZE)])
        pending: deque[Future[bytes]] = deque()
        for info in infos:
            yield info, self._chunks(info, wanted, pending)

    def _chunks(
        self, info: FileInfo, wanted: Iterator[tuple[FileInfo, int]], pending: deque[Future[bytes]]
    ) -> Iterator[bytes]:
        for _ in range(0, max(info.size, 1), RANGE_SIZE):
            while len(pending) < self._window and (piece := next(wanted, None)) is not None:
                pending.append(self._pool.submit(self._range, *piece))
            yield self._wait(pending.popleft())

    def _wait(self, future: Future[bytes]) -> bytes:
        while not self._stop.is_set():
            try:
                return future.result(_WAIT_SLICE)
            except TimeoutError:
                if future.done():
                    raise
        raise Interrupted("interrupted while downloading")

    def _range(self, info: FileInfo, offset: int) -> bytes:
        size = min(RANGE_SIZE, info.size - offset)
        try:
            data = self.replica.fetch(info, offset, size).data
        except StoreError as error:
            if not error.retryable or self._stop.is_set():
                raise
            data = self.replica.fetch(info, offset, size).data
        if len(data) != size:
            name = self.replica.key(info)
            raise LtxError(f"file is shorter than listed: {offset + len(data)} bytes", name=name)
        return data

    def close(self) -> None:
        """Cancel what is waiting and join the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
