"""Deleting what the plan allows: after proving what stays, in bounded batches, oldest first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from vfsstream.errors import AccessDenied, CorruptError, MissingError, NotRestorable
from vfsstream.ltx.names import SNAPSHOT_LEVEL, TXID
from vfsstream.plan.files import FileInfo
from vfsstream.plan.restore import restore_plan
from vfsstream.plan.retention import RetentionPolicy, retire_l0, retire_level, retire_snapshots
from vfsstream.replica.replica import Replica
from vfsstream.replicate.catalogue import Catalogue
from vfsstream.replicate.proof import prove

__all__ = ["Retention", "RetentionResult"]

BATCH = 500
DENIED_PAUSE = 3600.0
"""Seconds before deleting what the store refused to delete is tried again."""


@dataclass(frozen=True, slots=True)
class RetentionResult:
    """What one pass did.

    Attributes:
        deleted: these are gone (on a dry run: would be).
        retained: the store does not allow to delete these (locks, missing permission): they count as kept.
        blocked: why nothing was deleted although it was due, or ``None``.
    """

    deleted: tuple[FileInfo, ...] = ()
    retained: tuple[FileInfo, ...] = ()
    blocked: CorruptError | MissingError | None = None


@dataclass
class Retention:
    """Retention of one replica. One pass at a time; the caller sees to that.

    Args:
        catalogue: the files, from complete listings.
        proved: files that were read back when this process wrote them.
    """

    replica: Replica
    catalogue: Catalogue
    policy: RetentionPolicy = field(default_factory=RetentionPolicy)
    proved: set[FileInfo] = field(default_factory=set)
    monotonic: Callable[[], float] = time.monotonic
    _denied: dict[FileInfo, float] = field(default_factory=dict)

    def enforce_l0(self, now: datetime, *, dry_run: bool = False) -> RetentionResult:
        """Delete level-0 files that level 1 holds.

        Raises:
            StoreError: the store failed; what was deleted before was allowed to be.
        """
        l0, l1, snapshots = (self.catalogue.files(level) for level in (0, 1, SNAPSHOT_LEVEL))
        wanted = self._allowed(retire_l0(l0, l1, snapshots, now, self.policy))
        if not wanted:
            return RetentionResult()
        ends = TXID(max(info.max_txid for info in wanted))
        needed = [info for info in l1 if info.min_txid <= ends and info.max_txid >= wanted[0].min_txid]
        if wanted[0].is_snapshot and not any(info.is_snapshot for info in l1):
            needed += snapshots[:1]
        return self._delete(wanted, needed, dry_run)

    def enforce_snapshots(self, now: datetime, *, dry_run: bool = False) -> RetentionResult:
        """Delete snapshots out of the window, then the increments that only they needed."""
        files = self.catalogue.all()
        plan = retire_snapshots(files[SNAPSHOT_LEVEL], now, self.policy)
        wanted = list(plan.delete)
        for level in range(1, SNAPSHOT_LEVEL):
            wanted += retire_level(files[level], plan.floor)
        wanted = self._allowed(wanted)
        if not wanted:
            return RetentionResult()
        needed = [plan.keep[0], plan.keep[-1]] if plan.keep else []
        return self._delete(wanted, needed, dry_run)

    def _allowed(self, infos: Sequence[FileInfo]) -> list[FileInfo]:
        if not self.policy.delete_remote:
            return []
        now = self.monotonic()
        self._denied = {info: until for info, until in self._denied.items() if until > now}
        return [info for info in infos if info not in self._denied]

    def _delete(self, wanted: Sequence[FileInfo], needed: Iterable[FileInfo], dry_run: bool) -> RetentionResult:
        try:
            self._check_chain(wanted)
            for info in dict.fromkeys(needed):
                if info not in self.proved:
                    prove(self.replica, info)
                    self.proved.add(info)
        except (CorruptError, MissingError) as error:
            return RetentionResult(blocked=error)
        if dry_run:
            return RetentionResult(deleted=tuple(wanted))
        retained: list[FileInfo] = []
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            try:
                self.replica.delete(batch)
            except AccessDenied:
                retained += self._still_there(batch)
            self.catalogue.remove(batch)
        for info in retained:
            self.catalogue.add(info)
        self._denied.update(dict.fromkeys(retained, self.monotonic() + DENIED_PAUSE))
        self.proved.difference_update(wanted)
        return RetentionResult(tuple(info for info in wanted if info not in retained), tuple(retained))

    def _check_chain(self, wanted: Sequence[FileInfo]) -> None:
        """What remains must still lead to the newest state."""
        gone = set(wanted)
        before = self.catalogue.all()
        after = {level: [info for info in infos if info not in gone] for level, infos in before.items()}
        newest = max((info.max_txid for infos in before.values() for info in infos), default=TXID(0))
        reached = restore_plan(after)[-1].max_txid
        if reached < newest:
            raise NotRestorable(f"without what is due for deletion only TXID {reached} of {newest} is restorable")

    def _still_there(self, batch: Sequence[FileInfo]) -> list[FileInfo]:
        names: dict[int, set[tuple[int, int]]] = {}
        for level in {info.level for info in batch}:
            names[level] = {(info.min_txid, info.max_txid) for info in self.replica.files(level)}
        return [info for info in batch if (info.min_txid, info.max_txid) in names[info.level]]
