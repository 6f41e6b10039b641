"""Read-ahead in b-tree order as a pure planner.

Interior pages are taken apart when they pass by; from then on the next leaves of a scan are known, not guessed,
wherever in the file they lie. Two neighbouring leaves read one after the other start a run, which grows fourfold
up to a limit and crosses from parent to parent. Leaves of an index lead to
the leaves of its table in the same way.

A whole level of interior pages is asked for only when lookups have paid enough for it: a program that reads one
range, or everything, never needs it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass

from vfsstream.vfs.sqlitepage import (
    INDEX_INTERIOR,
    INDEX_LEAF,
    TABLE_INTERIOR,
    TABLE_LEAF,
    children,
    index_rowids,
    kind,
    overflow_heads,
    separators,
    usable_size,
)

__all__ = ["BtreePlanner", "Siblings"]

FIRST, GROWTH = 8, 4
SKIP = 4
"""Leaves a scan may jump over (they were in a cache that does not tell us) and still be the same run."""
RUNS = 32
DEPTH = 20
SHARE = 16
"""A level of interior pages is fetched when one in so many of them had to be waited for."""
MOST_LEVEL = 8 << 20
"""Bytes of interior pages fetched unasked; beyond it they come when they are needed."""


@dataclass(frozen=True, slots=True)
class Siblings:
    """Pages to fetch, in the order in which they will be read.

    Attributes:
        pages: what comes next; empty when nothing is known.
        established: the order was seen, not supposed: worth requests of their own.
        covered: leaves that this run has asked for so far.
        wanted: leaves that the run would ask for if all of them were known.
        marker: the page whose first use continues the run; 0 = none.
        uncles: the parents of what the run will want after that.
    """

    pages: tuple[int, ...]
    established: bool
    covered: int = 0
    wanted: int = 0
    marker: int = 0
    uncles: tuple[int, ...] = ()


@dataclass(slots=True)
class _Run:
    step: int
    count: int
    covered: int


class BtreePlanner:
    """The planner: fed with pages, misses and first uses.

    Args:
        commit: pages of the database; grows by itself.
        most: leaves of the largest step of a run.
    """

    def __init__(self, commit: int, most: int = 4096) -> None:
        self.most = most
        self.usable = 0
        self._commit = commit
        self._parent = array("I", bytes(4 * (commit + 1)))
        self._interior: dict[int, array[int]] = {}
        self._keys: dict[int, array[int]] = {}
        self._tables: set[int] = set()
        self._expected: OrderedDict[int, _Run] = OrderedDict()
        self._markers: dict[int, tuple[int, _Run]] = {}
        self._pending: dict[int, _Run] = {}
        self._leads = _Leads()
        self._paid: dict[int, tuple[set[int], int]] = {}
        self._levels: list[int] = []
        self._unasked = 0

    @property
    def interior(self) -> list[int]:
        """The interior pages known so far."""
        return list(self._interior)

    def grow(self, commit: int) -> None:
        """The database has so many pages now."""
        if commit > self._commit:
            self._parent.frombytes(bytes(4 * (commit - self._commit)))
            self._commit = commit

    def page(self, pgno: int, page: bytes | memoryview) -> int:
        """A page passes by; returns its kind (0 = not a b-tree page)."""
        if pgno == 1:
            self.usable = usable_size(page)
        found = kind(pgno, page)
        if found in (INDEX_INTERIOR, TABLE_INTERIOR):
            self._learn(pgno, page, found)
        elif found == INDEX_LEAF and self.usable:
            self._leads.index_leaf(pgno, index_rowids(pgno, page, self.usable))
        elif found == TABLE_LEAF and self.usable:
            self._leads.chains(overflow_heads(pgno, page, self.usable))
        return found

    def _learn(self, pgno: int, page: bytes | memoryview, found: int) -> None:
        below = children(pgno, page, self._commit)
        if not below or self._interior.get(pgno) == below:
            return
        self._interior[pgno] = below
        for child in below:
            self._parent[child] = pgno
        self._pay(pgno)
        self._keys.pop(pgno, None)
        self._tables.discard(pgno)
        if found == TABLE_INTERIOR:
            self._tables.add(pgno)
            self._keys[pgno] = separators(pgno, page)
        run = self._pending.pop(pgno, None)
        if run is not None:
            self._expected[below[0 if run.step > 0 else -1]] = run

    def _pay(self, pgno: int) -> None:
        """An interior page was read: in no order, and often enough, means that its whole level is worth having."""
        place = self._place(pgno)
        if place is None:
            return
        parent, index = place
        level = self._interior[parent]
        seen, paid = self._paid.get(parent, (set[int](), 0))
        if seen.isdisjoint((index - 1, index + 1)):
            paid += 1
            if paid == max(2, len(level) // SHARE):
                self.want(level)
        seen.add(index)
        self._paid[parent] = seen, paid

    def want(self, pages: Iterable[int]) -> None:
        """These interior pages are worth having."""
        self._levels.extend(page for page in pages if page not in self._interior)

    def take_levels(self, page_size: int) -> tuple[int, ...]:
        """Interior pages worth fetching now that nobody asked for; each is named once."""
        room = max(0, MOST_LEVEL // page_size - self._unasked)
        pages, self._levels = tuple(self._levels[:room]), []
        self._unasked += len(pages)
        return pages

    def forget(self, marker: int) -> None:
        """Another takes over the run that goes on at this page."""
        self._markers.pop(marker, None)

    def knows(self, pgno: int) -> bool:
        """Is the parent of this page known?"""
        return 0 < pgno <= self._commit and bool(self._place(pgno))

    def _place(self, pgno: int) -> tuple[int, int] | None:
        parent = self._parent[pgno] if pgno <= self._commit else 0
        siblings = self._interior.get(parent) if parent else None
        if siblings is None:
            return None
        try:
            return parent, siblings.index(pgno)
        except ValueError:
            return None

    def next_pages(self, pgno: int, step: int = 1) -> Iterator[int]:
        """The pages after this one on its level, in key order, ending with the first unknown parent."""
        for _ in range(self._commit):
            place = self._place(pgno)
            if place is None:
                return
            parent, index = place
            siblings = self._interior[parent]
            index += step
            if not 0 <= index < len(siblings):
                following = next(self.next_pages(parent, step), None) if parent != pgno else None
                if following is None:
                    return
                siblings = self._interior.get(following, array("I"))
                if not siblings:
                    yield following
                    return
                index = 0 if step > 0 else len(siblings) - 1
            pgno = siblings[index]
            yield pgno

    def miss(self, pgno: int, guess: int) -> Siblings | None:
        """A page was asked for and is not here; ``None`` when its tree is not known.

        Args:
            guess: how many siblings to name when no run is established yet.
        """
        lead = self._leads.follow(pgno, self._leaf_of, self.most)
        if lead is not None:
            return lead
        if not self.knows(pgno):
            return None
        if self._parent[pgno] in self._paid:  # an interior page: leaves are read in order, their parents looked up
            return Siblings((), established=False)
        run = self._expected.pop(pgno, None)
        if run is None:
            self._expect(pgno, _Run(1, max(1, guess), 1))
            self._expect(pgno, _Run(-1, 1, 1), only=-1)
            return Siblings(tuple(_take(self.next_pages(pgno), guess)), established=False)
        return self._advance(pgno, run)

    def came_along(self, pgno: int, pages: Container[int]) -> None:
        """These pages were fetched with ``pgno`` on supposition: a run would show itself by a miss after them."""
        end, count = pgno, 0
        for page in self.next_pages(pgno):
            if page not in pages:
                break
            end, count = page, count + 1
        if count:
            self._expect(end, _Run(1, count, 1 + count))

    def use(self, pgno: int) -> Siblings | None:
        """A page fetched ahead is used for the first time: what to fetch next, if it was a marker."""
        marked = self._markers.pop(pgno, None)
        if marked is None:
            return None
        end, run = marked
        if not any(self._expected.pop(page, None) for page in _take(self.next_pages(end, run.step), SKIP)):
            return None
        return self._advance(end, run)

    def _advance(self, pgno: int, run: _Run) -> Siblings:
        count = min(self.most, max(FIRST, run.count * GROWTH))
        pages = tuple(_take(self.next_pages(pgno, run.step), count))
        following = _Run(run.step, count, run.covered + len(pages))
        end, marker = pages[-1] if pages else pgno, 0
        uncles: tuple[int, ...] = ()
        self._expect(end, following, only=run.step)
        if pages and self._is_uncle(end, pgno):
            self._pending[end] = following
            fanout = len(self._interior[self._parent[pgno]])
            uncles = tuple(_take(self.next_pages(end, run.step), count // fanout + 1))
        elif len(pages) > 1:
            marker = pages[len(pages) // 2]
            self._mark(marker, end, following)
        return Siblings(pages, True, following.covered, count, marker, uncles)

    def _is_uncle(self, page: int, pgno: int) -> bool:
        """Is ``page`` a parent of leaves not known yet, at which the walk from ``pgno`` ended?"""
        return self._parent[page] == self._parent[self._parent[pgno]] != 0

    def _mark(self, marker: int, end: int, run: _Run) -> None:
        if len(self._markers) >= 4 * RUNS:
            self._markers.clear()
        self._markers[marker] = (end, run)

    def _expect(self, end: int, run: _Run, only: int = 0) -> None:
        """The run goes on at one of the next few pages after ``end``."""
        for page in _take(self.next_pages(end, only or 1), SKIP if only else 1):
            self._expected[page] = run
        if not only:
            for page in _take(self.next_pages(end, -1), 1):
                self._expected[page] = _Run(-1, 1, run.covered)
        while len(self._expected) > 2 * RUNS:
            self._expected.popitem(last=False)

    def _leaf_of(self, rowid: int, near: int) -> int:
        """The leaf that holds a rowid, in the table that ``near`` is a leaf of; 0 when not known."""
        at, root = near, 0
        for _ in range(DEPTH):
            parent = self._parent[at] if at <= self._commit else 0
            if not parent or parent not in self._tables or parent == at:
                break
            at = root = parent
        for _ in range(DEPTH):
            keys = self._keys.get(at)
            if keys is None:
                return at if root else 0
            at = self._interior[at][bisect_left(keys, rowid)]
        return 0


class _Leads:
    """What the leaves read last point to: rowids of an index, heads of overflow chains."""

    LEAVES = 4
    PATIENCE = 32
    """Misses elsewhere after which a leaf of an index is taken to lead nowhere."""

    def __init__(self) -> None:
        self._vain: dict[int, int] = {}
        self._rowids: OrderedDict[int, list[int]] = OrderedDict()
        self._heads: dict[int, list[int]] = {}
        self._position: dict[int, tuple[int, int]] = {}

    def index_leaf(self, pgno: int, rowids: list[int]) -> None:
        if rowids:
            self._rowids[pgno] = rowids
            self._rowids.move_to_end(pgno)
            self._vain[pgno] = 0
            while len(self._rowids) > self.LEAVES:
                self._drop(next(iter(self._rowids)))

    def _drop(self, leaf: int) -> None:
        del self._rowids[leaf], self._vain[leaf]
        self._position.pop(leaf, None)

    def chains(self, heads: list[int]) -> None:
        if len(heads) > 1:
            if len(self._heads) > 256:
                self._heads.clear()
            for position, head in enumerate(heads[:-1]):
                self._heads[head] = heads[position + 1 :]

    def follow(self, pgno: int, leaf_of: Callable[[int, int], int], most: int) -> Siblings | None:
        """The pages that come after ``pgno`` when it was reached through one of the leads."""
        chains = self._heads.pop(pgno, None)
        if chains:
            return Siblings(tuple(chains[: self.LEAVES]), established=False)
        for leaf, rowids in reversed(list(self._rowids.items())):
            found = self._along(pgno, leaf, rowids, leaf_of, most)
            if found is not None:
                self._vain[leaf] = 0
                return found
            self._vain[leaf] += 1
            if self._vain[leaf] > self.PATIENCE:
                self._drop(leaf)
        return None

    def _along(
        self, pgno: int, leaf: int, rowids: list[int], leaf_of: Callable[[int, int], int], most: int
    ) -> Siblings | None:
        start, streak = self._position.get(leaf, (0, 0))
        span = rowids[start:] if streak == 0 else rowids[start : start + 4 * FIRST]
        position = next((at for at, rowid in enumerate(span, start) if leaf_of(rowid, pgno) == pgno), -1)
        if position < 0:
            return None
        self._position[leaf] = (position + 1, streak + 1)
        if streak == 0:
            return None
        count = min(most, FIRST * GROWTH ** (streak - 1))
        ahead = dict.fromkeys(leaf_of(rowid, pgno) for rowid in rowids[position + 1 : position + 1 + count])
        ahead.pop(0, None)
        ahead.pop(pgno, None)
        self._position[leaf] = (min(len(rowids), position + 1 + count), streak + 1)
        return Siblings(tuple(ahead), established=True) if ahead else None


def _take(pages: Iterator[int], count: int) -> Iterator[int]:
    for _ in range(count):
        found = next(pages, None)
        if found is None:
            return
        yield found
