"""What to fetch together with a page that is not here. Pure: joins read-ahead, b-tree order and escalation.

A planner is fed every miss, every first use of a page fetched ahead and every page that is decoded, and can
therefore be replayed from a recorded trace.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from vfsstream.vfs.btree import FIRST, BtreePlanner
from vfsstream.vfs.leads import Siblings
from vfsstream.vfs.readahead import ReadAhead, Run
from vfsstream.vfs.sqlitepage import INDEX_INTERIOR, TABLE_INTERIOR

__all__ = ["MODES", "Plan", "Planner"]

MODES = {
    "off": frozenset[str](),
    "seq": frozenset({"seq"}),
    "btree": frozenset({"seq", "btree"}),
    "bulk": frozenset({"seq", "bulk"}),
    "auto": frozenset({"seq", "btree", "bulk"}),
}
"""What each value of ``prefetch=`` switches on."""

FIRST_WINDOW = 64 << 10
REMEMBERED = 4096
STRAIGHT = 8
"""Leaves in a row from which on their page numbers tell whether key order is page order."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fetch.

    Attributes:
        pages: page numbers, soonest needed first.
        established: worth requests of their own; else only what comes with the first page's request.
        scattered: the miss was in no known order.
        covered: leaves of a run in b-tree order so far.
        windows: how many windows it may fill.
    """

    pages: Sequence[int]
    established: bool = False
    scattered: bool = False
    covered: int = 0
    windows: int = 1


class Planner:
    """The planner of one replica.

    Args:
        mode: a key of :data:`MODES`.
        commit: pages of the database.
        frame_size: average bytes of a stored page.
        window: bytes of the largest window.
    """

    def __init__(self, mode: str, commit: int, frame_size: int, window: int) -> None:
        self.parts = MODES[mode]
        self._frame_size = max(1, frame_size)
        self.ahead = ReadAhead(FIRST_WINDOW // self._frame_size, window // self._frame_size)
        first = max(2, min(FIRST, FIRST_WINDOW // self._frame_size))
        self.btree = BtreePlanner(commit, first=first) if "btree" in self.parts else None
        self._guesses: OrderedDict[int, None] = OrderedDict()
        self.window(window)

    def window(self, size: int) -> None:
        """The largest window is now so many bytes."""
        self.ahead.most = max(1, size // self._frame_size)
        if self.btree is not None:
            self.btree.most = max(8, min(4096, size // self._frame_size))

    def grow(self, commit: int) -> None:
        """The database has so many pages now."""
        if self.btree is not None:
            self.btree.grow(commit)

    def page(self, pgno: int, page: bytes) -> bool:
        """A page was decoded; ``True`` when it is an interior page, worth keeping."""
        if self.btree is not None:
            return self.btree.page(pgno, page) in (INDEX_INTERIOR, TABLE_INTERIOR)
        return pgno == 1

    def miss(self, pgno: int) -> Plan:
        """A page is not here."""
        if not self.parts:
            return Plan((pgno,))
        if self.btree is not None:
            found = self.btree.miss(pgno, self.ahead.first.pages - 1)
            if found is not None:
                run = self._in_page_order(found)
                if run is not None:
                    return Plan((pgno, *range(run.first, run.first + run.count)), established=True)
                self.btree.want(found.uncles)
                pages = (pgno, *found.pages)
                return Plan(pages, found.established, not found.established, found.covered, 1 + found.whole)
        known = self.ahead.expects(pgno)
        run = self.ahead.miss(pgno)
        return Plan(range(run.first, run.first + run.count), known, not known)

    def _in_page_order(self, found: Siblings) -> Run | None:
        """A run in b-tree order that is one in the order of page numbers, too, needs no interior pages to go on."""
        pages = found.pages
        if self.btree is None or not found.established or found.whole or len(pages) < STRAIGHT:
            return None
        known = pages[: len(pages) * 7 // 8]  # the last one may be the next parent, somewhere else
        steps = sum(0 < after - before <= 2 for before, after in pairwise(known))
        if steps < len(known) - 1 - len(known) // 8 or known[-1] <= known[0]:
            return None
        self.btree.forget(found.marker)
        return self.ahead.adopt(pages[0], max(len(pages), found.wanted))

    def levels(self, page_size: int) -> Sequence[int]:
        """Interior pages to fetch in the background, whatever else is read."""
        return self.btree.take_levels(page_size) if self.btree is not None else ()

    def guessed(self, pgno: int, pages: Sequence[int]) -> None:
        """These pages are fetched with ``pgno`` although no order was seen."""
        if self.btree is not None and self.btree.knows(pgno):  # else the read-ahead has counted them itself
            self.ahead.first.guessed(len(pages))
        self._guesses.update(dict.fromkeys(pages))
        while len(self._guesses) > REMEMBERED:
            self._guesses.popitem(last=False)

    def use(self, pgno: int) -> Plan | None:
        """A page fetched ahead is used for the first time: what to fetch now, if anything."""
        if self._guesses.pop(pgno, 0) is None:
            self.ahead.first.used()
        if self.btree is not None:
            found = self.btree.use(pgno)
            if found is not None and found.pages:
                run = self._in_page_order(found)
                if run is not None:
                    return Plan(range(run.first, run.first + run.count), established=True)
                self.btree.want(found.uncles)
                return Plan(found.pages, True, covered=found.covered, windows=1 + found.whole)
        run = self.ahead.use(pgno)
        return Plan(range(run.first, run.first + run.count), established=True) if run else None
