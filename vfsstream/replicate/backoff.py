"""Pauses after errors, and the pace of files under constant writing. Pure: the time is an argument."""

from __future__ import annotations

__all__ = ["Backoff", "Pace"]


class Backoff:
    """Doubling pauses after errors in a row.

    Args:
        first: seconds after the first error.
        longest: seconds.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, max(first, longest)
        self.failures = 0
        self._until = 0.0

    def failed(self, now: float) -> None:
        """Another error at monotonic time ``now``."""
        pause = min(self._longest, self._first * 2.0 ** min(self.failures, 40))
        self.failures += 1
        self._until = now + pause

    def succeeded(self) -> int:
        """Start over; returns the number of errors that came before."""
        failures, self.failures, self._until = self.failures, 0, 0.0
        return failures

    def ready(self, now: float) -> bool:
        """Whether the pause is over."""
        return now >= self._until

    def wait(self, now: float) -> float:
        """Seconds until the pause is over."""
        return max(0.0, self._until - now)


class Pace:
    """Lets a burst through at once and holds constant traffic to an average.

    Args:
        interval: average seconds between two.
        burst: how many may come at once after a quiet time.
    """

    def __init__(self, interval: float, burst: int) -> None:
        self._interval, self._burst = interval, burst
        self._tokens, self._at = float(burst), 0.0

    def _refill(self, now: float) -> None:
        self._tokens = min(float(self._burst), self._tokens + max(0.0, now - self._at) / self._interval)
        self._at = now

    def ready(self, now: float) -> bool:
        """Whether one may come now."""
        self._refill(now)
        return self._tokens >= 1.0 - 1e-6  # what :meth:`wait` said may fall short by a rounding

    def wait(self, now: float) -> float:
        """Seconds until one may come."""
        self._refill(now)
        return max(0.0, (1.0 - self._tokens) * self._interval)

    def take(self, now: float) -> None:
        """One came."""
        self._refill(now)
        self._tokens = max(0.0, self._tokens - 1.0)
