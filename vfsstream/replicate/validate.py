"""Looking over the files of every level: are neighbours in order, without holes and overlaps?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from vfsstream.ltx.names import SNAPSHOT_LEVEL
from vfsstream.plan.files import FileInfo
from vfsstream.replica.replica import Replica

__all__ = ["Problem", "find_problems", "validate"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Two neighbours of a level that do not follow one another.

    Attributes:
        kind: ``unsorted``: the later file does not end later; ``gap``: TXIDs between them are missing;
            ``overlap``: both hold some TXIDs.
    """

    level: int
    kind: Literal["unsorted", "gap", "overlap"]
    before: FileInfo
    after: FileInfo

    def __str__(self) -> str:
        return f"level {self.level}: {self.kind} between {self.before.name} and {self.after.name}"


def find_problems(files: Mapping[int, Sequence[FileInfo]]) -> list[Problem]:
    """Check neighbours, in the order given. Snapshots overlap by nature and are not looked at."""
    problems: list[Problem] = []
    for level in sorted(files):
        for before, after in pairwise(files[level] if level != SNAPSHOT_LEVEL else ()):
            if after.max_txid <= before.max_txid:
                problems.append(Problem(level, "unsorted", before, after))
            elif after.min_txid > before.max_txid + 1:
                problems.append(Problem(level, "gap", before, after))
            elif after.min_txid <= before.max_txid:
                problems.append(Problem(level, "overlap", before, after))
    return problems


def validate(replica: Replica, levels: Iterable[int] = range(SNAPSHOT_LEVEL)) -> list[Problem]:
    """List levels of a replica and check them.

    Raises:
        StoreError: a listing failed.
    """
    return find_problems(replica.all_files(levels))
