"""Snapshots: a full image at the snapshot level, by the cheapest way that is at hand.

* ``promoted``: the newest level-0 file that holds every page, under another name: no page is read twice.
* ``merged``: the last snapshot and what came after it, where reading the replica costs nothing but the disk.
* ``database``: the pages of the live database, under a lock that keeps checkpoints away.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from vfsstream.errors import DeadlineExceeded, LtxError, MissingError
from vfsstream.ltx.encoder import encode
from vfsstream.ltx.names import SNAPSHOT_LEVEL
from vfsstream.plan.compaction import Limits, held
from vfsstream.plan.files import FileInfo
from vfsstream.plan.restore import restore_plan
from vfsstream.replicate.catalogue import Catalogue
from vfsstream.replicate.compactor import PIECE, Compactor

if TYPE_CHECKING:
    from vfsstream.replicate.image import Pages
    from vfsstream.replicate.maintained import Maintained

__all__ = ["SnapshotWay", "snapshot_from_database", "take_snapshot"]

SnapshotWay = Literal["promoted", "merged", "database"]

_LOCAL_KINDS = frozenset({"file", "memory"})
_MERGE_FILES = 512


def take_snapshot(
    database: Maintained,
    compactor: Compactor,
    catalogue: Catalogue,
    full: FileInfo | None = None,
    *,
    urgent: bool = False,
    reach: int = 0,
) -> tuple[FileInfo, SnapshotWay]:
    """Write a snapshot newer than the newest one.

    Args:
        full: the newest level-0 file known to hold every page.
        urgent: the files of the replica do not lead to the newest state: they cannot be merged.
        reach: the snapshot must go at least up to this TXID.

    Raises:
        StoreError, DatabaseError: reading or writing failed; nothing was written.
    """
    newest = catalogue.newest(SNAPSHOT_LEVEL)
    reached = newest.max_txid if newest else 0
    level_0 = catalogue.files(0)
    if full is None and level_0 and level_0[0].is_snapshot:
        full = level_0[0]
    if full is not None and full.max_txid > max(reached, reach - 1) and _continues(level_0, full):
        try:
            return compactor.snapshot([full]), "promoted"
        except (LtxError, MissingError):
            pass  # damaged or gone: the database still has everything
    if not urgent and compactor.replica.store.kind in _LOCAL_KINDS:
        try:
            plan = restore_plan(catalogue.all())
            if len(plan) <= _MERGE_FILES and held(plan, PIECE) <= Limits().max_held:
                return compactor.snapshot(plan), "merged"
        except (LtxError, MissingError):
            pass
    return snapshot_from_database(database, compactor), "database"


def snapshot_from_database(
    database: Maintained, compactor: Compactor | None = None, deadline: float | None = None
) -> FileInfo:
    """Read every page of the live database once and write it as a snapshot of its position.

    Args:
        deadline: a value of ``time.monotonic()`` at which to give up.

    Raises:
        DeadlineExceeded: not finished in time; nothing was written.
    """
    compactor = compactor or Compactor(database.replica)
    with database.snapshot_pages() as (header, pages):
        content = encode(header, pages if deadline is None else _until(deadline, pages, database))
        return compactor.write(SNAPSHOT_LEVEL, header.min_txid, header.max_txid, content, header.timestamp)


def _until(deadline: float, pages: Pages, database: Maintained) -> Pages:
    for page in pages:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"no time left for a snapshot of {database.path}")
        yield page


def _continues(level_0: Sequence[FileInfo], full: FileInfo) -> bool:
    """Is every level-0 file after the full one there?"""
    expected = int(full.max_txid)
    for info in level_0:
        if info.max_txid > full.max_txid:
            expected += 1
            if info.min_txid != expected:
                return False
    return True
