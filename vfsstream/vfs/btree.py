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
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vfsstream.vfs.leads import Chains, Leads, Siblings, Span
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
SHARE_SEEN = 128
"""Of so many pages one is remembered as read last: among few pages, neighbours meet by chance."""
RUNS = 32
WHOLE, DENSE = 256, 4
"""A run of so many leaves takes the whole stretch of the file that its tree lies in when the stretch has at most
``DENSE`` times the pages that the run is expected to want."""
DEPTH = 20
SURE = 640
"""The children of an interior page, n of them, are fetched when n²/SURE of them had to be waited for: a few at once
when they are few, a larger level only for those who come back often."""
MOST_LEVEL = 8 << 20
"""Bytes of interior pages fetched unasked; beyond it they come when they are needed."""


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
        first: leaves of the first one.
    """

    def __init__(self, commit: int, most: int = 4096, first: int = FIRST) -> None:
        self.most, self.first = most, first
        self.usable = 0
        self._commit = commit
        self._parent = array("I", bytes(4 * (commit + 1)))
        self._interior: dict[int, array[int]] = {}
        self._keys: dict[int, array[int]] = {}
        self._between: dict[int, array[int]] = {}
        self._tables: set[int] = set()
        self._expected: OrderedDict[int, _Run] = OrderedDict()
        self._markers: dict[int, tuple[int, _Run]] = {}
        self._pending: dict[int, _Run] = {}
        self._leads, self._chains = Leads(self, first), Chains()
        self._seen: dict[int, deque[int]] = {}
        self._height: dict[int, int] = {}
        self._extent: dict[int, tuple[int, int]] = {}
        self._taken: set[int] = set()
        self._paid: dict[int, tuple[set[int], int]] = {}
        self._levels: list[int] = []
        self._named: set[int] = set()
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
        elif found in (INDEX_LEAF, TABLE_LEAF):
            if pgno in self._interior:  # it was one before
                self._forget(pgno)
            self._remember(pgno)
            if self.usable:
                self._chains.leaf(overflow_heads(pgno, page, self.usable))
                if found == INDEX_LEAF and (rowids := index_rowids(pgno, page, self.usable)):
                    self._leads.index_leaf(pgno, [*rowids, *self._entry_after(pgno)])
        return found

    def _entry_after(self, pgno: int) -> list[int]:
        """The rowid of the entry between a leaf of an index and the next one; it lies in an interior page."""
        while (place := self._place(pgno)) is not None:
            pgno, index = place
            if index < len(self._interior[pgno]) - 1:
                return list(self._between.get(pgno, ())[index : index + 1])
        return []

    def _forget(self, pgno: int) -> None:
        for known in (self._interior, self._keys, self._between, self._height):
            known.pop(pgno, None)
        self._tables.discard(pgno)

    def _remember(self, pgno: int) -> None:
        """A leaf was read."""
        root, depth = self._climb(pgno)
        if not depth:
            return
        if depth <= self._height[root]:
            self._height[root] = depth - 1
        seen = self._seen.get(root)
        if seen is None:
            seen = self._seen[root] = deque(maxlen=2 * max(4, min(16, self._commit // SHARE_SEEN)))
        if not seen or seen[-1] != pgno:
            seen.append(pgno)

    def _climb(self, pgno: int) -> tuple[int, int]:
        """The root of a page's tree, as far as it is known, and the number of levels between."""
        for depth in range(DEPTH):
            parent = self._parent[pgno] if pgno <= self._commit else 0
            if not parent or parent == pgno or parent not in self._interior:
                return pgno, depth
            pgno = parent
        return pgno, 0

    def _learn(self, pgno: int, page: bytes | memoryview, found: int) -> None:
        below = children(pgno, page, self._commit)
        if not below or self._interior.get(pgno) == below:
            return
        self._interior[pgno] = below
        height, low, high = 0, min(below), max(below)
        for child in below:
            self._parent[child] = pgno
            height = max(height, self._height.get(child, -1) + 1)
        self._height[pgno] = max(height, self._height.get(pgno, 0))
        root, depth = self._climb(pgno)
        self._height[root] = max(self._height.get(root, 0), depth + self._height[pgno])
        before = self._extent.get(root, (low, high))
        self._extent[root] = min(low, before[0]), max(high, before[1])
        if pgno not in self._named:
            self._pay(pgno)
        self._keys.pop(pgno, None)
        self._tables.discard(pgno)
        if found == TABLE_INTERIOR:
            self._tables.add(pgno)
            self._keys[pgno] = separators(pgno, page)
        elif self.usable:
            self._between[pgno] = array("q", index_rowids(pgno, page, self.usable))
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
            if paid == max(2, len(level) ** 2 // SURE):
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
        self._named.update(pages)
        return pages

    def forget(self, marker: int) -> None:
        """Another takes over the run that goes on at this page."""
        self._markers.pop(marker, None)
        self._leads.forget(marker)

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
        lead = self._chains.read(pgno) or self._leads.miss(pgno, self._commit, self.most)
        if lead is not None:
            return lead
        if not self.knows(pgno):
            return None
        if not self._is_leaf(pgno):  # leaves are read in order, their parents looked up
            return Siblings((), established=False)
        run = self._expected.pop(pgno, None)
        if run is None or not self._follows(pgno, run.step):
            run = self._begins(pgno)
        self._remember(pgno)
        if run is None:
            return Siblings(tuple(_take(self.next_pages(pgno), guess)), established=False)
        return self._advance(pgno, run)

    def _is_leaf(self, pgno: int) -> bool:
        """Is it below all interior pages of its tree that are known?"""
        root, depth = self._climb(pgno)
        return depth > self._height.get(root, 0)

    def _follows(self, pgno: int, step: int) -> bool:
        """Was one of the pages before this one read just now? Else the reader came here by chance."""
        seen = self._seen.get(self._climb(pgno)[0], ())
        return any(page in seen for page in _take(self.next_pages(pgno, -step), SKIP))

    def _begins(self, pgno: int) -> _Run | None:
        """The run of a page whose neighbour was read before it."""
        seen = self._seen.get(self._climb(pgno)[0])
        if not seen:
            return None
        latest = [page for page in seen if page != pgno][-(seen.maxlen or 0) // 2 :]
        for step in (1, -1):
            count = 0
            for page in self.next_pages(pgno, -step):
                if page not in (seen if count else latest):
                    break
                count += 1
            if count:
                return _Run(step, count, count)
        return None

    def use(self, pgno: int) -> Siblings | None:
        """A page fetched ahead is used for the first time: what to fetch next, if it was a marker."""
        if pgno not in self._interior:
            self._remember(pgno)
        self._chains.read(pgno)
        lead = self._leads.use(pgno, self._commit, self.most)
        if lead is not None:
            return lead
        marked = self._markers.pop(pgno, None)
        if marked is None:
            return None
        end, run = marked
        if not self._follows(pgno, run.step):
            return None
        if not any(self._expected.pop(page, None) for page in _take(self.next_pages(end, run.step), SKIP)):
            return None
        return self._advance(end, run)

    def _advance(self, pgno: int, run: _Run) -> Siblings:
        count = min(self.most, max(self.first, run.count * GROWTH))
        pages = tuple(_take(self.next_pages(pgno, run.step), count + 1))
        if len(pages) > count and self._is_leaf(pages[-1]):
            pages = pages[:count]
        following = _Run(run.step, count, run.covered + len(pages))
        end, marker = pages[-1] if pages else pgno, 0
        whole = self._whole(pgno, run.covered, count)
        uncles: tuple[int, ...] = ()
        self._expect(end, following)
        if pages and not self._is_leaf(end):  # a parent of leaves that are not known yet
            self._pending[end] = following
            fanout = len(self._interior[self._parent[pgno]])
            uncles = tuple(_take(self.next_pages(end, run.step), min(count, following.covered) // fanout + 1))
        elif len(pages) > 1:
            marker = pages[len(pages) // 2]
            self._mark(marker, end, following)
        return Siblings(whole or pages, True, following.covered, count, marker, uncles, whole=bool(whole))

    def _whole(self, pgno: int, covered: int, count: int) -> tuple[int, ...]:
        """Every page between the first and the last one of a tree, once, when a long run will want many of them."""
        root, _ = self._climb(pgno)
        low, high = self._extent.get(root, (0, 0))
        if covered < WHOLE or root in self._taken:
            return ()
        if high - low >= min(2 * self.most, DENSE * (covered + count)):
            return ()
        self._taken.add(root)
        more = (high - low) // 64  # not all of it is known
        return tuple(range(max(1, low - more), min(self._commit, high + more) + 1))

    def _mark(self, marker: int, end: int, run: _Run) -> None:
        if len(self._markers) >= 4 * RUNS:
            self._markers.clear()
        self._markers[marker] = (end, run)

    def _expect(self, end: int, run: _Run) -> None:
        """The run goes on at one of the next few pages after ``end``."""
        for page in _take(self.next_pages(end, run.step), SKIP):
            self._expected[page] = run
        while len(self._expected) > 2 * RUNS:
            self._expected.popitem(last=False)

    # What the leads ask

    def span(self, pgno: int) -> Span | None:
        """The rowids of a leaf of a table; ``None`` when it is not known to be one."""
        root, depth = self._climb(pgno)
        if root not in self._tables or depth <= self._height.get(root, 0):
            return None
        low, high = -1 << 63, 1 << 63
        for _ in range(depth):
            place = self._place(pgno)
            if place is None or place[0] not in self._keys:
                return None
            pgno, index = place
            keys = self._keys[pgno]
            if index < len(keys):
                high = min(high, keys[index])
            if index:
                low = max(low, keys[index - 1])
        return Span(root, low, high)

    def below(self, root: int, rowid: int) -> tuple[int, bool]:
        """The deepest known page on the way to a rowid, and whether it is the leaf; ``(0, False)`` for none."""
        at, depth = root, 0
        while (keys := self._keys.get(at)) is not None and depth < DEPTH:
            at, depth = self._interior[at][bisect_left(keys, rowid)], depth + 1
        return (at, depth > self._height.get(root, 0)) if depth else (0, False)

    def following(self, pgno: int, step: int) -> int:
        """The page after this one on its level; 0 when not known."""
        return next(self.next_pages(pgno, step), 0)


def _take(pages: Iterator[int], count: int) -> Iterator[int]:
    for _ in range(count):
        found = next(pages, None)
        if found is None:
            return
        yield found
