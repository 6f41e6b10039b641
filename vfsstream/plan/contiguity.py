"""Whether the files of a level follow one another: one rule for neighbours, asked in two ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from vfsstream.ltx.names import SNAPSHOT_LEVEL
from vfsstream.plan.files import FileInfo

__all__ = ["Problem", "find_problems", "level_problems"]

Kind = Literal["unsorted", "gap", "overlap"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Two neighbours of a level that do not follow one another.

    Attributes:
        kind: ``unsorted``: the later file does not end later; ``gap``: TXIDs between them are missing;
            ``overlap``: both hold some TXIDs.
    """

    kind: Kind
    before: FileInfo
    after: FileInfo

    @property
    def level(self) -> int:
        """Of both files."""
        return self.before.level

    def __str__(self) -> str:
        if self.kind == "gap":
            return f"level {self.level}: nothing between {self.before.max_txid} and {self.after.min_txid}"
        return f"level {self.level}: {self.kind} between {self.before.name} and {self.after.name}"


def level_problems(files: Iterable[FileInfo], *, only_gaps: bool = False) -> list[Problem]:
    """Check the files of one level, in the order given; a level may begin anywhere.

    Args:
        only_gaps: ask as a reader does: in any order, overlaps do no harm, and a large file covers what smaller
            ones leave open.
    """
    found: list[Problem] = []
    before: FileInfo | None = None
    for after in sorted(files) if only_gaps else files:
        kind = _between(before, after) if before is not None else None
        if before is not None and kind is not None and (kind == "gap" or not only_gaps):
            found.append(Problem(kind, before, after))
        if before is None or not only_gaps or after.max_txid > before.max_txid:
            before = after
    return found


def _between(before: FileInfo, after: FileInfo) -> Kind | None:
    if after.max_txid <= before.max_txid:
        return "unsorted"
    if after.min_txid > before.max_txid + 1:
        return "gap"
    return "overlap" if after.min_txid <= before.max_txid else None


def find_problems(files: Mapping[int, Iterable[FileInfo]], *, only_gaps: bool = False) -> list[Problem]:
    """Check every level. Snapshots overlap by nature and are not looked at."""
    levels = sorted(level for level in files if level != SNAPSHOT_LEVEL)
    return [problem for level in levels for problem in level_problems(files[level], only_gaps=only_gaps)]
