"""Which files tell what changed between two moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vfsstream.plan.files import FileInfo

__all__ = ["covering"]


def covering(files: Mapping[int, Sequence[FileInfo]], low: int, high: int) -> list[FileInfo] | None:
    """The smallest files, in bytes and by reach, that together cover every TXID in ``(low, high]``.

    A page that no file of them holds is the same at both moments. ``None`` when a TXID is covered only by files
    that begin at 1: a full image does not say what changed.

    Args:
        files: the listing of each level.
        low: TXID of one moment.
        high: TXID of the other, not below it.
    """
    useful = [
        info
        for listed in files.values()
        for info in listed
        if info.max_txid > low and info.min_txid <= high and (not info.is_snapshot or low == 0)
    ]
    chosen: list[FileInfo] = []
    current = low
    while current < high:
        steps = [info for info in useful if info.min_txid <= current + 1 and info.max_txid > current]
        if not steps:
            return None
        # Far without overshooting: a file that reaches beyond the moment lists changes that do not matter.
        best = max(steps, key=lambda info: (min(info.max_txid, high), info.min_txid, -info.size))
        chosen.append(best)
        current = best.max_txid
    return chosen
