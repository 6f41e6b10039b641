"""Reading the page index of files without reading the files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vfsstream.errors import LtxError
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.index import TAIL_SIZE, PageIndex, index_start
from vfsstream.plan.files import FileInfo
from vfsstream.replica.parallel import side_by_side
from vfsstream.replica.replica import Replica

__all__ = ["SMALL_FILE", "IndexedFile", "read_frames", "read_index", "read_indexes"]

SMALL_FILE = 256 << 10
"""Files up to this size are read whole: one request instead of two or three."""

_TAIL_GUESS = 32 << 10
_ENTRY_GUESS = 9
_GAP = 64 << 10
_RANGE = 1 << 20


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A file whose pages can be read one by one.

    Attributes:
        info: its description.
        header: checked against the name.
        index: checked against every rule of the format.
        body: the whole file when it is small, else ``None``.
    """

    info: FileInfo
    header: Header
    index: PageIndex
    body: bytes | None


def read_index(replica: Replica, info: FileInfo) -> IndexedFile:
    """Header and page index of one file: one round trip, a second only when the guess at the index was short.

    Args:
        replica: where the file is.
        info: as listed; its size must be exact.

    Raises:
        NotFound: the file is gone.
        LtxError: header or index break a rule, or another file stands under the name.
    """
    name = replica.key(info)
    if info.size <= SMALL_FILE:
        body = replica.fetch(info).data
        if len(body) != info.size:
            raise LtxError(f"file of {len(body)} bytes, listed with {info.size}", name=name)
        return _indexed(info, body[:HEADER_SIZE], body, body, name)
    guess = min(info.size, max(_TAIL_GUESS, info.size // 4096 * _ENTRY_GUESS))
    ends = ((0, HEADER_SIZE), (info.size - guess, None))
    head, tail = side_by_side(lambda end: replica.fetch(info, *end).data, ends, 2, "index")
    start = index_start(tail[-TAIL_SIZE:], info.size, name)
    if start < info.size - len(tail):
        tail = replica.fetch(info, start, info.size - len(tail) - start).data + tail
    return _indexed(info, head, tail, None, name)


def _indexed(info: FileInfo, head: bytes, tail: bytes, body: bytes | None, name: str) -> IndexedFile:
    header = Header.unpack(head, name)
    header.check_span(info.min_txid, info.max_txid, name)
    start = index_start(tail[-TAIL_SIZE:], info.size, name)
    index = PageIndex.decode(tail[start - info.size :], header, info.size, name)
    return IndexedFile(info, header, index, body)


def read_indexes(replica: Replica, infos: Sequence[FileInfo], parallelism: int = 8) -> list[IndexedFile]:
    """The indexes of several files, in the order given, fetched in parallel."""
    workers = max(1, min(parallelism, replica.store.capabilities.max_concurrency))
    return side_by_side(lambda info: read_index(replica, info), infos, workers, "index")


def read_frames(replica: Replica, file: IndexedFile, pgnos: Iterable[int]) -> Iterator[tuple[int, int, bytes]]:
    """``(pgno, offset, frame)`` of some pages of a file, frames that lie close together in one request.

    Args:
        replica: where the file is.
        file: its index.
        pgnos: ascending; pages that the file does not hold are skipped.
    """
    run: list[tuple[int, int, int]] = []
    for pgno in pgnos:
        place = file.index.find(pgno)
        if place is None:
            continue
        offset, size = place
        if run and (offset - run[-1][1] - run[-1][2] > _GAP or offset + size - run[0][1] > _RANGE):
            yield from _read_run(replica, file, run)
            run = []
        run.append((pgno, offset, size))
    if run:
        yield from _read_run(replica, file, run)


def _read_run(
    replica: Replica, file: IndexedFile, run: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[int, int, bytes]]:
    start, stop = run[0][1], run[-1][1] + run[-1][2]
    data = file.body[start:stop] if file.body is not None else replica.fetch(file.info, start, stop - start).data
    for pgno, offset, size in run:
        frame = data[offset - start : offset - start + size]
        if len(frame) != size:
            raise LtxError("file is shorter than listed", name=replica.key(file.info), offset=start + len(data))
        yield pgno, offset, frame
