"""The moments that a replica can really restore."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from vfsstream.plan.files import FileInfo

__all__ = ["every_file", "nearest", "restorable"]


def every_file(files: Mapping[int, Sequence[FileInfo]]) -> list[FileInfo]:
    """All files of all levels, by last TXID, higher levels first among equals."""
    flat = [info for listed in files.values() for info in listed]
    return sorted(flat, key=lambda info: (info.max_txid, -info.level, info.min_txid))


def restorable(files: Iterable[FileInfo]) -> list[FileInfo]:
    """The files at whose ends the database can be restored, ascending, one for each TXID.

    A file's end is reachable when the file is a full image, or when it continues a reachable end: starts at most
    one above it and reaches further.

    Args:
        files: of all levels, ascending by last TXID as :func:`every_file` gives them.
    """
    reached: list[FileInfo] = []
    ends: list[int] = []
    for info in files:
        if ends and ends[-1] == info.max_txid:
            continue
        before = bisect_left(ends, info.max_txid) - 1
        if info.is_snapshot or (before >= 0 and ends[before] + 1 >= info.min_txid):
            reached.append(info)
            ends.append(info.max_txid)
    return reached


def nearest(points: Sequence[FileInfo], txid: int) -> tuple[FileInfo | None, FileInfo | None]:
    """The restorable moments directly before and after a TXID."""
    ends = [int(point.max_txid) for point in points]
    place = bisect_left(ends, txid)
    after = next((point for point in points[place:] if point.max_txid > txid), None)
    return (points[place - 1] if place else None), after
