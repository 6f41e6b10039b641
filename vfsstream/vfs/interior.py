"""Learning a database's interior pages after it was opened, level by level, so that a lookup costs one request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from vfsstream.errors import VfsstreamError
from vfsstream.vfs.sqlitepage import INDEX_INTERIOR, TABLE_INTERIOR, children, kind, schema_roots
from vfsstream.vfs.view import View

__all__ = ["PageGiver", "interior_waves", "prefetch_interior"]

MOST = 8 << 20
"""Bytes of interior pages fetched unasked; beyond it they come when they are needed."""


class PageGiver(Protocol):
    """What the walk needs of the engine."""

    def fetch_ahead(self, view: View, pages: Sequence[int], check: Callable[[], None]) -> None:
        """Fetch pages side by side."""

    def read(self, view: View, pgno: int, check: Callable[[], None]) -> bytes | memoryview:
        """One page."""


def prefetch_interior(engine: PageGiver, view: View) -> None:
    """Walk the interior pages of all trees; ends quietly when the replica cannot be read."""
    budget = MOST // view.page_size

    def nothing() -> None:
        return None

    def get(pages: Sequence[int]) -> dict[int, bytes | memoryview]:
        if len(pages) > 1:
            engine.fetch_ahead(view, pages, nothing)
        return {pgno: engine.read(view, pgno, nothing) for pgno in pages if view.find(pgno) is not None}

    with suppress(VfsstreamError):
        for _ in interior_waves(get, view.commit, budget):
            pass


def interior_waves(
    get: Callable[[Sequence[int]], dict[int, bytes | memoryview]], commit: int, budget: int
) -> Iterator[list[int]]:
    """Fetch roots, then level after level; yields the pages of each wave.

    A level is fetched only when one child of each tree, probed first, is an interior page: the leaves are many.
    """
    roots = _roots(get, commit)
    pages = get(roots)
    yield roots
    while pages and budget > 0:
        below = {p: list(children(p, page, commit)) for p, page in pages.items()}
        probes = {p: child[0] for p, child in below.items() if child}
        if not probes:
            return
        probed = get(list(probes.values()))
        yield list(probes.values())
        level = [
            child
            for p, probe in probes.items()
            if kind(probe, probed.get(probe, b"\0" * 12)) in (INDEX_INTERIOR, TABLE_INTERIOR)
            for child in below[p]
        ][:budget]
        budget -= len(level)
        pages = get(level)
        yield level


def _roots(get: Callable[[Sequence[int]], dict[int, bytes | memoryview]], commit: int) -> list[int]:
    """Root pages out of sqlite_schema, whose own pages are read whole."""
    found: list[int] = []
    pages = get([1])
    for _ in range(8):
        below: list[int] = []
        for pgno, page in pages.items():
            below.extend(children(pgno, page, commit))
            found.extend(root for root in schema_roots(pgno, page) if 0 < root <= commit)
        if not below:
            break
        pages = get(below)
    return list(dict.fromkeys(found))
