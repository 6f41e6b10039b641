"""Which files lead on from where a copy stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vfsstream.ltx.names import SNAPSHOT_LEVEL
from vfsstream.plan.files import FileInfo

__all__ = ["continuation"]


def continuation(files: Mapping[int, Sequence[FileInfo]], current: int) -> list[FileInfo]:
    """The files that lead from a copy at ``current`` as far as possible; empty when nothing does.

    Each step takes the file that reaches furthest. A full image serves only where the other files leave a gap.

    Args:
        files: the listing of each level.
        current: TXID of the copy.
    """
    everything = [info for listed in files.values() for info in listed if info.max_txid > current]
    images = [info for info in everything if info.level == SNAPSHOT_LEVEL]
    rest = sorted((info for info in everything if info.level != SNAPSHOT_LEVEL), key=lambda info: info.min_txid)
    newest = max((info.max_txid for info in everything), default=current)
    plan: list[FileInfo] = []
    while current < newest:
        step = _furthest(rest, current) or _furthest(images, current)
        if step is None:
            break
        if step.is_snapshot:
            plan.clear()  # it replaces all that came before
        plan.append(step)
        current = step.max_txid
    return plan


def _furthest(files: Sequence[FileInfo], current: int) -> FileInfo | None:
    usable = [info for info in files if info.min_txid <= current + 1 and info.max_txid > current]
    return max(usable, key=lambda info: (info.max_txid, info.min_txid, -info.level), default=None)
