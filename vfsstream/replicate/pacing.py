"""When to look at a database next. Pure: times are arguments.

A writer first appends frames to the log, which the kernel tells, and then changes the wal-index, which nobody tells:
so a database whose log was written is looked at again and again for a moment, each time after a longer pause. One
that the kernel tells nothing about is looked at all the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["LINGER", "Attention", "after_look", "pause_untold", "round_for"]

LINGER = 0.1
"""Seconds after the last sign of life during which a database is looked at although the kernel would tell."""

_FIRST = 0.001
_LIVELY = 2.0
_SLOWEST = 10
_MISSES = 2
_SHORTEST_ROUND, _LONGEST_ROUND = 0.1, 1.0


@dataclass(slots=True)
class Attention:
    """What the pause before the next look rests on.

    Attributes:
        sign_at: when its log was last written as far as we know, monotonic.
        misses: changes in a row that the kernel did not tell.
    """

    sign_at: float = 0.0
    misses: int = 0

    def told(self, now: float) -> None:
        """The kernel told of a write."""
        self.sign_at, self.misses = now, 0

    def missed(self, now: float) -> None:
        """A change was found that the kernel had not told, although it was asked to."""
        self.sign_at = now
        self.misses += 1


def after_look(attention: Attention, now: float, poll: float, *, armed: bool, held: float = 0.0) -> float | None:
    """Seconds until the next look at a database; ``None`` leaves it to the kernel and to the regular round.

    Args:
        poll: seconds between two looks at full rate.
        armed: the kernel is asked to tell the next write.
        held: there is something to capture, and it must wait so long.
    """
    if held > 0.0:
        return held
    since = max(0.0, now - attention.sign_at)
    if not armed or attention.misses >= _MISSES:
        return pause_untold(since, poll)
    if since >= LINGER:
        return None
    return min(poll, max(_FIRST, since / 2))


def pause_untold(since: float, poll: float) -> float:
    """The pause without any help of the kernel: short while commits come, longer when nothing happens."""
    return poll * min(float(_SLOWEST), 1.0 + max(0.0, since - _LIVELY))


def round_for(intervals: Iterable[float]) -> float:
    """Seconds between two rounds, given intervals that may not be exceeded: at most one second, and no flood."""
    return min(_LONGEST_ROUND, max(_SHORTEST_ROUND, min(intervals, default=_LONGEST_ROUND)))
