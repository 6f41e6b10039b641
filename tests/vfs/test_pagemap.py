"""The page map against a model: every page of every view is what the writer had at that TXID."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfsstream.errors import CorruptError
from vfsstream.ltx import PAGE_SIZES, TXID, Header, lock_pgno
from vfsstream.plan.files import FileInfo
from vfsstream.vfs import pagemap
from vfsstream.vfs.pagemap import (
    Incoming,
    advance,
    build,
    fold,
    kept_versions,
    missing_from,
    replace_places,
    take_places,
)
from vfsstream.vfs.view import View


@dataclass
class Index:
    pgno: Any
    offset: Any
    size: Any


class Writer:
    """A history: which pages each transaction wrote. A page's offset in a file is the TXID that wrote it."""

    def __init__(self) -> None:
        self.commits = [0]
        self.changed: list[set[int]] = [set()]

    def step(self, commit: int, touched: set[int]) -> None:
        old = self.commits[-1]
        pages = {page for page in touched if page <= commit} | set(range(old + 1, commit + 1)) | {1}
        self.commits.append(commit)
        self.changed.append(pages)

    @property
    def txid(self) -> int:
        return len(self.commits) - 1

    def wrote(self, page: int, low: int, high: int) -> int:
        return max((t for t in range(low, high + 1) if page in self.changed[t]), default=0)

    def file(self, low: int, high: int, level: int = 0) -> Incoming:
        commit = self.commits[high]
        pages = [p for p in range(1, commit + 1) if self.wrote(p, low, high)]
        offsets = [self.wrote(p, low, high) for p in pages]
        info = FileInfo(TXID(low), TXID(high), level, 1000)
        header = Header(4096, commit, low, high, high * 1000)
        sizes = np.full(len(pages), 50, np.int32)
        return Incoming(info, header, Index(np.array(pages, np.uint32), np.array(offsets, np.int64), sizes))

    def plan(self, chance: random.Random) -> list[Incoming]:
        """Files that lead from nothing to some TXID, overlapping or not."""
        files, reached = [], 0
        while not files or chance.random() < 0.7:
            if reached == self.txid:
                break
            high = chance.randint(reached + 1, self.txid)
            files.append(self.file(chance.randint(1, reached + 1) if files else 1, high, chance.randint(0, 2)))
            reached = high
        return files

    def check(self, view: View, contents: dict[tuple[int, int], int]) -> None:
        txid = int(view.txid)
        assert view.commit == self.commits[txid]
        columns = view.columns(1, view.commit)
        for page in range(1, view.commit + 1):
            place = view.find(page)
            assert place is not None, page
            assert place.offset == self.wrote(page, 1, txid), (page, place)
            assert place.version == view.version(page)
            assert tuple(int(column[page - 1]) for column in columns) == tuple(place)
            low, high = view.files[place.file].min_txid, view.files[place.file].max_txid
            assert self.wrote(page, low, high) == place.offset
            assert contents.setdefault((page, place.version), place.offset) == place.offset
        assert view.find(view.commit + 1) is None
        assert view.version(view.commit + 1) == 0
        assert view.find(0) is None


HISTORY = st.lists(st.tuples(st.integers(1, 12), st.sets(st.integers(1, 12), max_size=4)), min_size=2, max_size=14)


@settings(deadline=None, max_examples=300)
@given(history=HISTORY, seed=st.integers(0, 1 << 32), small=st.booleans())
def test_every_view_shows_what_the_writer_had(history: Any, seed: int, small: bool) -> None:
    limit, entries = pagemap.OVERLAY_PAGES, pagemap.ENTRIES
    if small:  # both ways of merging, and folding in between
        pagemap.OVERLAY_PAGES = pagemap.ENTRIES = 3
    try:
        writer = Writer()
        for commit, touched in history:
            writer.step(commit, touched)
        contents: dict[tuple[int, int], int] = {}
        chance = random.Random(seed)
        start = chance.randint(1, writer.txid)
        view = build([writer.file(1, start, 9)])
        seen = [view]
        kept: dict[FileInfo, Any] = {}
        while True:
            txid = int(view.txid)
            high = chance.randint(1, writer.txid)
            low = chance.randint(1, min(high, txid + 1))
            item = writer.file(low, high, chance.randint(0, 2))
            view = advance(view, item)
            if high <= txid:
                kept[item.info] = kept_versions(view, item)
            seen.append(view)
            if view.txid == writer.txid and len(seen) > 4:
                break
        for one in seen:
            writer.check(one, contents)
            writer.check(fold(one), contents)
            writer.check(take_places(one, view), contents)
            writer.check(replace_places(one, [writer.file(1, int(one.txid), 9)]), contents)
        for _ in range(5):  # as the next process opens, with what this one found out
            writer.check(
                build([replace(item, versions=kept.get(item.info)) for item in writer.plan(chance)]), contents
            )
    finally:
        pagemap.OVERLAY_PAGES, pagemap.ENTRIES = limit, entries


def test_cached_contents_survive_compaction() -> None:
    writer = Writer()
    for commit, touched in [(5, set()), (5, {2}), (5, {3}), (5, {2})]:
        writer.step(commit, touched)
    view = build([writer.file(1, 1)])
    for txid in (2, 3, 4):
        view = advance(view, writer.file(txid, txid))
    versions = [view.version(page) for page in range(1, 6)]
    compacted = advance(view, writer.file(1, 4, 1))
    assert [compacted.version(page) for page in range(1, 6)] == versions
    assert {compacted.files[compacted.find(page).file].level for page in range(1, 6)} == {1}  # type: ignore[union-attr]
    assert missing_from(compacted, [writer.file(1, 4, 1).info]) == set()
    assert missing_from(view, [writer.file(1, 1).info]) == {writer.file(t, t).info for t in (3, 4)} | (
        {writer.file(2, 2).info}
        if any(view.files[view.find(p).file].min_txid == 2 for p in range(1, 6))
        else set()  # type: ignore[union-attr]
    )


def test_an_older_compacted_file_changes_nothing_that_is_newer() -> None:
    writer = Writer()
    for commit, touched in [(5, set()), (5, {2}), (5, {2, 3}), (5, {2})]:
        writer.step(commit, touched)
    view = build([writer.file(1, 4, 9)])
    assert advance(view, writer.file(1, 3, 1)).find(2) == view.find(2)


def test_files_that_do_not_fit_are_refused() -> None:
    writer = Writer()
    for _ in range(4):
        writer.step(3, {2})
    view = build([writer.file(1, 1)])
    with pytest.raises(CorruptError, match="does not continue"):
        advance(view, writer.file(3, 3))
    item = writer.file(2, 2)
    with pytest.raises(CorruptError, match="the header states"):
        advance(view, Incoming(FileInfo(TXID(2), TXID(3), 0, 9), item.header, item.index))
    with pytest.raises(CorruptError, match="page size"):
        advance(view, Incoming(item.info, Header(512, 3, 2, 2, 0), item.index))


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_the_neighbourhood_of_the_lock_page(page_size: int) -> None:
    lock = lock_pgno(page_size)
    pages = np.array([1, lock - 1, lock + 1, lock + 2], np.uint32)
    index = Index(pages, np.array([100, 200, 300, 400], np.int64), np.full(4, 90, np.int32))
    view = build([Incoming(FileInfo(TXID(1), TXID(1), 9, 999), Header(page_size, lock + 2, 1, 1, 0), index)])
    assert view.lock_pgno == lock
    assert view.size > 1 << 30
    assert [view.find(n) is not None for n in range(lock - 1, lock + 4)] == [True, False, True, True, False]
    assert view.version(lock) == 0


def test_memory_of_a_million_pages() -> None:
    count = 1_000_000
    index = Index(np.arange(1, count + 1, dtype=np.uint32), np.arange(count) * 90 + 100, np.full(count, 90))
    view = build([Incoming(FileInfo(TXID(1), TXID(1), 9, 1 << 30), Header(512, count, 1, 1, 0), index)])
    assert sum(column.nbytes for column in view.base.columns) <= 24 * (count + 1)
    newer = advance(view, Incoming(FileInfo(TXID(2), TXID(2), 0, 999), Header(512, count, 2, 2, 0), _one(7)))
    assert newer.base is view.base  # shared, not copied


def _one(pgno: int) -> Index:
    return Index(np.array([pgno], np.uint32), np.array([100]), np.array([90]))
