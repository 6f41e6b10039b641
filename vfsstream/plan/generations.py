"""Backups of Litestream 0.3: which snapshot and which log segments make the database of a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from vfsstream.errors import NotRestorable

__all__ = ["Generation", "OldSegment", "OldSnapshot", "choose", "parse_segment", "parse_snapshot"]

_SNAPSHOT = re.compile(r"([0-9a-f]{8})\.snapshot\.lz4")
_SEGMENT = re.compile(r"([0-9a-f]{8})_([0-9a-f]{8,16})\.wal\.lz4")


@dataclass(frozen=True, slots=True, order=True)
class OldSnapshot:
    """A full image: the database before any frame of the log ``index``."""

    index: int
    key: str
    created_at: datetime
    size: int


@dataclass(frozen=True, slots=True, order=True)
class OldSegment:
    """A slice of the log ``index``, from ``offset`` counted in decompressed bytes."""

    index: int
    offset: int
    key: str
    created_at: datetime
    size: int


@dataclass(frozen=True, slots=True)
class Generation:
    """One unbroken history."""

    name: str
    snapshots: tuple[OldSnapshot, ...]
    segments: tuple[OldSegment, ...]


def parse_snapshot(name: str) -> int | None:
    """The index that the name of a snapshot states, or ``None`` for a foreign file."""
    match = _SNAPSHOT.fullmatch(name)
    return int(match[1], 16) if match else None


def parse_segment(name: str) -> tuple[int, int] | None:
    """Index and offset that the name of a log segment states, or ``None`` for a foreign file."""
    match = _SEGMENT.fullmatch(name)
    return (int(match[1], 16), int(match[2], 16)) if match else None


def choose(
    generations: Iterable[Generation], timestamp: datetime | None = None
) -> tuple[OldSnapshot, list[list[OldSegment]]]:
    """The newest usable snapshot and, for each log after it, its segments in order.

    Args:
        generations: every history found.
        timestamp: use nothing created later than this (inclusive, unlike LTX).

    Raises:
        NotRestorable: no snapshot that old, or a log or segment is missing in between.
    """
    usable = [
        (snapshot, generation)
        for generation in generations
        for snapshot in generation.snapshots
        if timestamp is None or snapshot.created_at <= timestamp
    ]
    if not usable:
        raise NotRestorable("no snapshots available in this backup of Litestream 0.3")
    snapshot, generation = max(usable, key=lambda pair: (pair[0].created_at, pair[0].index))
    segments = sorted(
        segment
        for segment in generation.segments
        if segment.index >= snapshot.index and (timestamp is None or segment.created_at <= timestamp)
    )
    return snapshot, _logs(generation.name, snapshot.index, segments)


def _logs(generation: str, first: int, segments: Sequence[OldSegment]) -> list[list[OldSegment]]:
    logs: list[list[OldSegment]] = []
    for segment in segments:
        if segment.offset == 0 and segment.index == first + len(logs):
            logs.append([segment])
        elif logs and segment.index == first + len(logs) - 1 and segment.offset > 0:
            logs[-1].append(segment)
        else:
            raise NotRestorable(
                f"generation {generation}: missing log index, expected {first + len(logs):08x}/00000000, "
                f"got {segment.index:08x}/{segment.offset:08x}"
            )
    return logs
