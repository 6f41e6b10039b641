"""How finely the past can be reached, by age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from vfsstream.plan.files import FileInfo

__all__ = ["Age", "granularity"]

_BOUNDS = (
    timedelta(0),
    timedelta(minutes=5),
    timedelta(hours=1),
    timedelta(days=1),
    timedelta(days=7),
    timedelta(days=30),
)


@dataclass(frozen=True, slots=True)
class Age:
    """The restorable moments of one span of the past.

    Attributes:
        youngest: lower bound of the age.
        oldest: upper bound, or ``None`` for everything older.
        count: restorable moments in it.
        typical_gap: median time between neighbours, or ``None`` with fewer than two.
        largest_gap: longest time between neighbours, or ``None`` with fewer than two.
    """

    youngest: timedelta
    oldest: timedelta | None
    count: int
    typical_gap: timedelta | None
    largest_gap: timedelta | None


def granularity(points: Sequence[FileInfo], now: datetime) -> list[Age]:
    """One row for each span of age that holds a restorable moment, youngest first.

    Args:
        points: restorable moments, as :func:`~vfsstream.plan.points.restorable` gives them.
        now: aware time from which ages count; moments after it count as new.
    """
    times = sorted(point.created_at for point in points if point.created_at is not None)
    rows = []
    for youngest, oldest in zip(_BOUNDS, (*_BOUNDS[1:], None), strict=True):
        inside = [t for t in times if _within(now - t, youngest, oldest)]
        if inside:
            spans = [later - earlier for earlier, later in pairwise(inside)]
            rows.append(Age(youngest, oldest, len(inside), _typical(spans), max(spans, default=None)))
    return rows


def _typical(spans: Sequence[timedelta]) -> timedelta | None:
    return timedelta(seconds=median(span.total_seconds() for span in spans)) if spans else None


def _within(age: timedelta, youngest: timedelta, oldest: timedelta | None) -> bool:
    return max(age, timedelta(0)) >= youngest and (oldest is None or age < oldest)
