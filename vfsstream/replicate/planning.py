"""Which files of a replica a restore applies. Apart from the restore itself, so that to show a plan loads little."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from vfsstream.errors import NotFound, ReplicaEmpty
from vfsstream.ltx.names import LEVELS
from vfsstream.plan.files import FileInfo
from vfsstream.plan.restore import restore_plan
from vfsstream.replica.parallel import side_by_side
from vfsstream.replica.replica import Replica

__all__ = ["find_plan"]

_HEADERS = 32

_CLOCK_MARGIN = timedelta(minutes=15)
"""No store accepts requests of a client whose clock is farther from its own than this."""


def find_plan(
    replica: Replica,
    *,
    txid: int | None = None,
    timestamp: datetime | None = None,
    allow_gap: bool = False,
    parallelism: int | None = None,
) -> list[FileInfo]:
    """List the replica once and choose the files to apply, by the exact times of their headers.

    Raises:
        ReplicaEmpty: no file at all.
        NotRestorable: nothing leads there; the message names the nearest moments that work.
    """
    files = replica.all_files(LEVELS)
    if timestamp is not None:
        files = _with_exact_times(replica, files, timestamp, parallelism)
    if not any(files.values()):
        raise ReplicaEmpty(f"{replica.describe()} holds no LTX files", hint="check the URL and its path")
    return restore_plan(files, txid=txid, timestamp=timestamp, allow_gap=allow_gap)


def _with_exact_times(
    replica: Replica, files: Mapping[int, list[FileInfo]], timestamp: datetime, parallelism: int | None
) -> dict[int, list[FileInfo]]:
    """Headers are read only where the store's own time leaves the answer open.

    A file is stored after its last commit, but by another clock, and many stores cut the time to whole seconds.
    """
    surely_older = timestamp - _CLOCK_MARGIN

    def exact(info: FileInfo) -> FileInfo | None:
        if info.exact_time or (info.created_at is not None and info.created_at < surely_older):
            return info
        try:
            return replica.exact_time(info)
        except NotFound:  # removed by retention since the listing
            return None

    every = [info for listed in files.values() for info in listed]
    found: dict[int, list[FileInfo]] = {level: [] for level in files}
    for info in side_by_side(exact, every, max(1, parallelism or _HEADERS), "times"):
        if info is not None:
            found[info.level].append(info)
    return found
