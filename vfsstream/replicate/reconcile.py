"""What a replica's listing means for the local files: go on, go above it, or refuse. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfsstream.errors import MissingError
from vfsstream.ltx.names import SNAPSHOT_LEVEL, TXID
from vfsstream.plan import restore_plan
from vfsstream.plan.files import FileInfo

__all__ = ["Behind", "Standing", "behind", "compare"]


@dataclass(frozen=True, slots=True)
class Behind:
    """The replica is ahead of the local files: go on above ``newest``, with all pages.

    Attributes:
        needs_snapshot: no chain leads from a base to ``newest``, so none would to what is above it.
    """

    newest: TXID
    needs_snapshot: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """The local files continue the replica.

    Attributes:
        missing: local TXIDs that no file of the replica covers, ascending: upload them, in this order.
        common: the newest TXID that both have as a single file; the content must be the same. ``None``: there
            is none.
        needs_snapshot: even with ``missing`` uploaded no chain leads from a base to the position.
    """

    missing: list[TXID]
    common: TXID | None
    needs_snapshot: bool


def compare(
    local: Sequence[FileInfo], position: TXID, remote: Mapping[int, Sequence[FileInfo]]
) -> Behind | Standing:
    """Compare the local level-0 files with all that the replica has."""
    everything = [info for files in remote.values() for info in files]
    newest = max((info.max_txid for info in everything), default=TXID(0))
    if newest > position:
        return behind(remote)
    single = {info.min_txid for info in remote.get(0, ()) if info.min_txid == info.max_txid}
    common = max((info.min_txid for info in local if info.min_txid in single), default=None)
    covered = _Cover(everything)
    newest_single = max(single, default=TXID(0))
    # The newest level-0 file marks the position for everybody, so it goes there even when a snapshot covers it.
    missing = [
        info.min_txid
        for info in local
        if not covered.has(info.min_txid) or (info.min_txid == position and newest_single < position)
    ]
    return Standing(missing, common, not _leads_to(position, local, missing, remote))


def behind(remote: Mapping[int, Sequence[FileInfo]]) -> Behind:
    """What to do when all the local files are worth nothing beside what the replica has."""
    newest = max((info.max_txid for files in remote.values() for info in files), default=TXID(0))
    return Behind(newest, not _leads_to(newest, (), (), remote))


class _Cover:
    def __init__(self, files: Sequence[FileInfo]) -> None:
        self._snapshot = max((info.max_txid for info in files if info.level == SNAPSHOT_LEVEL), default=TXID(0))
        self._spans: list[tuple[int, int]] = []
        for low, high in sorted((info.min_txid, info.max_txid) for info in files if info.level < SNAPSHOT_LEVEL):
            if self._spans and low <= self._spans[-1][1] + 1:
                self._spans[-1] = (self._spans[-1][0], max(high, self._spans[-1][1]))
            else:
                self._spans.append((low, high))

    def has(self, txid: int) -> bool:
        return txid <= self._snapshot or any(low <= txid <= high for low, high in self._spans)


def _leads_to(
    position: TXID, local: Sequence[FileInfo], missing: Sequence[TXID], remote: Mapping[int, Sequence[FileInfo]]
) -> bool:
    if position == 0:
        return True
    added = set(missing)
    level0 = sorted({*remote.get(0, ()), *(info for info in local if info.min_txid in added)})
    try:
        plan = restore_plan({**remote, 0: level0}, txid=position)
    except MissingError:
        return False
    return bool(plan) and plan[-1].max_txid == position
