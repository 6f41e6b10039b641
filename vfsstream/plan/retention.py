"""What may be deleted, and nothing else.

Rules that hold whatever the ages say: the newest file of a level stays; a level-0 file goes only when level 1
holds its transaction; a file without a time, or with one in the future, counts as young; deletions are in
ascending order of the TXIDs, so that whatever interrupts them leaves a contiguous tail.

The whole asked-for window stays restorable: besides every snapshot inside it, the newest one older than it is
kept, because that is what a restore to the window's first moments starts from.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from vfsstream.errors import UsageError
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo

__all__ = [
    "L0State",
    "RetentionPolicy",
    "SnapshotPlan",
    "l0_states",
    "retire_l0",
    "retire_level",
    "retire_snapshots",
]

L0State = Literal["eligible", "not_compacted", "too_recent"]


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long what is kept.

    Attributes:
        l0: level-0 files younger than this stay, so that readers can follow by them; 0 keeps all of them.
        snapshots: every moment of this period before now stays restorable.
        min_snapshots: so many snapshots stay whatever their age.
        delete_remote: ``False`` leaves every deletion in the replica to somebody else (a bucket's lifecycle
            rules).
    """

    l0: timedelta = timedelta(minutes=5)
    snapshots: timedelta = timedelta(hours=24)
    min_snapshots: int = 1
    delete_remote: bool = True

    def __post_init__(self) -> None:
        if self.l0 < timedelta(0):
            raise UsageError(f"level-0 retention must not be negative, found {self.l0}")
        if self.snapshots <= timedelta(0):
            raise UsageError(f"snapshot retention must be positive, found {self.snapshots}")
        if self.min_snapshots < 1:
            raise UsageError(f"at least one snapshot must be kept, found {self.min_snapshots}")


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """The fate of the snapshots.

    Attributes:
        delete: ascending.
        keep: ascending; never empty when there was a snapshot.
        floor: files of levels 1 to 8 that end below it are not needed any more; 0 when all are. It is the end of
            the newest deleted snapshot and not the begin of what is kept, so that a restore that started from that
            snapshot still finds its increments.
    """

    delete: tuple[FileInfo, ...]
    keep: tuple[FileInfo, ...]
    floor: TXID


def retire_snapshots(snapshots: Sequence[FileInfo], now: datetime, policy: RetentionPolicy) -> SnapshotPlan:
    """Which snapshots may go: those that no moment of the window needs."""
    ordered = sorted(snapshots, key=lambda info: info.max_txid)
    horizon = now - policy.snapshots
    young = next((at for at, info in enumerate(ordered) if not _older(info, horizon)), len(ordered))
    first = max(0, min(young - 1, len(ordered) - policy.min_snapshots))
    delete, keep = ordered[:first], ordered[first:]
    return SnapshotPlan(tuple(delete), tuple(keep), delete[-1].max_txid if delete else TXID(0))


def retire_level(files: Sequence[FileInfo], floor: TXID) -> list[FileInfo]:
    """Which files of a level from 1 to 8 may go: those that end below the floor, never the newest."""
    ordered = sorted(files)
    newest = max(ordered, key=lambda info: info.max_txid, default=None)
    return [info for info in ordered if info.max_txid < floor and info is not newest]


def retire_l0(
    l0: Sequence[FileInfo],
    l1: Sequence[FileInfo],
    snapshots: Sequence[FileInfo],
    now: datetime,
    policy: RetentionPolicy,
    *,
    keep: Collection[TXID] = (),
) -> list[FileInfo]:
    """Which level-0 files may go: old, held by level 1 (the base: by snapshots), and not the newest.

    The scan ends at the first young file: what remains is contiguous for those who follow it.

    Args:
        keep: TXIDs that must stay for another reason.
    """
    if not policy.l0:
        return []
    ordered = sorted(l0)
    newest = max((info.max_txid for info in ordered), default=TXID(0))
    horizon = now - policy.l0
    bases = [*snapshots, *(info for info in (*l0, *l1) if info.is_snapshot)]
    # Before every base and before level 1 lies what an interrupted retention left: no restore can use it.
    reachable = min((*(i.max_txid for i in bases), *(i.min_txid for i in l1))) if bases and l1 else TXID(0)
    holders = _Holders(l1, horizon)
    gone: list[FileInfo] = []
    for info in ordered:
        if not _older(info, horizon):
            break
        if info.max_txid == newest or info.min_txid in keep:
            continue
        if holders.hold(info) or info.max_txid < reachable or _superseded_base(info, snapshots, now, policy):
            gone.append(info)
    return gone


def l0_states(
    l0: Sequence[FileInfo],
    l1: Sequence[FileInfo],
    snapshots: Sequence[FileInfo],
    now: datetime,
    policy: RetentionPolicy,
) -> dict[L0State, int]:
    """How many level-0 files may go, wait for a compaction, or stay because they are young (or the newest)."""
    gone = set(retire_l0(l0, l1, snapshots, now, policy)) if policy.delete_remote else set()
    end = max((info.max_txid for info in (*l1, *snapshots)), default=TXID(0))
    waiting = sum(1 for info in l0 if info not in gone and info.max_txid > end)
    return {"eligible": len(gone), "not_compacted": waiting, "too_recent": len(l0) - len(gone) - waiting}


class _Holders:
    """Level 1, for finding the file that holds a transaction."""

    def __init__(self, l1: Sequence[FileInfo], horizon: datetime) -> None:
        self.files = sorted(l1)
        self.begins = [info.min_txid for info in self.files]
        self.horizon = horizon

    def hold(self, info: FileInfo) -> bool:
        """In a file that is old to its end: while some of its steps are young, they need the older ones."""
        at = bisect_right(self.begins, info.min_txid)
        near = self.files[max(0, at - 3) : at]
        return any(info.max_txid <= other.max_txid and _older(other, self.horizon) for other in near)


def _superseded_base(
    info: FileInfo, snapshots: Sequence[FileInfo], now: datetime, policy: RetentionPolicy
) -> bool:
    """A base that level 1 does not hold is a snapshot in all but its level, and goes by the same rule."""
    if not info.is_snapshot:
        return False
    same = any(other.max_txid == info.max_txid for other in snapshots)
    return same or info in retire_snapshots([info, *snapshots], now, policy).delete


def _older(info: FileInfo, horizon: datetime) -> bool:
    return info.created_at is not None and info.created_at < horizon
