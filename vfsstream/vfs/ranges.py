"""From wanted pages to ranged reads. Pure: neighbours in a file become one range, small gaps are read through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

__all__ = ["MAX_GAP", "MAX_RANGE", "ByteRange", "Frame", "coalesce"]

MAX_GAP = 64 << 10
"""Bytes of unwanted frames that cost less to read than another request: 0.7 ms at 100 MB/s."""
LITTLE = 16 << 10
"""Bytes that are always read through."""
WASTE, MANY, MOST = 2, 16, 8 << 20
"""Larger gaps are read through while all of them together are at most ``WASTE`` times what is wanted, and beyond that
while there would be more than ``MANY`` requests, up to ``MOST`` bytes: a few requests side by side take no longer than
one, many take their own time each."""
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
    """The ranges that cover the frames: few, without reading through a gap that is larger than ``max_gap`` bytes.

    The smallest gaps are read through first, see :data:`WASTE`.
    A range grows past ``max_range`` bytes only for a single frame.
    """
    ordered = sorted(frames, key=lambda f: (f.file, f.offset))
    through = _read_through(ordered, max_gap)
    ranges: list[ByteRange] = []
    group: list[Frame] = []
    for number, frame in enumerate(ordered):
        if group and (number not in through or frame.offset + frame.size - group[0].offset > max_range):
            ranges.append(_range(group))
            group = []
        group.append(frame)
    if group:
        ranges.append(_range(group))
    return ranges


def _read_through(ordered: list[Frame], max_gap: int) -> set[int]:
    """The numbers of the frames that are read together with the one before."""
    gaps = sorted(
        (after.offset - before.offset - before.size, number)
        for number, (before, after) in enumerate(pairwise(ordered), 1)
        if before.file == after.file
    )
    own, spent = sum(frame.size for frame in ordered), 0
    through = set[int]()
    for gap, number in gaps:
        spent += gap
        few = len(ordered) - len(through) <= MANY
        if gap > max_gap or (gap > LITTLE and spent > (WASTE * own if few else MOST)):
            break
        through.add(number)
    return through


def _range(group: list[Frame]) -> ByteRange:
    first, last = group[0], group[-1]
    return ByteRange(first.file, first.offset, last.offset + last.size - first.offset, tuple(group))
