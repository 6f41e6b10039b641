"""Merging files of a replica into one: streamed from store to store, read back before anybody relies on it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

from vfsstream.errors import CorruptError, Interrupted, LtxError, StoreError
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.known import Known
from vfsstream.ltx.merging import merge
from vfsstream.ltx.names import SNAPSHOT_LEVEL
from vfsstream.plan.compaction import Merge, split_by_page_size
from vfsstream.plan.files import FileInfo
from vfsstream.replica.parallel import side_by_side
from vfsstream.replica.replica import Replica
from vfsstream.replicate.pagesums import NewNote, PageSums
from vfsstream.replicate.proof import Fingerprint, read_back

__all__ = ["PIECE", "Compactor"]

_WHOLE = 64 << 10
_PARALLEL = 8
_WORTH_NUMPY = 8 << 20
"""From so many bytes on numpy is worth its import."""

PIECE = 256 << 10
"""Bytes that must be held of each larger file that is read in ranges. As long as there are few files, more are."""

_RANGED = frozenset({"file", "gcs", "sftp"})
"""Large files in these are read in ranges: a stream costs more (file) or holds 4 to 16 MiB (the others)."""

_PIECES = 12 << 20
_LARGEST_PIECE = 1 << 20

_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)

_T = TypeVar("_T")
_Local = Callable[[int], Path | None]


class _Input(NamedTuple):
    """A file to be merged: what it is, its key, its header, and its bytes."""

    info: FileInfo
    name: str
    header: Header
    source: bytes | Iterable[bytes] | Known


@dataclass
class _Aids:
    """What one attempt may use instead of the replica's own bytes, and whether it did."""

    local: _Local
    sums: PageSums | None
    used: bool = False
    noted: list[FileInfo] = field(default_factory=list)


class Compactor:
    """Writes the files that a plan asks for.

    Args:
        replica: inputs and outputs.
        local: gives the local copy of a level-0 file if there still is one; it is read instead of the replica's.
        sums: where to keep what is learned of the pages of files, for the next merge of the same file.
        stop: set it to end a running merge: :class:`Interrupted`, and nothing was written.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        local: Callable[[int], Path | None] | None = None,
        sums: PageSums | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.replica = replica
        self._local = local or (lambda txid: None)
        self.sums = sums
        self._stop = stop or threading.Event()

    def compact(self, wanted: Merge) -> list[FileInfo]:
        """Do one merge; inputs of different page sizes make one file for each.

        Raises:
            LtxError: an input is damaged; the message names it. Nothing was written.
            CorruptError: the store does not give back what was written; the file was removed again.
        """
        return self._with_fallback(lambda aids: self._compact(wanted, aids))

    def _compact(self, wanted: Merge, aids: _Aids) -> list[FileInfo]:
        with contextlib.ExitStack() as stack:
            inputs = self._open(wanted.inputs, aids, stack)
            made: list[FileInfo] = []
            start = 0
            for part in split_by_page_size(wanted, [given.header.page_size for given in inputs]):
                made.append(self._merge(wanted.level, inputs[start : start + len(part.inputs)]))
                start += len(part.inputs)
            return made

    def snapshot(self, inputs: Sequence[FileInfo]) -> FileInfo:
        """A snapshot of the state that these files lead to.

        Args:
            inputs: a restore plan, or one level-0 file that holds every page, whatever its TXID.
        """

        def attempt(aids: _Aids) -> FileInfo:
            with contextlib.ExitStack() as stack:
                opened = self._open(inputs, aids, stack)
                # Where the page size changes a full image begins, which needs nothing before it.
                size = opened[-1].header.page_size
                others = (at + 1 for at, given in enumerate(opened) if given.header.page_size != size)
                return self._merge(SNAPSHOT_LEVEL, opened[max(others, default=0) :])

        return self._with_fallback(attempt)

    def _with_fallback(self, attempt: Callable[[_Aids], _T]) -> _T:
        """With local copies and notes where there are any; if one is damaged, from the replica's files alone."""
        aids = _Aids(self._local, self.sums)
        try:
            return attempt(aids)
        except LtxError:
            if not aids.used:
                raise
            for info in aids.noted:
                if self.sums is not None:
                    self.sums.forget(info)
            return attempt(_Aids(lambda txid: None, None))

    def write(self, level: int, min_txid: int, max_txid: int, chunks: Iterable[bytes], timestamp: int) -> FileInfo:
        """Store a file and read it back."""
        return self._write(level, min_txid, max_txid, chunks, timestamp)[0]

    def _write(
        self, level: int, min_txid: int, max_txid: int, chunks: Iterable[bytes], timestamp: int
    ) -> tuple[FileInfo, int]:
        """As :meth:`write`; also gives the CRC-64 of what is stored."""
        written = Fingerprint()
        source = written.watch(self._interruptible(chunks))
        info = self.replica.write(level, min_txid, max_txid, source, timestamp=timestamp)
        try:
            read_back(self.replica, info, written)
        except CorruptError:
            with contextlib.suppress(StoreError):
                self.replica.delete([info])  # its sources are all there still
            raise
        return info, written.checksum

    def _merge(self, level: int, inputs: Sequence[_Input]) -> FileInfo:
        first = 1 if level == SNAPSHOT_LEVEL else inputs[0].info.min_txid
        last = inputs[-1]
        bulk = _is_bulk([given.info for given in inputs])
        note = NewNote(self.sums) if bulk and self.sums is not None else None
        chunks = merge(
            [given.source for given in inputs],
            [given.name for given in inputs],
            min_txid=first,
            bulk=bulk,
            headers=[given.header for given in inputs],
            note=note.add if note is not None else None,
        )
        try:
            info, checksum = self._write(level, first, last.info.max_txid, chunks, last.header.timestamp)
            if note is not None:
                note.finish(info, checksum)
        finally:
            if note is not None:
                note.close()
        return info

    def _open(self, infos: Sequence[FileInfo], aids: _Aids, stack: contextlib.ExitStack) -> list[_Input]:
        """Every input with its header read. Small files are fetched whole, several at once."""
        piece = max(PIECE, min(_LARGEST_PIECE, _PIECES // len(infos)))
        if not _is_bulk(infos):
            aids.sums = None
        limit = self.replica.useful_requests(_PARALLEL)
        sources = side_by_side(lambda info: self._source(info, aids, piece, stack), infos, limit, "compact")
        opened: list[_Input] = []
        for info, source in zip(infos, sources, strict=True):
            name = self.replica.key(info)
            if isinstance(source, Known):
                header = source.header
            else:
                first = source if isinstance(source, bytes) else _head(source, stack)
                header = Header.unpack(first, name)
                if not isinstance(source, bytes):
                    source = chain([first], source)
            header.check_span(info.min_txid, info.max_txid, name)
            opened.append(_Input(info, name, header, source))
        return opened

    def _source(
        self, info: FileInfo, aids: _Aids, piece: int, stack: contextlib.ExitStack
    ) -> bytes | Iterator[bytes] | Known:
        self._check()
        if info.level == 0 and (path := aids.local(info.min_txid)) is not None:
            aids.used = True
            with contextlib.suppress(OSError):
                return _from_file(path, piece)
        if info.size <= _WHOLE:
            return self.replica.fetch(info).data
        if aids.sums is not None and (note := aids.sums.find(info)) is not None:
            aids.used = True
            aids.noted.append(info)
            header = Header.unpack(self.replica.fetch(info, 0, HEADER_SIZE).data, self.replica.key(info))
            if self.replica.store.kind in _RANGED:
                read = self._reader(info)
            else:
                stream = self.replica.stream(info)
                _close_with(stack, stream)
                read = _Cutter(stream).read
            return Known(header, note.size, note.checksum, read, note.records)
        return self._pieces(info, piece) if self.replica.store.kind in _RANGED else self.replica.stream(info)

    def _reader(self, info: FileInfo) -> Callable[[int], bytes]:
        """Gives the next bytes of a file, range by range."""
        at = 0

        def read(size: int) -> bytes:
            nonlocal at
            data = self.replica.fetch(info, at, size).data
            at += len(data)
            return data

        return read

    def _pieces(self, info: FileInfo, piece: int) -> Iterator[bytes]:
        read = self._reader(info)
        while data := read(piece):
            yield data

    def _interruptible(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._check()
            yield chunk

    def _check(self) -> None:
        if self._stop.is_set():
            raise Interrupted("compaction stopped")


class _Cutter:
    """Chunks of any size as pieces of the sizes wanted."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """The next bytes, fewer at the end."""
        parts: list[memoryview] = []
        while size:
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    break
            parts.append(self._rest[:size])
            size -= len(parts[-1])
            self._rest = self._rest[len(parts[-1]) :]
        return b"".join(parts)


def _close_with(stack: contextlib.ExitStack, source: Iterator[bytes]) -> None:
    if hasattr(source, "close"):
        stack.callback(source.close)


def _head(source: Iterator[bytes], stack: contextlib.ExitStack) -> bytes:
    """The first bytes of a stream, at least a header unless it ends before."""
    _close_with(stack, source)
    first = next(source, b"")
    while len(first) < HEADER_SIZE and (more := next(source, b"")):
        first += more
    return first


def _from_file(path: Path, piece: int) -> bytes | Iterator[bytes]:
    """A small file whole, a large one in pieces."""
    descriptor = os.open(path, os.O_RDONLY | _BINARY)
    try:
        data = os.read(descriptor, _WHOLE + 1)
    finally:
        os.close(descriptor)
    return data if len(data) <= _WHOLE else _file_pieces(path, piece)


def _file_pieces(path: Path, piece: int) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while data := file.read(piece):
            yield data


def _is_bulk(infos: Sequence[FileInfo]) -> bool:
    return "numpy" in sys.modules or sum(info.size for info in infos) >= _WORTH_NUMPY
