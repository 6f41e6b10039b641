"""Merging files of a replica into one: streamed from store to store, read back before anybody relies on it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

from vfsstream.errors import CorruptError, Interrupted, LtxError, StoreError
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.merging import merge
from vfsstream.ltx.names import SNAPSHOT_LEVEL
from vfsstream.plan.compaction import Merge, split_by_page_size
from vfsstream.plan.files import FileInfo
from vfsstream.replica.parallel import side_by_side
from vfsstream.replica.replica import Replica
from vfsstream.replicate.proof import Fingerprint, read_back

__all__ = ["Compactor"]

_WHOLE = 64 << 10
_PARALLEL = 8
_WORTH_NUMPY = 8 << 20
"""From so many bytes on numpy is worth its import."""

_CHUNK = 256 << 10

_T = TypeVar("_T")
_Input = bytes | Iterable[bytes]
_Local = Callable[[int], Path | None]


class Compactor:
    """Writes the files that a plan asks for.

    Args:
        replica: inputs and outputs.
        local: gives the local copy of a level-0 file if there still is one; it is read instead of the replica's.
        stop: set it to end a running merge: :class:`Interrupted`, and nothing was written.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        local: Callable[[int], Path | None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.replica = replica
        self._local = local or (lambda txid: None)
        self._stop = stop or threading.Event()

    def compact(self, wanted: Merge) -> list[FileInfo]:
        """Do one merge; inputs of different page sizes make one file for each.

        Raises:
            LtxError: an input is damaged; the message names it. Nothing was written.
            CorruptError: the store does not give back what was written; the file was removed again.
        """
        return self._with_fallback(lambda local: self._compact(wanted, local))

    def _compact(self, wanted: Merge, local: _Local) -> list[FileInfo]:
        with contextlib.ExitStack() as stack:
            inputs = self._open(wanted.inputs, local, stack)
            made: list[FileInfo] = []
            start = 0
            for part in split_by_page_size(wanted, [header.page_size for header, _ in inputs]):
                made.append(self._merge(wanted.level, part.inputs, inputs[start : start + len(part.inputs)]))
                start += len(part.inputs)
            return made

    def snapshot(self, inputs: Sequence[FileInfo]) -> FileInfo:
        """A snapshot of the state that these files lead to.

        Args:
            inputs: a restore plan, or one level-0 file that holds every page, whatever its TXID.
        """

        def attempt(local: _Local) -> FileInfo:
            with contextlib.ExitStack() as stack:
                opened = self._open(inputs, local, stack)
                # Where the page size changes a full image begins, which needs nothing before it.
                size = opened[-1][0].page_size
                start = max(
                    (at + 1 for at, (header, _) in enumerate(opened) if header.page_size != size), default=0
                )
                return self._merge(SNAPSHOT_LEVEL, inputs[start:], opened[start:])

        return self._with_fallback(attempt)

    def _with_fallback(self, attempt: Callable[[_Local], _T]) -> _T:
        """From local copies where there are any; if one of them is damaged, from the replica's own files."""
        used: set[int] = set()

        def local(txid: int) -> Path | None:
            path = self._local(txid)
            if path is not None:
                used.add(txid)
            return path

        try:
            return attempt(local)
        except LtxError:
            if not used:
                raise
            return attempt(lambda txid: None)

    def write(self, level: int, min_txid: int, max_txid: int, chunks: Iterable[bytes], timestamp: int) -> FileInfo:
        """Store a file and read it back."""
        written = Fingerprint()
        source = written.watch(self._interruptible(chunks))
        info = self.replica.write(level, min_txid, max_txid, source, timestamp=timestamp)
        try:
            read_back(self.replica, info, written)
        except CorruptError:
            with contextlib.suppress(StoreError):
                self.replica.delete([info])  # its sources are all there still
            raise
        return info

    def _merge(self, level: int, infos: Sequence[FileInfo], inputs: Sequence[tuple[Header, _Input]]) -> FileInfo:
        names = [self.replica.key(info) for info in infos]
        first = 1 if level == SNAPSHOT_LEVEL else infos[0].min_txid
        bulk = "numpy" in sys.modules or sum(info.size for info in infos) >= _WORTH_NUMPY
        chunks = merge([source for _, source in inputs], names, min_txid=first, bulk=bulk)
        return self.write(level, first, infos[-1].max_txid, chunks, inputs[-1][0].timestamp)

    def _open(
        self, infos: Sequence[FileInfo], local: _Local, stack: contextlib.ExitStack
    ) -> list[tuple[Header, _Input]]:
        """Every input with its header read. Small files are fetched whole, several at once."""
        if self.replica.store.kind == "file":  # a disk gives no more to many readers
            sources = [self._source(info, local) for info in infos]
        else:
            sources = side_by_side(lambda info: self._source(info, local), infos, _PARALLEL, "compact")
        opened: list[tuple[Header, _Input]] = []
        for info, source in zip(infos, sources, strict=True):
            first = source if isinstance(source, bytes) else _head(source, stack)
            name = self.replica.key(info)
            header = Header.unpack(first[:HEADER_SIZE], name)
            header.check_span(info.min_txid, info.max_txid, name)
            opened.append((header, first if isinstance(source, bytes) else chain([first], source)))
        return opened

    def _source(self, info: FileInfo, local: _Local) -> bytes | Iterator[bytes]:
        self._check()
        if info.level == 0 and (path := local(info.min_txid)) is not None:
            with contextlib.suppress(OSError):
                if path.stat().st_size <= _WHOLE:
                    return path.read_bytes()
                return _file_chunks(path)
        if info.size <= _WHOLE:
            return self.replica.fetch(info).data
        return self.replica.stream(info)

    def _interruptible(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._check()
            yield chunk

    def _check(self) -> None:
        if self._stop.is_set():
            raise Interrupted("compaction stopped")


def _head(source: Iterator[bytes], stack: contextlib.ExitStack) -> bytes:
    """The first bytes of a stream, at least a header unless it ends before."""
    if hasattr(source, "close"):
        stack.callback(source.close)
    first = next(source, b"")
    while len(first) < HEADER_SIZE and (more := next(source, b"")):
        first += more
    return first


def _file_chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            yield data
