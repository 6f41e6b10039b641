"""When is streaming the whole database cheaper than asking for its pages one by one? Pure arithmetic.

The rule is that of hiring skis: as long as little has been paid in round trips, go on; once scattered requests
have cost what the whole stream would cost, expect them to go on and stream.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["Escalation", "Link"]


@dataclass(slots=True)
class Link:
    """What the network does, measured: exponentially weighted, from the first values on.

    Attributes:
        latency: seconds until the first byte of a small answer.
        throughput: bytes per second of all answers together.
    """

    latency: float = 0.02
    throughput: float = 100e6
    measured: bool = False

    def small(self, seconds: float) -> None:
        """A small request took so long."""
        self.latency = (
            seconds if not self.measured else min(self.latency * 1.1, 0.8 * self.latency + 0.2 * seconds)
        )
        self.measured = True

    def large(self, size: int, seconds: float) -> None:
        """So many bytes came in so many seconds, all requests together."""
        moving = max(seconds - self.latency, seconds / 8, 1e-6)
        self.throughput = 0.7 * self.throughput + 0.3 * min(10e9, size / moving)

    def window(self) -> int:
        """Bytes to have under way so that the link is never idle: twice what fits into one round trip."""
        return int(min(8 << 20, max(1 << 20, 2 * self.latency * self.throughput)))


class Escalation:
    """Counts scattered misses and decides.

    Args:
        least: misses before anything is decided.
        period: seconds that a miss counts, at least.
        requests: requests that may run at once.
    """

    def __init__(self, least: int = 48, period: float = 5.0, requests: int = 16) -> None:
        self.least, self.period, self.requests = least, period, requests
        self._misses: deque[float] = deque(maxlen=100_000)

    def scattered(self, now: float, link: Link, total: int) -> bool:
        """A miss out of any order; ``True`` when the rest should be streamed.

        Args:
            total: bytes of all files of the plan.
        """
        stream = total / link.throughput
        self._misses.append(now)
        oldest = now - max(self.period, 2 * stream)
        while self._misses and self._misses[0] < oldest:
            self._misses.popleft()
        paid = len(self._misses)
        return paid >= self.least and paid * link.latency > 2 * stream

    def in_order(self, covered: int, ranges: int, link: Link, total: int) -> bool:
        """A run in b-tree order needs ``ranges`` more requests after ``covered`` leaves; stream instead?

        A run that has come so far is expected to go as far again; per request about a millisecond of our own
        time is spent beside its share of the waiting.
        """
        if ranges < self.least:
            return False
        again = max(ranges, covered)
        pieces = again * (link.latency / self.requests + 0.001)
        return pieces > total / link.throughput

    def reset(self) -> None:
        """A new reading begins."""
        self._misses.clear()
