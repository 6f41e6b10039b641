"""Whether a replica still holds what was put there: when to look, and at what. Pure: times are arguments.

Nobody tells us that objects were deleted by somebody else, by a lifecycle rule or by an accident. So a database that
changes has its replica listed now and then, the level that grows often and everything else less often; one that does
not change is looked after once a day, which is no traffic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["Audit"]

_ALL = 10


@dataclass(slots=True)
class Audit:
    """The looks at one replica.

    Attributes:
        interval: between two looks while the database changes; zero: none.
        idle: between two looks while it does not; zero: none.
        last: when the last one was made, monotonic seconds.
        looks: how many were made.
        hurried: there is reason to look at everything now.
    """

    interval: timedelta
    idle: timedelta
    last: float
    looks: int = 0
    hurried: bool = False

    def due(self, *, changed: bool) -> float:
        """When to look next; infinite for never.

        Args:
            changed: something was written since the last look.
        """
        if self.hurried:
            return -math.inf
        waits = [gap.total_seconds() for gap in ((self.interval,) if changed else ()) + (self.idle,) if gap]
        return self.last + min(waits, default=math.inf)

    def levels(self, used: Iterable[int], *, changed: bool) -> list[int]:
        """What to list: level 0, and at every tenth look, or when nothing changes, all that are in use."""
        if changed and not self.hurried and (self.looks + 1) % _ALL:
            return [0]
        return sorted({0, *used})

    def made(self, now: float) -> None:
        """A look was made."""
        self.last, self.looks, self.hurried = now, self.looks + 1, False
