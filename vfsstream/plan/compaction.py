"""What to merge into a level: Litestream's choice of files, surviving gaps and leaving the base where it is.

Level ``n`` is made from level ``n - 1``: every source file that ends above the destination, in one merge. A gap
or a change of the page size ends a merge and begins another instead of failing for ever, and no merge grows past
its limits.

The base image is not copied up. A file that starts at TXID 1 holds the whole database; lifting it into levels 1, 2
and 3 would store the database once more each time. The snapshot level holds such an image already, so the levels
above 0 start at the TXID after it. Whoever reads the replica starts at a snapshot and continues with the newest
file that touches it, Litestream's restore and reader included. While no snapshot exists, level 1 waits: another
program that took over could otherwise delete the only base because everything after it had been compacted.

A full image with a later TXID, written when nothing less could be proven, does climb: without it a level would have a
hole, and a hole stops Litestream's compaction of the next level for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vfsstream.ltx.names import SNAPSHOT_LEVEL, TXID
from vfsstream.plan.files import FileInfo

__all__ = ["CompactionPlan", "Gap", "Limits", "Merge", "held", "plan_compaction", "split_by_page_size"]


_PIECE = 512 << 10
"""Bytes of a large file in memory, on the average of those that are read at the same time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one merge may take in.

    Attributes:
        max_files: input files.
        max_bytes: input bytes; a single larger file is still merged, alone.
        max_held: bytes in memory at one moment: small inputs as a whole, of larger ones a piece.
        min_files: fewer are left for the next turn. Level 1 always takes what there is, because level-0 files
            may only be deleted once level 1 holds them.
    """

    max_files: int = 2048
    max_bytes: int = 4 << 30
    max_held: int = 12 << 20
    min_files: int = 2


@dataclass(frozen=True, slots=True)
class Merge:
    """One file to be written.

    Attributes:
        level: where it goes.
        inputs: what it is made of, oldest first: contiguous, each ends above the one before.
    """

    level: int
    inputs: tuple[FileInfo, ...]

    @property
    def min_txid(self) -> TXID:
        """First TXID of the output."""
        return self.inputs[0].min_txid

    @property
    def max_txid(self) -> TXID:
        """Last TXID of the output."""
        return self.inputs[-1].max_txid

    @property
    def size(self) -> int:
        """Bytes to be read."""
        return sum(info.size for info in self.inputs)


@dataclass(frozen=True, slots=True)
class Gap:
    """TXIDs that the source level does not hold: after ``before`` and ahead of ``after``."""

    before: TXID
    after: TXID


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """What to do for one level.

    Attributes:
        merges: in ascending order of the TXIDs.
        gaps: holes above the destination; the latest state may need a new snapshot.
        waits_for_snapshot: nothing may be merged until a snapshot exists.
    """

    merges: tuple[Merge, ...] = ()
    gaps: tuple[Gap, ...] = ()
    waits_for_snapshot: bool = False


def plan_compaction(
    level: int,
    source: Sequence[FileInfo],
    destination: Sequence[FileInfo],
    snapshots: Sequence[FileInfo],
    *,
    limits: Limits = Limits(),
    leave_base: bool = True,
) -> CompactionPlan:
    """Decide the merges that bring ``destination`` up to ``source``.

    Args:
        level: of the destination, 1 to 8.
        source: files of the level below, any order.
        destination: files of the level, any order.
        snapshots: files of the snapshot level.
        leave_base: ``False`` lifts files that start at TXID 1 like all others, as Litestream does.
    """
    if not 1 <= level < SNAPSHOT_LEVEL:
        raise ValueError(f"compaction makes levels 1 to {SNAPSHOT_LEVEL - 1}, not {level}")
    reached = max((info.max_txid for info in destination), default=TXID(0))
    wanted = [info for info in source if info.max_txid > reached]
    if leave_base and (bases := [info.max_txid for info in wanted if info.is_snapshot]):
        if level == 1 and not snapshots:
            return CompactionPlan(waits_for_snapshot=True)
        reached = max(bases)
        wanted = [info for info in wanted if not info.is_snapshot and info.max_txid > reached]
    merges: list[Merge] = []
    gaps: list[Gap] = []
    for chain in _chains(wanted, reached, gaps):
        merges += [Merge(level, part) for part in _bounded(chain, limits)]
    if level > 1 and merges and not gaps and len(merges[-1].inputs) < limits.min_files:
        merges.pop()
    return CompactionPlan(tuple(merges), tuple(gaps))


def _chains(files: Iterable[FileInfo], reached: TXID, gaps: list[Gap]) -> Iterator[list[FileInfo]]:
    """Contiguous runs above ``reached``, each with as few files as cover it; holes between them go to ``gaps``."""
    rest = sorted(files, key=lambda info: (info.min_txid, -info.max_txid))
    chain: list[FileInfo] = []
    at = 0
    while at < len(rest):
        best = None
        while at < len(rest) and rest[at].min_txid <= reached + 1:
            if rest[at].max_txid > (best.max_txid if best else reached):
                best = rest[at]
            at += 1
        if best is not None:
            chain.append(best)
            reached = best.max_txid
        elif at < len(rest):
            if reached:
                gaps.append(Gap(reached, rest[at].min_txid))
            if chain:
                yield chain
            chain, reached = [], TXID(rest[at].min_txid - 1)
    if chain:
        yield chain


def held(infos: Iterable[FileInfo], piece: int = _PIECE) -> int:
    """Bytes of the files that a merge of them has in memory at one moment.

    Args:
        piece: of each larger file.
    """
    return sum(min(info.size, piece) for info in infos)


def _bounded(chain: Sequence[FileInfo], limits: Limits) -> Iterator[tuple[FileInfo, ...]]:
    part: list[FileInfo] = []
    size = pieces = 0
    for info in chain:
        piece = held([info])
        if part and (
            len(part) >= limits.max_files
            or size + info.size > limits.max_bytes
            or pieces + piece > limits.max_held
        ):
            yield tuple(part)
            part, size, pieces = [], 0, 0
        part.append(info)
        size += info.size
        pieces += piece
    if part:
        yield tuple(part)


def split_by_page_size(merge: Merge, page_sizes: Sequence[int]) -> list[Merge]:
    """The merge cut wherever the page size changes: files of different page sizes cannot be one file.

    Args:
        page_sizes: of the inputs, in their order.
    """
    parts: list[list[FileInfo]] = []
    for info, page_size, before in zip(merge.inputs, page_sizes, [0, *page_sizes], strict=False):
        if page_size != before:
            parts.append([])
        parts[-1].append(info)
    return [Merge(merge.level, tuple(part)) for part in parts]
