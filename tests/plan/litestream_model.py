"""What Litestream does with a set of files, from its observed behaviour: restore plan, compaction and retention.

Files are :class:`FileInfo` in ``{level: set}``; every function is independent of the package's own plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise

from vfsstream.ltx import TXID
from vfsstream.plan import FileInfo

Files = dict[int, set[FileInfo]]


class ModelError(Exception):
    """Litestream would refuse."""


def restore(files: Mapping[int, set[FileInfo]], txid: int | None = None, time: datetime | None = None) -> int:
    """The TXID that a restore reaches; ``ModelError`` where it would fail."""

    def fits(info: FileInfo) -> bool:
        assert info.created_at is not None
        return (txid is None or info.max_txid <= txid) and (time is None or info.created_at < time)

    at = max((int(info.max_txid) for info in files.get(9, ()) if fits(info)), default=0)
    while txid is None or at < txid:
        usable = [
            info
            for level in range(9)
            for info in files.get(level, ())
            if info.min_txid <= at + 1 and info.max_txid > at and fits(info)
        ]
        if not usable:
            break
        at = max(int(info.max_txid) for info in usable)
    pending = any(i.min_txid > at + 1 for level in range(9) for i in files.get(level, ()))
    if at == 0 or (txid is not None and at < txid) or (txid is None and time is None and pending):
        raise ModelError("transaction not available")
    return at


def compact(files: Files, level: int) -> None:
    """One turn of a level from 1 to 8."""
    reached = max((i.max_txid for i in files[level]), default=0)
    source = sorted(i for i in files[level - 1] if i.min_txid > reached)
    if not source:
        return
    for one, other in pairwise(source):
        if other.min_txid > one.max_txid + 1 or other.max_txid <= one.max_txid:
            raise ModelError("non-contiguous transaction ids in input files")
    files[level].add(merged(level, source))


def merged(level: int, source: list[FileInfo]) -> FileInfo:
    """The file that a merge makes."""
    first, last = source[0], source[-1]
    return FileInfo(
        TXID(first.min_txid), TXID(last.max_txid), level, sum(i.size for i in source), last.created_at, True
    )


def retire_l0(files: Files, now: datetime, retention: timedelta) -> None:
    """Level-0 retention."""
    if not files[1]:
        return
    reached = max(i.max_txid for i in files[1])
    gone = []
    ordered = sorted(files[0])
    for info in ordered:
        assert info.created_at is not None
        if info.created_at > now - retention:
            break
        if info.max_txid <= reached:
            gone.append(info)
    else:
        gone = [info for info in gone if info is not ordered[-1]]
    files[0] -= set(gone)


def retire_snapshots(files: Files, now: datetime, retention: timedelta, levels: range) -> None:
    """Snapshot retention and what follows from it."""
    ordered = sorted(files[9], key=lambda i: i.max_txid)
    floor = 0
    for info in ordered[:-1]:
        assert info.created_at is not None
        if info.created_at < now - retention:
            files[9].discard(info)
            floor = int(info.max_txid)
    for level in levels:
        newest = max(files[level], key=lambda i: i.max_txid, default=None)
        files[level] -= {i for i in files[level] if i.max_txid < floor and i is not newest}
