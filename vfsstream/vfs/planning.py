"""Finding and reading the files of a view: listing, planning, and listing again when a file vanished in between."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from vfsstream.errors import NotFound, NotRestorable, ReplicaEmpty, StoreError
from vfsstream.ltx.names import TXID
from vfsstream.plan import restore_plan
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica
from vfsstream.replica.parallel import side_by_side
from vfsstream.vfs.opening import IndexStore, LoadedFile, read_plan_files, yield_now
from vfsstream.vfs.pagemap import Incoming, build
from vfsstream.vfs.view import View

__all__ = ["Opened", "incoming", "older_than", "open_view", "yield_now"]

RELISTS = 3
"""Files may be removed between listing and reading: list again so often."""


class VersionStore(IndexStore, Protocol):
    """Keeps page indexes, and which page images an LTX file shares with earlier ones, for the next process."""

    def versions(self, info: FileInfo, count: int) -> Any | None:
        """The versions of the ``count`` pages of a file, in the order of its index, or ``None``."""


class Opened(NamedTuple):
    """A view, the files read for it, and the listing it came from."""

    view: View
    loaded: Sequence[LoadedFile]
    files: Mapping[int, Sequence[FileInfo]]


def incoming(loaded: LoadedFile, versions: VersionStore | None = None) -> Incoming:
    """What the page map needs of a file.

    Args:
        versions: what earlier processes found out about its pages.
    """
    known = versions.versions(loaded.info, len(loaded.index.pgno)) if versions is not None else None
    return Incoming(loaded.info, loaded.header, loaded.index, known)


def open_view(
    replica: Replica,
    *,
    txid: TXID | None = None,
    moment: datetime | None = None,
    wait: float = 0.0,
    poll: float = 1.0,
    generation: int = 0,
    index_cache: VersionStore | None = None,
) -> Opened:
    """The newest view of a replica, or the one at a TXID or before a moment.

    Args:
        wait: seconds to wait for a first file to appear.
        poll: seconds between two looks while waiting.
        index_cache: page indexes that earlier processes read.

    Raises:
        ReplicaEmpty: no file, after ``wait`` seconds.
        NotRestorable: no files lead to that TXID or moment.
        StoreError: the transport failed.
        CorruptError: a file is not what it claims to be.
    """
    end = time.monotonic() + wait
    missing = 0
    while True:
        files = replica.all_files()
        try:
            if moment is not None:
                plan = restore_plan(older_than(replica, files, moment))
            else:
                plan = restore_plan(files, txid=txid)
            loaded = read_plan_files(replica, plan, index_cache=index_cache)
            items = [incoming(file, index_cache) for file in loaded]
            return Opened(build(items, generation, yield_now), loaded, files)
        except NotFound as error:
            missing += 1
            if missing > RELISTS:
                raise StoreError(
                    f"files of {replica.describe()} vanish as fast as they are listed: {error.key}", retryable=True
                ) from error
        except ReplicaEmpty as error:
            left = end - time.monotonic()
            if left <= 0:
                raise ReplicaEmpty(
                    f"{replica.describe()}: no LTX files",
                    hint="check the URL, or wait for a first file with wait=30s",
                ) from error
            time.sleep(min(poll, left, 1.0))


def older_than(
    replica: Replica, files: Mapping[int, Sequence[FileInfo]], moment: datetime
) -> dict[int, Sequence[FileInfo]]:
    """The files whose last transaction is strictly older than a moment.

    Times within a level ascend with the TXID, so that a level costs a few header reads where the listing does not
    tell exact times.

    Raises:
        NotRestorable: nothing is that old.
        ReplicaEmpty: there are no files at all.
    """
    if not any(files.values()):
        raise ReplicaEmpty(f"{replica.describe()}: no LTX files")
    levels = [level for level in files if files[level]]
    counts = side_by_side(lambda level: _count_older(replica, files[level], moment), levels, len(levels), "time")
    older = {level: files[level][:count] for level, count in zip(levels, counts, strict=True)}
    if not any(older.values()):
        first = min(
            (level_files[0] for level_files in files.values() if level_files), key=lambda info: info.max_txid
        )
        oldest = _time_of(replica, first)
        raise NotRestorable(
            f"{replica.describe()}: nothing is older than {moment.isoformat()}",
            hint=f"the oldest state is of {oldest.isoformat()}",
        )
    return older


def _count_older(replica: Replica, files: Sequence[FileInfo], moment: datetime) -> int:
    low, high = 0, len(files)
    while low < high:
        middle = (low + high) // 2
        if _time_of(replica, files[middle]) < moment:
            low = middle + 1
        else:
            high = middle
    return low


def _time_of(replica: Replica, info: FileInfo) -> datetime:
    exact = replica.exact_time(info).created_at
    assert exact is not None
    return exact
