"""The rows of many small files that are in memory: their indexes decoded in one go, their pages in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vfsstream.errors import LtxError
from vfsstream.ltx.bulk import inflate_parts
from vfsstream.ltx.checksum import FLAG, crc64
from vfsstream.ltx.decoder import Decoder
from vfsstream.ltx.frames import BLOCK, END_MARKER, FRAME_HEAD, max_block_size
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.index import MIN_FILE_SIZE, TAIL_SIZE, decode_entries
from vfsstream.ltx.rows import Rows, rows_of_run

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]

__all__ = ["WholeFile", "rows_of_whole_files"]

_BATCH = 256 << 10
_GROUP = 1 << 20
"""Bytes of files looked at together."""

_LARGEST = 1 << 20
"""Bytes of pages of one file that are decompressed at once."""

_HEAD = np.dtype([("pgno", ">u4"), ("flags", ">u2"), ("size", ">u4")])
_PREFIX = np.dtype([("stored", "<u4"), ("head", _HEAD), ("block", "<u4")])
"""What stands before the block of a page in an LZ4 frame: the head as a stored block, and the size of the block."""


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A file that is in memory.

    Attributes:
        rank: its place among the inputs.
        header: of the file.
        data: its bytes.
        name: for messages.
    """

    rank: int
    header: Header
    data: bytes
    name: str | None


def rows_of_whole_files(files: Sequence[WholeFile], buffers: list[memoryview], legacy: bool) -> list[Rows]:
    """The rows of the files, everything verified; ``buffers`` gets what they refer to, by rank.

    Args:
        files: all of one page size.

    Raises:
        LtxError: one of them is damaged.
    """
    found: list[Rows] = []
    odd: list[WholeFile] = []  # anything out of the ordinary is for the decoder to read, or to name
    group: list[WholeFile] = []
    size = 0
    for file in files:
        plain = not legacy and not file.header.is_snapshot and not file.header.tracks_checksums
        if not plain or len(file.data) < MIN_FILE_SIZE:
            odd.append(file)
            continue
        group.append(file)
        size += len(file.data)
        if size >= _GROUP:
            odd += _take(group, found, buffers)
            group, size = [], 0
    odd += _take(group, found, buffers)
    for file in sorted(odd, key=lambda file: file.rank):
        rows, raw = _decoded(file, legacy)
        found += rows
        buffers[file.rank] = memoryview(raw)
    return found


def _take(group: Sequence[WholeFile], found: list[Rows], buffers: list[memoryview]) -> Sequence[WholeFile]:
    """Add the rows of a group; what is returned could not be taken."""
    rows = _Group(group).rows() if group else None
    if rows is None:
        return group
    found.append(rows)
    for file in group:
        buffers[file.rank] = memoryview(file.data)
    return ()


def _decoded(file: WholeFile, legacy: bool) -> tuple[list[Rows], bytes]:
    found: list[Rows] = []
    raws: list[bytes | memoryview] = []
    at = 0
    for run in Decoder([file.data], file.name, strict=False).runs():
        rows, raw = rows_of_run(run, file.rank, legacy)
        found.append(rows._replace(starts=rows.starts + at))
        raws.append(raw)
        at += len(raw)
    return found, b"".join(raws)


class _Group:
    """Increments without database checksums, verified together."""

    def __init__(self, files: Sequence[WholeFile]) -> None:
        self.files = files
        self.page_size = files[0].header.page_size
        self.lock_pgno = files[0].header.lock_pgno
        self.raw = b"".join([file.data for file in files])
        self.octets = np.frombuffer(self.raw, np.uint8)
        lengths = np.array([len(file.data) for file in files], np.int64)
        self.ends = np.cumsum(lengths)
        self.begins = self.ends - lengths

    def rows(self) -> Rows | None:
        """``None`` when anything is not as it should be."""
        try:
            return self._rows()
        except LtxError:
            return None

    def _rows(self) -> Rows | None:
        limits = self._limits()
        if limits is None:
            return None
        spans = zip(limits.tolist(), (self.ends - TAIL_SIZE - 1).tolist(), strict=True)
        bodies = [self.raw[start:end] for start, end in spans]
        joined = b"".join(bodies)
        firsts = np.cumsum([0, *map(len, bodies[:-1])])
        numbers = np.add.reduceat(np.frombuffer(joined, np.uint8) < 0x80, firsts, dtype=np.int64)
        if (numbers % 3).any():
            return None
        counts = numbers // 3
        if int(counts.max()) * self.page_size > _LARGEST:
            return None
        pgnos, offsets, sizes = decode_entries(joined + b"\0")
        if not self._is_sound(pgnos, offsets, sizes, counts, limits - self.begins):
            return None
        starts = offsets + np.repeat(self.begins, counts)
        checksums = self._verify(pgnos, starts, sizes, counts.tolist(), limits.tolist())
        if checksums is None:
            return None
        ranks = np.repeat(np.array([file.rank for file in self.files], np.int32), counts)
        return Rows(pgnos, ranks, offsets, sizes, np.array(checksums, np.uint64))

    def _limits(self) -> Numbers | None:
        """Where the indexes begin; ``None`` when an end does not look like one of a file with pages."""
        tails = self.octets[(self.ends - TAIL_SIZE - 2)[:, None] + np.arange(TAIL_SIZE + 2 - 8)]
        sizes, posts = (np.ascontiguousarray(tails[:, at : at + 8]).view(">u8")[:, 0] for at in (2, 10))
        largest = self.ends - self.begins - MIN_FILE_SIZE + 1
        if ((sizes <= 1) | (sizes > largest.astype(np.uint64)) | (posts != 0)).any():
            return None
        limits: Numbers = self.ends - TAIL_SIZE - sizes.astype(np.int64)
        markers = self.octets[(limits - len(END_MARKER))[:, None] + np.arange(len(END_MARKER))]
        if markers.any() or (tails[:, 0] >= 0x80).any() or tails[:, 1].any():
            return None
        return limits

    def _is_sound(
        self,
        pgnos: npt.NDArray[np.uint32],
        offsets: Numbers,
        sizes: npt.NDArray[np.int32],
        counts: Numbers,
        limits: Numbers,
    ) -> bool:
        """Page numbers ascend, no lock page, frames lie one behind the other from the header to the end marker."""
        lasts = np.cumsum(counts) - 1
        firsts = lasts - counts + 1
        ends = offsets + sizes
        inside = np.ones(len(pgnos), np.bool_)
        inside[firsts] = False
        longest = FRAME_HEAD.size + max_block_size(self.page_size)
        return bool(
            (offsets[firsts] == HEADER_SIZE).all()
            and (ends[lasts] == limits - len(END_MARKER)).all()
            and (ends[:-1] == offsets[1:])[inside[1:]].all()
            and (pgnos[:-1] < pgnos[1:])[inside[1:]].all()
            and (pgnos[firsts] > 0).all()
            and (pgnos != self.lock_pgno).all()
            and sizes.min() > FRAME_HEAD.size
            and sizes.max() <= longest
        )

    def _verify(
        self,
        pgnos: npt.NDArray[np.uint32],
        starts: Numbers,
        sizes: npt.NDArray[np.int32],
        counts: list[int],
        limits: list[int],
    ) -> list[int] | None:
        """The checksum of every page; ``None`` when that of a file is not the stated one."""
        prefixes = np.empty(len(pgnos), _PREFIX)
        heads = prefixes["head"]
        prefixes["stored"], prefixes["block"] = FRAME_HEAD.size | 1 << 31, sizes - FRAME_HEAD.size
        heads["pgno"], heads["flags"], heads["size"] = pgnos, BLOCK, sizes - FRAME_HEAD.size
        wanted = np.ascontiguousarray(heads).view(np.uint8).reshape(-1, FRAME_HEAD.size)
        if not np.array_equal(self.octets[starts[:, None] + np.arange(FRAME_HEAD.size)], wanted):
            return None
        per_batch = max(1, _BATCH // self.page_size)
        found: list[int] = []
        first = row = done = 0
        for place, count in enumerate(counts, 1):
            row += count
            if row - done >= per_batch or place == len(counts):
                pages = self._inflate(prefixes[done:row], starts[done:row], sizes[done:row])
                if pages is None or not self._is_right(pages, wanted[done:row]):
                    return None
                if not self._matches(pages, range(first, place), counts, limits):
                    return None
                stride, content = FRAME_HEAD.size + self.page_size, memoryview(pages)
                found += [crc64(content[at : at + stride]) for at in range(0, len(pages), stride)]
                first, done = place, row
        return found

    def _inflate(
        self, prefixes: npt.NDArray[np.void], starts: Numbers, sizes: npt.NDArray[np.int32]
    ) -> bytes | None:
        view, before, step = memoryview(self.raw), memoryview(prefixes.tobytes()), _PREFIX.itemsize
        blocks = zip((starts + FRAME_HEAD.size).tolist(), (starts + sizes).tolist(), strict=True)
        parts: list[memoryview] = [before] * (2 * len(sizes))
        parts[0::2] = [before[at : at + step] for at in range(0, len(before), step)]
        parts[1::2] = [view[start:end] for start, end in blocks]
        return inflate_parts(parts, len(sizes), self.page_size)

    def _is_right(self, pages: bytes, heads: npt.NDArray[np.uint8]) -> bool:
        """A short and a long page could make up for each other: the heads must lie where whole pages put them."""
        inflated = np.frombuffer(pages, np.uint8).reshape(len(heads), -1)[:, : FRAME_HEAD.size]
        return np.array_equal(inflated, heads)

    def _matches(self, pages: bytes, places: range, counts: list[int], limits: list[int]) -> bool:
        """The pages of these files give the checksums that the files state."""
        view, at, stride = memoryview(pages), 0, FRAME_HEAD.size + self.page_size
        for place in places:
            data, limit = self.files[place].data, limits[place] - int(self.begins[place])
            stop = at + counts[place] * stride
            checksum = crc64(view[at:stop], crc64(data[:HEADER_SIZE]))
            checksum = crc64(data[limit - len(END_MARKER) : -8], checksum)
            if data[-8:] != (FLAG | checksum).to_bytes(8, "big"):
                return False
            at = stop
        return True
