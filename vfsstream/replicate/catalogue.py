"""What lies in a replica, kept in memory by its only writer, so that nobody has to list again and again."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from vfsstream.ltx.names import LEVELS, SNAPSHOT_LEVEL, TXID
from vfsstream.plan.files import FileInfo
from vfsstream.replica.replica import Replica

__all__ = ["Catalogue"]


class Catalogue:
    """The files of every level. Thread-safe; what it gives are copies.

    It is only ever filled from complete listings: one that fails half-way leaves the old content.

    Attributes:
        loaded: the content can be relied upon; ``False`` asks for another listing.
        used: was loaded at least once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: dict[int, set[FileInfo]] = {level: set() for level in LEVELS}
        self.loaded = False
        self.used = False

    def fill(self, listing: Mapping[int, Iterable[FileInfo]]) -> None:
        """Take over a listing of all levels."""
        levels = {level: set(listing.get(level, ())) for level in LEVELS}
        with self._lock:
            self._levels, self.loaded, self.used = levels, True, True

    def load(self, replica: Replica) -> list[FileInfo]:
        """List the replica, one listing for each level. Returns the files that should be there and are not."""
        before = self.all()
        listing = replica.all_files()
        lost = [info for level, files in before.items() for info in _absent(files, listing[level])]
        self.fill(listing)
        return lost

    def reload(self, replica: Replica, level: int) -> None:
        """List one level again."""
        found = set(replica.files(level))
        with self._lock:
            self._levels[level] = found

    def missing(self, replica: Replica, levels: Sequence[int]) -> list[FileInfo]:
        """List some levels again: the files that should be there and are not. They are forgotten here."""
        before = {level: self.files(level) for level in levels}
        first = min((files[0].min_txid for files in before.values() if files), default=TXID(1))
        listing = replica.all_files(levels, first)
        lost: list[FileInfo] = []
        for level, files in before.items():
            lost += _absent(files, listing[level])
        with self._lock:
            lost = [info for info in lost if info in self._levels[info.level]]  # else deleted by us meanwhile
            for info in lost:
                self._levels[info.level].discard(info)
        return lost

    def add(self, info: FileInfo) -> None:
        """A file was written; an older one of the same name is forgotten."""
        with self._lock:
            level = self._levels[info.level]
            same = {i for i in level if (i.min_txid, i.max_txid) == (info.min_txid, info.max_txid)}
            self._levels[info.level] = (level - same) | {info}

    def remove(self, infos: Iterable[FileInfo]) -> None:
        """Files were deleted."""
        with self._lock:
            for info in infos:
                self._levels[info.level].discard(info)

    def files(self, level: int) -> list[FileInfo]:
        """One level, ascending."""
        with self._lock:
            return sorted(self._levels[level])

    def all(self) -> dict[int, Sequence[FileInfo]]:
        """Every level, ascending."""
        with self._lock:
            return {level: sorted(files) for level, files in self._levels.items()}

    def newest(self, level: int) -> FileInfo | None:
        """The file of a level that ends last."""
        with self._lock:
            return max(self._levels[level], key=lambda info: info.max_txid, default=None)

    def snapshots(self) -> list[FileInfo]:
        """The files of the snapshot level."""
        return self.files(SNAPSHOT_LEVEL)


def _absent(files: Iterable[FileInfo], listing: Iterable[FileInfo]) -> list[FileInfo]:
    """Those of a level that a listing of it lacks."""
    there = {(info.min_txid, info.max_txid) for info in listing}
    return [info for info in files if (info.min_txid, info.max_txid) not in there]
