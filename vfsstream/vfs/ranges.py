"""From wanted pages to ranged reads. Pure: neighbours in a file become one range, small gaps are read through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["MAX_GAP", "MAX_RANGE", "ByteRange", "Frame", "coalesce"]

MAX_GAP = 64 << 10
"""Bytes of unwanted frames that cost less to read than another request: 0.7 ms at 100 MB/s."""
MAX_RANGE = 1 << 20
"""Bytes of one request; longer runs are split and fetched side by side."""


class Frame(NamedTuple):
    """Where the frame of one page lies: file number, byte offset and length in it; the version of the page."""

    pgno: int
    file: int
    offset: int
    size: int
    version: int


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One ranged read and the frames to take from it, in the order of their offsets."""

    file: int
    offset: int
    size: int
    frames: tuple[Frame, ...]


def coalesce(frames: Iterable[Frame], max_gap: int = MAX_GAP, max_range: int = MAX_RANGE) -> list[ByteRange]:
    """The fewest ranges that cover the frames without reading through a gap of more than ``max_gap`` bytes.

    A range grows past ``max_range`` bytes only for a single frame.
    """
    ranges: list[ByteRange] = []
    group: list[Frame] = []
    for frame in sorted(frames, key=lambda f: (f.file, f.offset)):
        if group and not _joins(group, frame, max_gap, max_range):
            ranges.append(_range(group))
            group = []
        group.append(frame)
    if group:
        ranges.append(_range(group))
    return ranges


def _joins(group: list[Frame], frame: Frame, max_gap: int, max_range: int) -> bool:
    first, last = group[0], group[-1]
    return (
        frame.file == first.file
        and frame.offset - (last.offset + last.size) <= max_gap
        and frame.offset + frame.size - first.offset <= max_range
    )


def _range(group: list[Frame]) -> ByteRange:
    first, last = group[0], group[-1]
    return ByteRange(first.file, first.offset, last.offset + last.size - first.offset, tuple(group))
