"""Gaps and overlaps between the files of one level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from vfsstream.plan.files import FileInfo

__all__ = ["Gap", "gaps", "overlaps"]


@dataclass(frozen=True, slots=True)
class Gap:
    """Two neighbouring files that do not meet.

    Attributes:
        before: the file that ends too early or too late.
        after: the next one.
    """

    before: FileInfo
    after: FileInfo

    def __str__(self) -> str:
        if self.after.min_txid > self.before.max_txid + 1:
            return f"level {self.before.level}: nothing between {self.before.max_txid} and {self.after.min_txid}"
        return f"level {self.before.level}: {self.before.name} overlaps {self.after.name}"


def gaps(files: Iterable[FileInfo]) -> list[Gap]:
    """Where TXIDs are missing between the files of one level; a level may begin anywhere."""
    found: list[Gap] = []
    furthest: FileInfo | None = None
    for info in sorted(files):
        if furthest is not None and info.min_txid > furthest.max_txid + 1:
            found.append(Gap(furthest, info))
        if furthest is None or info.max_txid > furthest.max_txid:
            furthest = info
    return found


def overlaps(files: Iterable[FileInfo]) -> list[Gap]:
    """Neighbours of one level that cover a TXID twice."""
    return [Gap(before, after) for before, after in _pairs(files) if after.min_txid <= before.max_txid]


def _pairs(files: Iterable[FileInfo]) -> Iterator[tuple[FileInfo, FileInfo]]:
    return pairwise(sorted(files))
