"""Sequential read-ahead as a pure planner: page numbers in, runs of page numbers to fetch out.

It is fed two events, a miss and the first use of a page that was fetched ahead, and answers with a
:class:`Run`. Reads that follow one another double the window up to a limit; reads at random shrink the
first window to the page itself, so that a point lookup costs neither a request nor bytes more than it must.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

__all__ = ["Adaptive", "ReadAhead", "Run"]

NEAR = 8
"""A miss so many pages past the expected one still belongs to the run."""
HEADS = 32
"""Runs remembered at once; the one not touched for longest is forgotten."""


@dataclass(frozen=True, slots=True)
class Run:
    """Pages ``first … first + count - 1``, and the page whose first use asks for the next run (0 = none)."""

    first: int
    count: int
    marker: int = 0


class Adaptive:
    """The size of a first window, learnt from how much of the earlier ones was used.

    Args:
        limit: pages of the first window while nothing is known, and the most it ever is.
    """

    SAMPLE = 32

    def __init__(self, limit: int) -> None:
        self.limit = max(1, limit)
        self.pages = self.limit
        self._guessed = self._used = 0

    def guessed(self, pages: int) -> None:
        """So many pages were fetched that nobody had asked for."""
        self._guessed += pages
        if self._guessed < self.SAMPLE:
            return
        if self._used * 8 < self._guessed:
            self.pages = max(1, self.pages // 2)
        elif self._used * 2 >= self._guessed:
            self.pages = min(self.limit, self.pages * 2)
        self._guessed = self._used = 0

    def used(self) -> None:
        """One of them was asked for after all."""
        self._used += 1

    def succeeded(self) -> None:
        """A run was established although the first window was small: trust a little more."""
        self.pages = min(self.limit, self.pages * 2)


class ReadAhead:
    """The planner.

    Args:
        first: pages of a first window.
        most: pages of the largest window; may be changed at any time.
    """

    def __init__(self, first: int, most: int) -> None:
        self.first = Adaptive(first)
        self.most = max(1, most)
        self._expected: OrderedDict[int, int] = OrderedDict()
        self._markers: dict[int, int] = {}

    def miss(self, pgno: int) -> Run:
        """A page was asked for and is not here: the run to fetch, which begins with it."""
        window = self._follow(pgno)
        if window is None:
            count = self.first.pages
            self.first.guessed(count - 1)
            self._expect(pgno + count, count)
            return Run(pgno, count)
        if window <= 2:
            self.first.succeeded()
        count = min(self.most, max(2, window * 2))
        self._expect(pgno + count, count)
        return Run(pgno, count, self._mark(pgno, count))

    def use(self, pgno: int) -> Run | None:
        """A page fetched ahead is used for the first time: the next run, if this was its marker."""
        following = self._markers.pop(pgno, None)
        if following is None:
            return None
        window = self._expected.pop(following, None)
        if window is None:
            return None
        count = min(self.most, window * 2)
        self._expect(following + count, count)
        return Run(following, count, self._mark(following, count))

    def adopt(self, pgno: int, count: int) -> Run:
        """Others saw that pages are read in their order from ``pgno`` on, ``count`` at a time: go on with them."""
        count = max(1, min(self.most, count))
        self._expect(pgno + count, count)
        return Run(pgno, count, self._mark(pgno, count))

    def expects(self, pgno: int) -> bool:
        """Would a miss of this page continue a run?"""
        return any(pgno - back in self._expected for back in range(NEAR + 1))

    def _follow(self, pgno: int) -> int | None:
        for back in range(NEAR + 1):
            window = self._expected.pop(pgno - back, None)
            if window is not None:
                return window
        return None

    def _expect(self, pgno: int, window: int) -> None:
        self._expected[pgno] = window
        while len(self._expected) > HEADS:
            self._expected.popitem(last=False)

    def _mark(self, first: int, count: int) -> int:
        marker = first + count // 2
        if len(self._markers) >= 4 * HEADS:
            self._markers.clear()
        self._markers[marker] = first + count
        return marker
