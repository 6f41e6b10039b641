"""What a follower does next. Pure: no I/O, no clock, no thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfsstream.ltx.names import LEVELS, SNAPSHOT_LEVEL
from vfsstream.plan.files import FileInfo

__all__ = ["Pace", "another_history", "bridge", "due_levels", "poll_interval", "probe_due", "stall_pause"]

QUIET_POLLS = 10
"""So many polls without news before the pause begins to grow."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to look. Durations in seconds.

    Attributes:
        interval: between two looks for the next transaction.
        max_interval: the pause grows up to this while nothing comes.
        relist: between two listings of level 0, and of level 1 while new transactions come.
    """

    interval: float
    max_interval: float
    relist: float


def poll_interval(pace: Pace, quiet: int) -> float:
    """The pause after ``quiet`` looks in a row that found nothing."""
    if quiet <= QUIET_POLLS:
        return pace.interval
    return min(pace.interval * 2.0 ** min(quiet - QUIET_POLLS, 32), max(pace.max_interval, pace.interval))


FIRST_PROBE, PROBE_EVERY = 2, 20


def probe_due(quiet: int) -> bool:
    """Whether a look that found nothing, the ``quiet``-th in a row, should ask for the transaction after the next.

    If that one exists, the next is missing: a gap, which the predicted name alone never shows. Asked once soon after
    news, when more is likely, and then rarely: an idle reader shall cost no second request.
    """
    return quiet == FIRST_PROBE or quiet % PROBE_EVERY == 0


def stall_pause(pace: Pace, tries: int) -> float:
    """The pause before a gap is looked at again after ``tries`` listings that did not close it."""
    return min(pace.interval * 2.0 ** min(tries, 32), pace.relist)


def level_interval(pace: Pace, level: int, active: bool) -> float:
    """How often a level is listed. Compacted files appear more rarely the higher the level."""
    if level == 0:
        return pace.relist
    if level == 1:
        return pace.relist if active else pace.relist * 4
    return pace.relist * (240 if level == SNAPSHOT_LEVEL else 20)


def due_levels(pace: Pace, now: float, listed: Mapping[int, float], active: bool) -> list[int]:
    """The levels whose listing is due.

    Args:
        listed: when each level was listed last.
        active: new transactions came since level 1 was listed.
    """
    return [level for level in LEVELS if now - listed.get(level, 0.0) >= level_interval(pace, level, active)]


def bridge(files: Mapping[int, Sequence[FileInfo]], txid: int, *, sparing: bool = False) -> list[FileInfo]:
    """The files that lead furthest on from a TXID, in order; empty when there is nothing new or a gap.

    Each step takes the file that reaches furthest among those that connect; of equals the one that starts
    earliest, then the higher level: it will live longest.

    Args:
        sparing: of equals the one that starts latest, and a full image only where nothing else connects. For files
            with transactions that are not known yet: each page in them counts as changed, and is fetched again.
    """
    candidates = [info for level in files.values() for info in level]
    plan: list[FileInfo] = []
    while True:
        fitting = [info for info in candidates if info.min_txid <= txid + 1 and info.max_txid > txid]
        if not fitting:
            return plan
        if sparing:
            best = max(fitting, key=lambda info: (info.min_txid > 1, info.max_txid, info.min_txid, info.level))
        else:
            best = max(fitting, key=lambda info: (info.max_txid, -info.min_txid, info.level))
        plan.append(best)
        txid = best.max_txid


def another_history(files: Mapping[int, Sequence[FileInfo]], known: Sequence[FileInfo], txid: int) -> str | None:
    """Why a complete listing cannot belong to the history that was read, or ``None`` when it can."""
    listed = {(info.level, info.min_txid, info.max_txid): info for level in files.values() for info in level}
    if not listed:
        return None
    for info in known:
        now = listed.get((info.level, info.min_txid, info.max_txid))
        if now is not None and now.size != info.size:
            return f"{info} had {info.size} bytes and now has {now.size}"
    highest = max(info.max_txid for info in listed.values())
    if highest < txid:
        return f"the replica ends at TXID {highest}, but {txid:016x} was read before"
    return None
