"""The write-ahead log as bytes: header, frames and the chain of checksums that makes a prefix provable.

Pure: bytes in, facts out. Words are big-endian; the checksum runs over words in the order that the magic number
names (https://sqlite.org/fileformat2.html#walformat).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "FRAME_HEADER_SIZE",
    "WAL_HEADER_SIZE",
    "Frame",
    "PageMap",
    "WalHeader",
    "checksum",
    "frame_end",
    "frame_size",
    "frames_in",
    "iter_frames",
    "next_salt1",
    "valid_frames",
]

WAL_HEADER_SIZE = 32
FRAME_HEADER_SIZE = 24
_VERSION = 3007000
_MAGIC_LITTLE = 0x377F0682
_MAGIC_BIG = 0x377F0683
_MASK = 0xFFFFFFFF
_NUMPY_FROM_FRAMES = 64  # importing numpy costs as much as a thousand frames in plain Python


class Frame(NamedTuple):
    """The header of one frame: ``commit`` is the database size in pages after a commit, else 0."""

    pgno: int
    commit: int
    salts: bytes
    checksum: bytes


@dataclass(frozen=True, slots=True)
class WalHeader:
    """The 32 bytes at the start of the file.

    Attributes:
        page_size: bytes.
        sequence: checkpoint counter.
        salts: both salts as the 8 bytes that every frame of the lap repeats.
        checksum: the 8 stored checksum bytes, seed of the first frame.
        big_endian: byte order of the checksum's words.
    """

    page_size: int
    sequence: int
    salts: bytes
    checksum: bytes
    big_endian: bool

    @classmethod
    def unpack(cls, data: bytes) -> WalHeader | None:
        """Read a header; ``None`` when it is short, foreign or half written."""
        if len(data) < WAL_HEADER_SIZE:
            return None
        magic, version, page_size, sequence = struct.unpack_from(">4I", data)
        if magic not in (_MAGIC_LITTLE, _MAGIC_BIG) or version != _VERSION:
            return None
        if not 512 <= page_size <= 65536 or page_size & (page_size - 1):
            return None
        big = magic == _MAGIC_BIG
        stored = bytes(data[24:32])
        if checksum(data[:24], bytes(8), big_endian=big) != stored:
            return None
        return cls(page_size, sequence, bytes(data[16:24]), stored, big)


def frame_size(page_size: int) -> int:
    """Bytes of one frame."""
    return FRAME_HEADER_SIZE + page_size


def frame_end(count: int, page_size: int) -> int:
    """The file offset directly behind frame number ``count`` (the first frame is 1)."""
    return WAL_HEADER_SIZE + count * frame_size(page_size)


def frames_in(end: int, page_size: int) -> int | None:
    """The number of frames that end at offset ``end``; ``None`` when no frame ends there."""
    count, rest = divmod(end - WAL_HEADER_SIZE, frame_size(page_size))
    return count if rest == 0 and count >= 0 else None


def next_salt1(salts: bytes) -> bytes:
    """The first salt of the lap that a writer begins after the lap with these salts."""
    return ((int.from_bytes(salts[:4], "big") + 1) & _MASK).to_bytes(4, "big")


def checksum(data: bytes | memoryview, seed: bytes, *, big_endian: bool) -> bytes:
    """SQLite's cumulative checksum of ``data`` (a multiple of 8 bytes) after ``seed``, as 8 bytes."""
    first, second = struct.unpack(">II", seed)
    order = ">" if big_endian else "<"
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for index in range(0, len(words), 2):
        first = (first + words[index] + second) & _MASK
        second = (second + words[index + 1] + first) & _MASK
    return struct.pack(">II", first, second)


@lru_cache(maxsize=8)
def _frame_format(page_size: int) -> struct.Struct:
    return struct.Struct(f">II8s8s{page_size}x")


def iter_frames(data: bytes | memoryview, page_size: int) -> Iterator[Frame]:
    """The headers of the whole frames in ``data``, which starts at a frame; a cut last frame is left out."""
    whole = len(data) // frame_size(page_size) * frame_size(page_size)
    return map(Frame._make, _frame_format(page_size).iter_unpack(memoryview(data)[:whole]))


def valid_frames(
    data: bytes | memoryview, page_size: int, salts: bytes, seed: bytes, *, big_endian: bool
) -> tuple[int, bytes]:
    """How many frames at the start of ``data`` carry ``salts`` and continue the chain from ``seed``.

    Returns:
        The count and the checksum of the last valid frame (``seed`` when there is none).
    """
    same_lap = 0
    for frame in iter_frames(data, page_size):
        if frame.salts != salts or frame.pgno == 0:
            break
        same_lap += 1
    if same_lap >= _NUMPY_FROM_FRAMES:
        return _valid_by_lanes(data, page_size, same_lap, seed, big_endian)
    view, size = memoryview(data), frame_size(page_size)
    for index in range(same_lap):
        frame_bytes = view[index * size : (index + 1) * size]
        total = checksum(frame_bytes[:8], seed, big_endian=big_endian)
        total = checksum(frame_bytes[FRAME_HEADER_SIZE:], total, big_endian=big_endian)
        if total != frame_bytes[16:24]:
            return index, seed
        seed = total
    return same_lap, seed


@lru_cache(maxsize=8)
def _weights(steps: int) -> tuple[list[int], list[int], tuple[int, int, int, int]]:
    # One step over the words (a, b) is linear: s0' = s0 + s1 + a; s1' = s0 + 2 s1 + a + b (mod 2^32). So the sums
    # over many words are two dot products plus a power of the matrix [[1, 1], [1, 2]] applied to the seed.
    p, q, r, s = 1, 0, 0, 1
    first, second = [0] * (2 * steps), [0] * (2 * steps)
    for step in range(steps - 1, -1, -1):
        first[2 * step], first[2 * step + 1] = (p + q) & _MASK, q
        second[2 * step], second[2 * step + 1] = (r + s) & _MASK, s
        p, q, r, s = (p + q) & _MASK, (p + 2 * q) & _MASK, (r + s) & _MASK, (r + 2 * s) & _MASK
    return first, second, (p, q, r, s)


def _valid_by_lanes(
    data: bytes | memoryview, page_size: int, count: int, seed: bytes, big_endian: bool
) -> tuple[int, bytes]:
    import numpy as np

    first, second, (p, q, r, s) = _weights((8 + page_size) // 8)
    weights0, weights1 = np.array(first, np.uint32), np.array(second, np.uint32)
    size = frame_size(page_size)
    s0, s1 = struct.unpack(">II", seed)
    batch = max(1, (1 << 20) // size)
    for start in range(0, count, batch):
        stop = min(count, start + batch)
        rows = np.frombuffer(data, np.uint8, (stop - start) * size, start * size).reshape(stop - start, size)
        sums0, sums1 = _dot(rows, weights0, big_endian), _dot(rows, weights1, big_endian)
        stored = np.ascontiguousarray(rows[:, 16:24]).view(">u4")
        for row in range(stop - start):
            t0 = (p * s0 + q * s1 + int(sums0[row])) & _MASK
            t1 = (r * s0 + s * s1 + int(sums1[row])) & _MASK
            if t0 != int(stored[row, 0]) or t1 != int(stored[row, 1]):
                return start + row, struct.pack(">II", s0, s1)
            s0, s1 = t0, t1
    return count, struct.pack(">II", s0, s1)


def _dot(rows: np.ndarray, weights: np.ndarray, big_endian: bool) -> np.ndarray:
    import numpy as np

    kind = ">u4" if big_endian else "<u4"
    head = np.ascontiguousarray(rows[:, :8]).view(kind).astype(np.uint32, copy=False)
    page = np.ascontiguousarray(rows[:, FRAME_HEADER_SIZE:]).view(kind).astype(np.uint32, copy=False)
    total = np.multiply(head, weights[:2], dtype=np.uint32).sum(axis=1, dtype=np.uint32)
    return total + np.multiply(page, weights[2:], dtype=np.uint32).sum(axis=1, dtype=np.uint32)  # type: ignore[no-any-return]


class PageMap:
    """Which frame holds the newest committed version of each page in a range of one lap.

    Costs four bytes per frame while it is built. Frames after the last commit do not count; pages above the final
    commit are left out, because the database shrank.

    Attributes:
        first_frame: number of the first frame of the range (the lap's first frame is 1).
        commit: database size in pages after the last commit; 0 when the range has none.
        last_frame: number of the last commit frame; ``first_frame - 1`` when there is none.
    """

    def __init__(self, first_frame: int) -> None:
        self.first_frame = first_frame
        self.commit = 0
        self.last_frame = first_frame - 1
        self.last_checksum = bytes(8)
        self._pgnos = array("I")

    def add(self, frame: Frame) -> None:
        """Take the next frame."""
        self._pgnos.append(frame.pgno)
        if frame.commit:
            self.commit = frame.commit
            self.last_frame = self.first_frame + len(self._pgnos) - 1
            self.last_checksum = frame.checksum

    def extend(self, data: bytes | memoryview, page_size: int, salts: bytes) -> bool:
        """Take whole frames; ``False``, and none is taken, when one of them is not of the lap with ``salts``."""
        columns = list(zip(*_frame_format(page_size).iter_unpack(data), strict=True))
        if not columns:
            return True
        pgnos, commits, found, checksums = columns
        if found.count(salts) != len(found) or 0 in pgnos:
            return False
        before = len(self._pgnos)
        self._pgnos.extend(pgnos)
        for index in range(len(commits) - 1, -1, -1):
            if commits[index]:
                self.commit, self.last_checksum = commits[index], checksums[index]
                self.last_frame = self.first_frame + before + index
                break
        return True

    def __len__(self) -> int:
        """Committed frames in the range, superseded ones included."""
        return self.last_frame - self.first_frame + 1

    @property
    def last_pgno(self) -> int:
        """The page of the last commit frame."""
        return self._pgnos[len(self) - 1]

    def pages(self) -> list[tuple[int, int]] | np.ndarray:
        """``(pgno, frame number)`` ascending; a two-column array when there are many."""
        count = len(self)
        if count < 4096:
            newest = {pgno: self.first_frame + index for index, pgno in enumerate(self._pgnos[:count])}
            return sorted(item for item in newest.items() if item[0] <= self.commit)
        import numpy as np

        # The first occurrence in the reversed list is the newest frame of a page.
        pgnos = np.frombuffer(self._pgnos, np.uint32, count)[::-1]
        unique, index = np.unique(pgnos, return_index=True)
        keep = unique <= self.commit
        frames = self.first_frame + count - 1 - index[keep]
        return np.stack([unique[keep].astype(np.int64), frames.astype(np.int64)], axis=1)
