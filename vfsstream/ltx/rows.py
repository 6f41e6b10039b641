"""Pages of LTX files as columns of numbers: what a merge of many pages decides on.

A row stands for one page: its number, how new its file is, the checksum of its frame head and content, and where the
frame lies. The content itself is not kept: the checksum of a merged file follows from those of its pages.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vfsstream.errors import LtxError
from vfsstream.ltx.bulk import block_size, inflate_frames, stored_head
from vfsstream.ltx.checksum import FLAG, crc64
from vfsstream.ltx.decoder import Decoder, Run
from vfsstream.ltx.frames import (
    BLOCK,
    END_MARKER,
    FRAME_HEAD,
    PAGE_HEAD,
    as_block_frame,
    encode_legacy_frame,
    max_block_size,
)
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.index import MIN_FILE_SIZE, TAIL_SIZE, decode_entries

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Rows", "newest", "rows_of_run", "rows_of_whole_files"]

_BATCH = 256 << 10
_TAIL = struct.Struct(">QQQ")
_HEAD = np.dtype([("pgno", ">u4"), ("flags", ">u2"), ("size", ">u4")])


class Rows(NamedTuple):
    """Pages, a column for each property.

    Attributes:
        pgnos: page numbers.
        ranks: the file's place among the inputs, newest highest.
        sources: which buffer holds the frame.
        starts: offset of the frame in its buffer.
        sizes: bytes of the frame.
        checksums: of the bytes that the file checksum covers for this page, alone.
    """

    pgnos: npt.NDArray[np.uint32]
    ranks: npt.NDArray[np.int32]
    sources: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint64]

    def part(self, start: int, stop: int | None = None) -> Rows:
        """Some of the rows."""
        return Rows._make(column[start:stop] for column in self)

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """All rows of several, at least one."""
        return (
            parts[0]
            if len(parts) == 1
            else cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        )


def newest(rows: Rows) -> Rows:
    """Of each page the row of the newest file, by ascending page number."""
    order = np.lexsort((rows.ranks, rows.pgnos))
    pgnos = rows.pgnos[order]
    kept = order[np.append(pgnos[1:] != pgnos[:-1], True)] if len(order) else order
    return Rows._make(column[kept] for column in rows)


def rows_of_run(run: Run, rank: int, source: int, legacy: bool = False) -> tuple[Rows, memoryview]:
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
    lengths = np.array(sizes, np.int64)
    count = len(sizes)
    rows = Rows(
        np.array(run.pgnos, np.uint32),
        np.full(count, rank, np.int32),
        np.full(count, source, np.int32),
        np.cumsum(lengths) - lengths,
        lengths,
        np.array(found, np.uint64),
    )
    return rows, memoryview(raw)


def _converted(run: Run, legacy: bool) -> list[bytes]:
    pairs = zip(run.frames(), run.pages(), strict=True)
    if not legacy:
        return [as_block_frame(frame, bytes(page)) for frame, page in pairs]
    return [
        encode_legacy_frame(pgno, page) if frame[5] == BLOCK else frame
        for pgno, (frame, page) in zip(run.pgnos, pairs, strict=True)
    ]


def rows_of_whole_files(
    files: Sequence[tuple[int, Header, bytes]],
    names: Sequence[str | None],
    buffers: list[memoryview],
    legacy: bool,
) -> list[Rows]:
    """The rows of files that are in memory as a whole, everything verified; their buffers are appended to ``buffers``.

    Args:
        files: rank, header and bytes of each; all of one page size.
        names: of the files, for messages.

    Raises:
        LtxError: one of them is damaged.
    """
    plain = [] if legacy else [file for file in files if _is_plain(file[1], file[2])]
    found: list[Rows] = []
    taken: set[int] = set()
    if plain and (rows := _Plain(plain, len(buffers)).rows()) is not None:
        buffers += [memoryview(data) for _, _, data in plain]
        found.append(rows)
        taken = {rank for rank, _, _ in plain}
    # Anything out of the ordinary is for the decoder to read, or to name.
    for (rank, _, data), name in zip(files, names, strict=True):
        if rank not in taken:
            for run in Decoder([data], name, strict=False).runs():
                rows, raw = rows_of_run(run, rank, len(buffers), legacy)
                buffers.append(raw)
                found.append(rows)
    return found


def _is_plain(header: Header, data: bytes) -> bool:
    """An increment with pages and without database checksums, whose end looks like one."""
    if header.is_snapshot or header.tracks_checksums or len(data) < MIN_FILE_SIZE:
        return False
    size, post, _ = _TAIL.unpack_from(data, len(data) - TAIL_SIZE)
    start = len(data) - TAIL_SIZE - size
    return (
        1 < size <= len(data) - MIN_FILE_SIZE + 1
        and not post
        and not data[-TAIL_SIZE - 1]
        and data[-TAIL_SIZE - 2] < 0x80
        and data[start - len(END_MARKER) : start] == END_MARKER
    )


class _Plain:
    """Many small files verified together: indexes in one go, pages in batches."""

    def __init__(self, files: Sequence[tuple[int, Header, bytes]], first_source: int) -> None:
        self.files, self.first_source = files, first_source
        self.page_size = files[0][1].page_size

    def rows(self) -> Rows | None:
        """``None`` when anything is not as it should be."""
        try:
            return self._rows()
        except LtxError:
            return None

    def _rows(self) -> Rows | None:
        sizes = [_TAIL.unpack_from(data, len(data) - TAIL_SIZE)[0] for _, _, data in self.files]
        limits = [len(data) - TAIL_SIZE - size for (_, _, data), size in zip(self.files, sizes, strict=True)]
        bodies = [data[at : -TAIL_SIZE - 1] for (_, _, data), at in zip(self.files, limits, strict=True)]
        joined = b"".join(bodies)
        begins = np.cumsum([0, *map(len, bodies[:-1])])
        numbers = np.add.reduceat(np.frombuffer(joined, np.uint8) < 0x80, begins, dtype=np.int64)
        if (numbers % 3).any():
            return None
        counts = numbers // 3
        pgnos, offsets, lengths = decode_entries(joined + b"\0")
        if not self._is_sound(pgnos, offsets, lengths, counts, limits):
            return None
        checksums = self._verify(pgnos, offsets, lengths, counts.tolist(), limits)
        if checksums is None:
            return None
        ranks = np.array([rank for rank, _, _ in self.files], np.int32)
        sources = np.arange(self.first_source, self.first_source + len(counts), dtype=np.int32)
        columns = (np.repeat(ranks, counts), np.repeat(sources, counts), offsets, lengths.astype(np.int64))
        return Rows(pgnos, *columns, np.array(checksums, np.uint64))

    def _is_sound(
        self,
        pgnos: npt.NDArray[np.uint32],
        offsets: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int32],
        counts: npt.NDArray[np.int64],
        limits: list[int],
    ) -> bool:
        """Page numbers ascend, no lock page, frames lie one behind the other from the header to the end marker."""
        lasts = np.cumsum(counts) - 1
        firsts = lasts - counts + 1
        ends = offsets + lengths
        inside = np.ones(len(pgnos), np.bool_)
        inside[firsts] = False
        longest = FRAME_HEAD.size + max_block_size(self.page_size)
        return bool(
            (offsets[firsts] == HEADER_SIZE).all()
            and (ends[lasts] == np.array(limits) - len(END_MARKER)).all()
            and (ends[:-1] == offsets[1:])[inside[1:]].all()
            and (pgnos[:-1] < pgnos[1:])[inside[1:]].all()
            and (pgnos[firsts] > 0).all()
            and (pgnos != self.files[0][1].lock_pgno).all()
            and lengths.min() > FRAME_HEAD.size
            and lengths.max() <= longest
        )

    def _verify(
        self,
        pgnos: npt.NDArray[np.uint32],
        offsets: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int32],
        counts: list[int],
        limits: list[int],
    ) -> list[int] | None:
        """The checksum of every page; ``None`` when that of a file is not the stated one."""
        heads = np.empty(len(pgnos), _HEAD)
        heads["pgno"], heads["flags"], heads["size"] = pgnos, BLOCK, lengths - FRAME_HEAD.size
        wanted = heads.view(np.uint8).reshape(-1, FRAME_HEAD.size)
        starts, ends = offsets.tolist(), (offsets + lengths).tolist()
        per_batch = max(1, _BATCH // self.page_size)
        found: list[int] = []
        parts: list[bytes | memoryview] = []
        held: list[tuple[bytes, int, int]] = []
        row = done = 0
        for (_, _, data), count, limit in zip(self.files, counts, limits, strict=True):
            for start, end in zip(starts[row : row + count], ends[row : row + count], strict=True):
                body = start + 10
                parts += (stored_head, data[start:body], block_size(end - body), data[body:end])
            row += count
            held.append((data, count, limit))
            if row - done >= per_batch or row == len(starts):
                if not self._verify_batch(parts, held, wanted[done:row], found):
                    return None
                parts, held, done = [], [], row
        return found

    def _verify_batch(
        self,
        parts: list[bytes | memoryview],
        held: list[tuple[bytes, int, int]],
        heads: npt.NDArray[np.uint8],
        found: list[int],
    ) -> bool:
        pages = inflate_frames(parts, self.page_size)
        stride = FRAME_HEAD.size + self.page_size
        inflated = np.frombuffer(pages, np.uint8).reshape(-1, stride)[:, : FRAME_HEAD.size]
        if not np.array_equal(inflated, heads):
            return False
        view, at = memoryview(pages), 0
        for data, count, limit in held:
            stop = at + count * stride
            checksum = crc64(view[at:stop], crc64(data[:HEADER_SIZE]))
            checksum = crc64(data[limit - len(END_MARKER) : -8], checksum)
            if data[-8:] != (FLAG | checksum).to_bytes(8, "big"):
                return False
            found += [crc64(view[place : place + stride]) for place in range(at, stop, stride)]
            at = stop
        return True
