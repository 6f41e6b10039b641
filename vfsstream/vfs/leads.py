"""From the leaves of an index to the rows they point to, wherever in the table these lie. Pure.

A leaf of an index that passed by names the rowids of its entries in order. Whether a reader goes along them is seen,
not supposed: two pages read one after the other that belong to neighbouring entries. From then on the pages of
the next entries are known exactly, and nothing between them needs to be read.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import NamedTuple, Protocol

__all__ = ["Chains", "Leads", "Siblings", "Span", "Trees"]

LEAVES = 4
"""Leaves of indexes remembered at once."""
PATIENCE = 32
"""Pages of tables read elsewhere after which a leaf of an index is taken to lead nowhere."""
STRAYS = 4
"""Pages of the same table read elsewhere, more than along a lead, after which it is not one."""
GROWTH = 2
WORTH = 4
"""A step is larger than the last when one page in so many of that was read; else it is smaller."""
REACH = 16
"""Entries that a reader may pass over, because their rows are in a cache or do not matter, and still be seen."""
VAGUE = 128
"""Entries of one page from which on it says nothing about where the reader is."""
CHANCE = 1000
"""The entries in reach are as many as a reader at random meets once in so many pages."""
MARKERS = 256


@dataclass(frozen=True, slots=True)
class Siblings:
    """Pages to fetch, in the order in which they will be read.

    Attributes:
        pages: what comes next; empty when nothing is known.
        established: the order was seen, not supposed: worth requests of their own.
        covered: leaves that this run has asked for so far.
        wanted: leaves that the run would ask for if all of them were known.
        marker: the page whose first use continues the run; 0 = none.
        uncles: interior pages without which what comes after that is not known.
        whole: the pages are a stretch of the file, in no order of reading.
    """

    pages: tuple[int, ...]
    established: bool
    covered: int = 0
    wanted: int = 0
    marker: int = 0
    uncles: tuple[int, ...] = ()
    whole: bool = False


class Span(NamedTuple):
    """The rowids of a page of a table: above ``low`` and up to ``high``, in the tree below ``root``."""

    root: int
    low: int
    high: int


class Trees(Protocol):
    """What is known of the tables."""

    def span(self, pgno: int) -> Span | None:
        """The rowids of a leaf of a table; ``None`` when it is not known to be one."""

    def below(self, root: int, rowid: int) -> tuple[int, bool]:
        """The deepest known page on the way to a rowid, and whether it is the leaf; ``(0, False)`` for none."""

    def following(self, pgno: int, step: int) -> int:
        """The page after this one on its level; 0 when not known."""


class _Place(NamedTuple):
    """Entries at which the reader may be, with the direction, and the page that it read there.

    ``left`` pages more make it sure: where a page of the table holds many of the entries, two are neighbours by chance.
    """

    entries: list[tuple[int, int]]
    span: Span
    left: int


@dataclass(slots=True)
class _Lead:
    """A leaf of an index.

    Attributes:
        places: by table: where the reader may be.
        root: of the table that it leads to; 0 = not seen yet.
        at: the entry that was read last.
        step: 1 or -1.
        asked: pages asked for at the last step.
        used: of them.
        vain: pages read since that were none of the next entries.
        strays: of the same table, less those that were.
    """

    rowids: list[int]
    places: dict[int, _Place] = field(default_factory=dict)
    root: int = 0
    at: int = -1
    step: int = 1
    asked: int = 0
    used: int = 0
    vain: int = 0
    strays: int = 0


class Leads:
    """What the leaves of indexes read last point to.

    Args:
        trees: the tables.
        first: pages of a first step.
    """

    def __init__(self, trees: Trees, first: int) -> None:
        self._trees = trees
        self.first = first
        self._leads: OrderedDict[int, _Lead] = OrderedDict()
        self._markers: dict[int, int] = {}

    def index_leaf(self, pgno: int, rowids: list[int]) -> None:
        """A leaf of an index passed by."""
        if not rowids:
            return
        lead = self._leads.get(pgno)
        if lead is None or lead.rowids != rowids:
            lead = self._continued(pgno, rowids) or _Lead(rowids)
        self._leads[pgno] = lead
        self._leads.move_to_end(pgno)
        while len(self._leads) > LEAVES:
            self._leads.popitem(last=False)

    def _continued(self, pgno: int, rowids: list[int]) -> _Lead | None:
        """The lead of a leaf that comes after one which the reader went along to its end."""
        for before, lead in self._leads.items():
            left = len(lead.rowids) - 1 - lead.at if lead.step > 0 else lead.at
            near = left <= max(REACH, len(lead.rowids) // 8)
            if lead.root and near and self._trees.following(before, lead.step) == pgno:
                start = -1 if lead.step > 0 else len(rowids)
                return _Lead(rowids, root=lead.root, at=start, step=lead.step, asked=lead.asked, used=lead.asked)
        return None

    def forget(self, marker: int) -> None:
        """Another goes on from this page."""
        self._markers.pop(marker, None)

    def miss(self, pgno: int, commit: int, most: int) -> Siblings | None:
        """The pages that come after ``pgno`` when it was reached through one of the leads.

        Args:
            commit: pages of the database.
            most: pages of the largest step.
        """
        leaf = self._seen(pgno, commit)
        return self._advance(leaf, pgno, most) if leaf else None

    def use(self, pgno: int, commit: int, most: int) -> Siblings | None:
        """A page fetched ahead was read: what to fetch now, if it was a marker or the next leaf of the index."""
        begun = self._leads.get(pgno)
        if begun is not None and begun.root and begun.at in (-1, len(begun.rowids)):
            return self._advance(pgno, pgno, most)
        leaf = self._seen(pgno, commit)
        marked = self._markers.pop(pgno, 0)
        return self._advance(leaf, pgno, most) if leaf and leaf == marked else None

    def _seen(self, pgno: int, commit: int) -> int:
        """A page was read; the leaf of the index that led to it, or 0."""
        span = self._trees.span(pgno) if self._leads else None
        if span is None:
            return 0
        found = 0
        for leaf, lead in list(self._leads.items()):
            if not found and (self._along(lead, span) if lead.root else self._begins(lead, span, commit)):
                found = leaf
                lead.vain = 0
                self._leads.move_to_end(leaf)
                continue
            lead.vain += 1
            if lead.vain > PATIENCE:
                del self._leads[leaf]
        return found

    def _begins(self, lead: _Lead, span: Span, commit: int) -> bool:
        """Was the last page of this table one of an entry, and is this one of the next?"""
        before = lead.places.pop(span.root, None)
        place = self._next(lead.rowids, before, span, commit) if before is not None else None
        if place is not None and not place.left:
            lead.root, (lead.at, lead.step) = span.root, place.entries[0]
            lead.asked, lead.used = 0, 1
            return True
        if place is None:
            entries = _edges(lead.rowids, span)
            place = _Place(entries, span, 1 if len(entries) == 2 else 2) if 0 < len(entries) <= VAGUE else None
        if place is not None:
            if len(lead.places) >= LEAVES:
                lead.places.pop(next(iter(lead.places)))
            lead.places[span.root] = place
        return False

    def _next(self, rowids: list[int], before: _Place, span: Span, commit: int) -> _Place | None:
        """Where the reader is now, if this is the page of an entry that comes next."""
        if before.span == span:
            return before
        reach = max(1, min(REACH, 2 * commit // (CHANCE * len(before.entries))))
        found = [
            (there, step)
            for at, step in before.entries
            if (there := _meets(rowids, at, step, before.span, span, reach)) >= 0
        ]
        return _Place(found, span, before.left - 1) if found else None

    def _along(self, lead: _Lead, span: Span) -> bool:
        """Is this the page of one of the next entries?"""
        if span.root != lead.root:
            return False
        reach = REACH + 4 * lead.asked
        for at in islice(_steps(lead), reach):
            if span.low < lead.rowids[at] <= span.high:
                lead.at = at
                lead.used += 1
                lead.strays = max(0, lead.strays - 1)
                return True
        lead.strays += 1
        if lead.strays >= STRAYS:
            lead.root = lead.strays = 0
        return False

    def _advance(self, leaf: int, pgno: int, most: int) -> Siblings | None:
        lead = self._leads[leaf]
        if not lead.asked:
            lead.asked = self.first
        elif lead.used * WORTH >= lead.asked:
            lead.asked = min(most, lead.asked * GROWTH)
        else:
            lead.asked = max(1, lead.asked // WORTH)
        lead.used = 0
        pages: dict[int, None] = {}
        uncles: dict[int, None] = {}
        for at in _steps(lead):
            page, known = self._trees.below(lead.root, lead.rowids[at])
            (pages if known else uncles)[page] = None
            if len(pages) + len(uncles) > lead.asked:
                break
        else:
            pages[self._trees.following(leaf, lead.step)] = None
        for page in (0, pgno):
            pages.pop(page, None)
            uncles.pop(page, None)
        if not pages and not uncles:
            return None
        ahead = tuple(pages)
        marker = ahead[len(ahead) // 2] if len(ahead) > 1 else 0
        if marker:
            if len(self._markers) >= MARKERS:
                self._markers.clear()
            self._markers[marker] = leaf
        return Siblings(ahead, established=True, marker=marker, uncles=tuple(uncles))


class Chains:
    """The overflow pages of the rows of leaves: whoever reads those of two rows in a row reads those of the next."""

    GROUPS = 4096
    GUESS = 4

    def __init__(self) -> None:
        self._heads: dict[int, tuple[list[int], int]] = {}
        self._last = self._streak = 0

    def leaf(self, heads: list[int]) -> None:
        """The first overflow pages of the rows of a leaf, in their order."""
        if len(self._heads) > self.GROUPS:
            self._heads.clear()
        self._heads.update((head, (heads, number)) for number, head in enumerate(heads))

    def read(self, pgno: int) -> Siblings | None:
        """A page was read: the overflow pages that come after it; ``None`` when it is none."""
        heads, number = self._heads.pop(pgno, (None, 0))
        if heads is None:
            return None
        follows = heads[number - 1] == self._last if number else self._streak > 1
        self._streak = self._streak + 1 if follows else 1
        self._last = pgno
        established = self._streak > 1
        return Siblings(tuple(heads[number + 1 :][: None if established else self.GUESS]), established)


def _steps(lead: _Lead) -> range:
    """The entries that come after the one read last."""
    return range(lead.at + 1, len(lead.rowids)) if lead.step > 0 else range(lead.at - 1, -1, -1)


def _edges(rowids: list[int], span: Span) -> list[tuple[int, int]]:
    """The last entries of a page, seen in either direction, wherever some of its entries follow one another."""
    inside = [at for at, rowid in enumerate(rowids) if span.low < rowid <= span.high]
    apart = [place for place, (a, b) in enumerate(pairwise(inside), 1) if b - a > 1]
    if not inside:
        return []
    lasts = [*(inside[place - 1] for place in apart), inside[-1]]
    firsts = [inside[0], *(inside[place] for place in apart)]
    return [*((at, 1) for at in lasts), *((at, -1) for at in firsts)]


def _meets(rowids: list[int], at: int, step: int, before: Span, span: Span, reach: int) -> int:
    """The entry of ``span`` at most ``reach`` entries after those of ``before`` that ``at`` is one of; -1 = none."""
    at += step
    while 0 <= at < len(rowids) and before.low < rowids[at] <= before.high:
        at += step
    for _ in range(reach):
        if not 0 <= at < len(rowids):
            return -1
        if span.low < rowids[at] <= span.high:
            return at
        at += step
    return -1
