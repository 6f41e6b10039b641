"""Pages of LTX files as columns of numbers: what a merge of many pages decides on.

A row stands for one page: its number, how new its file is, the checksum of its frame head and content, and where the
frame lies. The content itself is not kept: the checksum of a merged file follows from those of its pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vfsstream.errors import LtxError
from vfsstream.ltx.checksum import crc64
from vfsstream.ltx.decoder import Run
from vfsstream.ltx.frames import BLOCK, FRAME_HEAD, PAGE_HEAD, as_block_frame, encode_legacy_frame
from vfsstream.ltx.header import HEADER_SIZE
from vfsstream.ltx.known import Known

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["RECORD", "Rows", "newest", "rows_of_known", "rows_of_run"]

RECORD = np.dtype([("pgno", "<u4"), ("size", "<u4"), ("checksum", "<u8")])
"""What is worth remembering of a row: with the bytes of the file it gives the row again."""


class Rows(NamedTuple):
    """Pages, a column for each property.

    Attributes:
        pgnos: page numbers.
        ranks: the file's place among the inputs, newest highest; also which buffer holds the frame.
        starts: offset of the frame in its buffer.
        sizes: bytes of the frame.
        checksums: of the bytes that the file checksum covers for this page, alone.
    """

    pgnos: npt.NDArray[np.uint32]
    ranks: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]
    checksums: npt.NDArray[np.uint64]

    def part(self, start: int, stop: int | None = None) -> Rows:
        """Some of the rows."""
        return Rows._make(column[start:stop] for column in self)

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """All rows of several, at least one."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def records(self) -> bytes:
        """What is worth remembering of them, as stored."""
        found = np.empty(len(self.pgnos), RECORD)
        found["pgno"], found["size"], found["checksum"] = self.pgnos, self.sizes, self.checksums
        return found.tobytes()


def newest(rows: Rows) -> Rows:
    """Of each page the row of the newest file, by ascending page number."""
    if not len(rows.pgnos):
        return rows
    order = np.argsort(rows.pgnos.astype(np.uint64) << np.uint64(32) | rows.ranks.astype(np.uint64))
    pgnos = rows.pgnos[order]
    last = np.ones(len(pgnos), np.bool_)
    np.not_equal(pgnos[1:], pgnos[:-1], out=last[:-1])
    kept = order[last]
    return Rows._make(column[kept] for column in rows)


def rows_of_run(run: Run, rank: int, legacy: bool = False) -> tuple[Rows, bytes | memoryview]:
    """The rows of some decoded pages, and the buffer in which their frames lie in the encoding wanted."""
    sizes, raw = run.sizes, run.raw
    if legacy or run.head != FRAME_HEAD.size:
        frames = _converted(run, legacy)
        sizes, raw = [len(frame) for frame in frames], b"".join(frames)
        head = PAGE_HEAD.size if legacy else FRAME_HEAD.size
        found = [crc64(page, crc64(frame[:head])) for frame, page in zip(frames, run.pages(), strict=True)]
    else:
        view, stride = memoryview(run.data), len(run.data) // len(run.pgnos)
        found = [crc64(view[at : at + stride]) for at in range(0, len(view), stride)]
    lengths = np.array(sizes, np.int32)
    rows = Rows(
        np.array(run.pgnos, np.uint32),
        np.full(len(sizes), rank, np.int32),
        np.cumsum(lengths, dtype=np.int64) - lengths,
        lengths,
        np.array(found, np.uint64),
    )
    return rows, raw


def _converted(run: Run, legacy: bool) -> list[bytes]:
    pairs = zip(run.frames(), run.pages(), strict=True)
    if not legacy:
        return [as_block_frame(frame, bytes(page)) for frame, page in pairs]
    return [
        encode_legacy_frame(pgno, page) if frame[5] == BLOCK else frame
        for pgno, (frame, page) in zip(run.pgnos, pairs, strict=True)
    ]


def rows_of_known(known: Known, rank: int, name: str | None, piece: int) -> Iterator[tuple[Rows, bytes]]:
    """The rows of the file, and for each lot of them the buffer in which their frames lie.

    Args:
        piece: bytes to read at once; at least one frame.

    Raises:
        LtxError: the bytes are not those that are remembered; known only at the end.
    """
    records, more = iter(known.records), True
    pending: npt.NDArray[np.void] = np.empty(0, RECORD)
    ends: npt.NDArray[np.int64] = np.empty(0, np.int64)  # of the frames pending, from the first one's start
    data = known.read(HEADER_SIZE)
    size, checksum = len(data), crc64(data)
    while True:
        while more and (not len(ends) or ends[-1] <= piece):
            found = next(records, None)
            more = found is not None
            if found is not None:
                pending = np.concatenate((pending, np.frombuffer(found, RECORD)))
                ends = np.cumsum(pending["size"], dtype=np.int64)
        if not len(pending):
            break
        count = max(1, int(np.searchsorted(ends, piece, "right")))
        wanted = int(ends[count - 1])
        data = known.read(wanted)
        size, checksum = size + len(data), crc64(data, checksum)
        if len(data) < wanted:
            break
        yield _remembered(pending[:count], rank, ends[:count]), data
        pending, ends = pending[count:], ends[count:] - wanted
    while data := known.read(piece):
        size, checksum = size + len(data), crc64(data, checksum)
    if (size, checksum) != (known.size, known.checksum):
        raise LtxError(f"{size} bytes that are not the {known.size} that were verified earlier", name=name)


def _remembered(records: npt.NDArray[np.void], rank: int, ends: npt.NDArray[np.int64]) -> Rows:
    sizes: npt.NDArray[np.int32] = records["size"].astype(np.int32)
    return Rows(
        records["pgno"].astype(np.uint32),
        np.full(len(sizes), rank, np.int32),
        ends - sizes,
        sizes,
        records["checksum"].astype(np.uint64),
    )
