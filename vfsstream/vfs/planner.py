"""What to fetch together with a page that is not here. Pure: joins read-ahead, b-tree order and escalation.

A planner is fed every miss, every first use of a page fetched ahead and every page that is decoded, and can
therefore be replayed from a recorded trace.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from vfsstream.vfs.btree import BtreePlanner
from vfsstream.vfs.readahead import ReadAhead
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fetch.

    Attributes:
        pages: page numbers, soonest needed first.
        established: worth requests of their own; else only what comes with the first page's request.
        scattered: the miss was in no known order.
        covered: leaves of a run in b-tree order so far.
    """

    pages: Sequence[int]
    established: bool = False
    scattered: bool = False
    covered: int = 0


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
        self.btree = BtreePlanner(commit) if "btree" in self.parts else None
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
                pages = (pgno, *found.pages)
                return Plan(pages, found.established, not found.established, found.covered)
        known = self.ahead.expects(pgno)
        run = self.ahead.miss(pgno)
        return Plan(range(run.first, run.first + run.count), known, not known)

    def guessed(self, pages: Sequence[int], *, count: bool) -> None:
        """These pages are fetched although no order was seen.

        Args:
            count: the read-ahead has not counted them itself.
        """
        if count:
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
                return Plan(found.pages, established=True, covered=found.covered)
        run = self.ahead.use(pgno)
        return Plan(range(run.first, run.first + run.count), established=True) if run else None
