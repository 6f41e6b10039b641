"""Clock arithmetic of the scheduler: pure functions of times given to them.

Runs are aligned to multiples of their interval counted from the first moment of year 1, as Litestream counts: 30 s
fall on :00 and :30, 24 h on midnight UTC. The wall clock only says where in its interval we are; how long to wait
is measured on the monotonic clock, so a wall clock that jumps shifts a run by one interval at most and never stops
it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vfsstream.plan.files import FileInfo

__all__ = ["EPOCH", "TrustedClock", "previous_run", "seconds_to_next_run", "spread", "too_early"]

EPOCH = datetime(1, 1, 1, tzinfo=UTC)


def previous_run(now: datetime, interval: timedelta) -> datetime:
    """``now`` rounded down to a multiple of the interval."""
    return now - (now - EPOCH) % interval


def seconds_to_next_run(now: datetime, interval: timedelta, shift: float = 0.0) -> float:
    """Seconds until the next run, more than 0 and at most one interval.

    Args:
        shift: seconds by which this one's runs come after the aligned time; see :func:`spread`.
    """
    shifted = now - timedelta(seconds=shift)
    return (previous_run(shifted, interval) + interval - shifted) / timedelta(seconds=1)


def spread(name: str, interval: timedelta, limit: timedelta = timedelta(seconds=5)) -> float:
    """A shift in seconds that differs from name to name, the same in every run of the program.

    A thousand databases that all compact at midnight would ask for everything at once. At most a tenth of the
    interval, at most ``limit``.
    """
    room = min(interval / 10, limit) / timedelta(seconds=1)
    return room * (zlib.crc32(name.encode()) / 0xFFFFFFFF)


def too_early(newest: FileInfo | None, now: datetime, interval: timedelta) -> bool:
    """Has this level been written since the last aligned time, so that a program just started need not again?

    A time ahead of the clock proves that one of the two clocks was wrong, and nothing else: it does not count.
    """
    if newest is None or newest.created_at is None:
        return False
    return previous_run(now, interval) < newest.created_at <= now


@dataclass
class TrustedClock:
    """The wall clock for deciding ages: a sudden step forward must not make everything look old.

    Steps back are believed at once, because they only delete later. A step forward is believed when it has
    lasted for ``patience``; until then time goes on from before it at the pace of the monotonic clock.

    Args:
        wall: the wall clock now.
        monotonic: the monotonic clock now, seconds.
    """

    wall: datetime
    monotonic: float
    tolerance: timedelta = timedelta(seconds=30)
    patience: timedelta = timedelta(hours=1)
    _stepped_at: float | None = None

    def now(self, wall: datetime, monotonic: float) -> datetime:
        """The time to judge ages by, given both clocks."""
        expected = self.wall + timedelta(seconds=monotonic - self.monotonic)
        if wall - expected <= self.tolerance:
            self.wall, self.monotonic, self._stepped_at = wall, monotonic, None
            return wall
        if self._stepped_at is None:
            self._stepped_at = monotonic
        if monotonic - self._stepped_at >= self.patience / timedelta(seconds=1):
            self.wall, self.monotonic, self._stepped_at = wall, monotonic, None
            return wall
        return expected
