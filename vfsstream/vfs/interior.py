"""Learning a database's interior pages after it was opened, level by level, so that a lookup costs one request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from vfsstream.errors import VfsstreamError
from vfsstream.vfs.sqlitepage import INDEX_INTERIOR, TABLE_INTERIOR, children, kind, schema_roots
from vfsstream.vfs.view import View

__all__ = ["PageGiver", "interior_waves", "prefetch_interior"]

REQUESTS = 8
"""What may be asked for unasked; larger levels come when lookups have paid enough for them."""


class PageGiver(Protocol):
    """What the walk needs of the engine."""

    def fetch_ahead(self, view: View, pages: Sequence[int], check: Callable[[], None]) -> None:
        """Fetch pages side by side."""

    def read(self, view: View, pgno: int, check: Callable[[], None]) -> bytes | memoryview:
        """One page."""

    def check_open(self) -> None:
        """Raises when the engine is being closed."""

    def requests_for(self, view: View, pages: Sequence[int]) -> int:
        """How many requests it takes to have these pages."""


def prefetch_interior(engine: PageGiver, view: View) -> None:
    """Walk the interior pages of all trees, as far as that is cheap; ends quietly when the replica cannot be read."""
    left = REQUESTS

    def get(pages: Sequence[int]) -> dict[int, bytes | memoryview]:
        nonlocal left
        left -= engine.requests_for(view, pages)
        if len(pages) > 1:
            engine.fetch_ahead(view, pages, engine.check_open)
        return {pgno: engine.read(view, pgno, engine.check_open) for pgno in pages if view.find(pgno) is not None}

    def afford(pages: Sequence[int]) -> bool:
        return engine.requests_for(view, pages) <= left

    with suppress(VfsstreamError):
        for _ in interior_waves(get, afford, view.commit):
            pass


def interior_waves(
    get: Callable[[Sequence[int]], dict[int, bytes | memoryview]],
    afford: Callable[[Sequence[int]], bool],
    commit: int,
) -> Iterator[list[int]]:
    """Fetch roots, then level after level of every tree where that is cheap; yields the pages of each wave.

    A level is fetched only when one child, probed first, is an interior page: the leaves are many.

    Args:
        get: gives pages.
        afford: may these be fetched?
    """
    roots = _roots(get, commit)
    while roots and not afford(roots):
        roots = roots[: len(roots) // 2]
    pages = get(roots)
    yield roots
    while pages:
        level: list[int] = []
        for pgno, page in pages.items():
            below = list(children(pgno, page, commit))
            if below and afford([*level, *below]) and _is_interior(get, below[0]):
                level += below
        pages = get(level)
        if level:
            yield level


def _is_interior(get: Callable[[Sequence[int]], dict[int, bytes | memoryview]], pgno: int) -> bool:
    page = get([pgno]).get(pgno)
    return page is not None and kind(pgno, page) in (INDEX_INTERIOR, TABLE_INTERIOR)


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
