"""A range of the log as pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from vfsstream.replicate.wal import (
    FRAME_HEADER_SIZE,
    WAL_HEADER_SIZE,
    PageMap,
    WalHeader,
    frame_end,
    frame_size,
    frames_in,
    iter_frames,
    valid_frames,
)

__all__ = ["LogRange", "Torn", "old_lap", "scan"]

_KEEP = 8 << 20  # ranges up to this size are read once and kept
_CHUNK = 1 << 20


class Torn(Exception):
    """The log changed while it was read: look again."""


class Log(Protocol):
    """What a range is read from."""

    def read_log(self, offset: int, size: int) -> bytes:
        """Bytes of the log; fewer at its end."""


@dataclass(slots=True)
class LogRange:
    """Committed frames of one lap.

    Attributes:
        start: offset of the first frame.
        end: offset behind the last commit frame; ``start`` when there is none.
        map: where the pages are.
    """

    log: Log
    page_size: int
    salts: bytes
    start: int
    map: PageMap
    _kept: bytes | None = field(default=None, repr=False)

    @property
    def end(self) -> int:
        """The offset behind the last commit frame."""
        return frame_end(self.map.last_frame, self.page_size)

    def page(self, frame: int) -> bytes | memoryview:
        """The page in frame number ``frame`` (which may lie before the range).

        Raises:
            Torn: the frame is not of this lap any more.
        """
        offset, size = frame_end(frame - 1, self.page_size), frame_size(self.page_size)
        if self._kept is not None and offset >= self.start:
            at = offset - self.start
            return memoryview(self._kept)[at + FRAME_HEADER_SIZE : at + size]
        data = self.log.read_log(offset, size)
        if len(data) != size or data[8:16] != self.salts:
            raise Torn
        return memoryview(data)[FRAME_HEADER_SIZE:]


def scan(
    log: Log,
    page_size: int,
    start: int,
    stop: int,
    salts: bytes,
    limit: int = 0,
    *,
    keep: bool = False,
    shrink: bool = True,
) -> LogRange:
    """Read the frames in ``[start, stop)``, which are known to be committed and of the lap with ``salts``.

    Args:
        limit: stop at the first commit after so many bytes; 0 means no limit.
        keep: hold the range in memory whatever its size.
        shrink: leave out pages above the final commit.

    Raises:
        Torn: a frame of another lap, or the log is shorter.
    """
    count = frames_in(start, page_size)
    assert count is not None
    pages = PageMap(count + 1)
    size = frame_size(page_size)
    kept = log.read_log(start, stop - start) if keep or stop - start <= _KEEP else None
    step = max(1, _CHUNK // size) * size
    for offset in range(start, stop, step):
        wanted = min(step, stop - offset)
        data = (
            memoryview(kept)[offset - start : offset - start + wanted]
            if kept is not None
            else log.read_log(offset, wanted)
        )
        if len(data) != wanted:
            raise Torn
        if not limit or offset + wanted - start < limit:
            if not pages.extend(data, page_size, salts):
                raise Torn
            continue
        for number, frame in enumerate(iter_frames(data, page_size), 1):
            if frame.salts != salts or frame.pgno == 0:
                raise Torn
            pages.add(frame)
            if limit and frame.commit and offset + number * size - start >= limit:
                return LogRange(log, page_size, salts, start, pages, kept)
    if not shrink:
        pages.commit = (1 << 32) - 1
    return LogRange(log, page_size, salts, start, pages, kept)


def old_lap(log: Log, page_size: int, start: int, salts: bytes, seed: bytes) -> LogRange | None:
    """What is left of a lap from ``start``: the frames whose checksums continue the chain from ``seed``.

    ``None`` when the log has no readable header, so that the order of the checksum's words is unknown.
    """
    header = WalHeader.unpack(log.read_log(0, WAL_HEADER_SIZE))
    if header is None:
        return None
    count = frames_in(start, page_size)
    assert count is not None
    pages = PageMap(count + 1)
    size = frame_size(page_size)
    step = max(1, _CHUNK // size) * size
    offset = start
    while True:
        data = log.read_log(offset, step)
        valid, seed = valid_frames(data, page_size, salts, seed, big_endian=header.big_endian)
        for frame in iter_frames(memoryview(data)[: valid * size], page_size):
            pages.add(frame)
        if valid * size < step:
            return LogRange(log, page_size, salts, start, pages)
        offset += step
