"""When is streaming the whole database cheaper than asking for its pages one by one? Pure arithmetic.

The rule is that of hiring skis: as long as little has been paid in round trips, go on; once scattered requests
have cost what the whole stream would cost, expect them to go on and stream.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["Escalation", "Link"]


OWN_TIME = 0.0012
"""Seconds of our own time that a request costs, in which others wait for theirs."""


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
        return int(min(8 << 20, max(2 << 20, 2 * self.latency * self.throughput)))


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
        self._pieces = 0

    def asked(self, pieces: int) -> None:
        """So many small requests were made beside the misses themselves."""
        self._pieces += pieces

    def _paid(self, link: Link) -> float:
        return len(self._misses) * link.latency + self._pieces * self._piece(link)

    def _piece(self, link: Link) -> float:
        """Seconds that one of many small requests at once costs."""
        return max(OWN_TIME, link.latency / self.requests)

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
        return len(self._misses) + self._pieces >= self.least and self._paid(link) > 2 * stream

    def in_order(self, covered: int, pages: int, ranges: int, size: int, link: Link, total: int) -> bool:
        """A run in b-tree order that has come ``covered`` leaves far wants more; stream instead?

        A run that has come so far is expected to go as far again, at the same price.

        Args:
            pages: wanted now.
            ranges: requests that it takes.
            size: bytes of these.
            total: bytes of all files of the plan.
        """
        stream = total / link.throughput
        if self._pieces + ranges < self.least:
            return False
        price = ranges * self._piece(link) + size / link.throughput
        if self._paid(link) + price > 2 * stream:
            return True
        return (
            covered > 0 and self._pieces * self._piece(link) + price * max(1.0, covered / max(1, pages)) > stream
        )

    def reset(self) -> None:
        """A new reading begins."""
        if self._misses or self._pieces:
            self._misses.clear()
            self._pieces = 0
