"""The b-tree planner and the page parser, against databases that SQLite wrote."""

from __future__ import annotations

import random
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vfs.replicas import make_database
from vfsstream.vfs import sqlitepage as sp
from vfsstream.vfs.btree import BtreePlanner
from vfsstream.vfs.leads import Leads, Span


def trees(pages: list[bytes]) -> dict[int, list[int]]:
    """Root to leaves in key order, by walking."""
    commit = len(pages)

    def leaves(pgno: int) -> list[int]:
        below = sp.children(pgno, pages[pgno - 1], commit)
        return [leaf for child in below for leaf in leaves(child)] if below else [pgno]

    return {root: leaves(root) for root in sp.schema_roots(1, pages[0])}


@pytest.fixture(scope="module", params=[(3000, 512, False), (3000, 4096, True), (3000, 1024, True)], ids=str)
def pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    rows, size, fragmented = request.param
    return make_database(tmp_path_factory.mktemp("db") / "db", rows, size, fragmented=fragmented)


def planner_of(pages: list[bytes]) -> BtreePlanner:
    planner = BtreePlanner(len(pages))
    for pgno, page in enumerate(pages, 1):
        if sp.kind(pgno, page) in (sp.INDEX_INTERIOR, sp.TABLE_INTERIOR):
            planner.page(pgno, page)
    planner.page(1, pages[0])
    return planner


def test_the_walk_meets_every_row_in_order(pages: list[bytes], tmp_path: Path) -> None:
    planner = planner_of(pages)
    for leaves in trees(pages).values():
        if len(leaves) > 1:
            assert list(planner.next_pages(leaves[0])) == leaves[1:]
            assert list(planner.next_pages(leaves[-1], -1)) == leaves[-2::-1]


@pytest.mark.parametrize("backwards", [False, True])
def test_a_scan_in_key_order_is_foreseen_exactly(
    pages: list[bytes], backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfsstream.vfs.btree.WHOLE", 1 << 30)
    for leaves in trees(pages).values():
        if len(leaves) < 100:
            continue
        planner, here, plans, fetched = planner_of(pages), set[int](), 0, 0
        for leaf in reversed(leaves) if backwards else leaves:
            if leaf in here:
                found = planner.use(leaf)
            else:
                found = planner.miss(leaf, 0)
                here.add(leaf)
                fetched += 1
            if found is not None and found.pages:
                plans += 1
                fetched += len(set(found.pages) - here)
                assert set(found.pages) <= set(leaves)
                here |= set(found.pages)
        assert fetched == len(leaves)
        assert plans <= 10 + len(leaves) // 1000


def test_point_lookups_ask_for_nothing_else(pages: list[bytes]) -> None:
    planner = planner_of(pages)
    leaves = max(trees(pages).values(), key=len)
    for leaf in random.Random(3).sample(leaves[::5], len(leaves[::5])):
        found = planner.miss(leaf, 0)
        assert found is not None
        assert not found.pages or not found.established


def test_neighbours_read_by_chance_among_few_leaves_are_no_run(tmp_path: Path) -> None:
    """With large pages a table has few leaves, and random lookups meet a neighbour of an earlier one soon."""
    pages = make_database(tmp_path / "db", 9000, 2048)
    leaves = max(trees(pages).values(), key=len)
    assert 1000 < len(leaves) < 3000
    planner, unasked = planner_of(pages), 0
    planner.first = 2
    for leaf in random.Random(4).sample(leaves, 500):
        found = planner.miss(leaf, 0)
        assert found is not None
        unasked += len(found.pages) if found.established else 0
    assert unasked <= 25


def test_a_long_run_takes_the_stretch_that_its_tree_lies_in_once(tmp_path: Path) -> None:
    pages = make_database(tmp_path / "db", 9000, 2048, fragmented=True)
    leaves = max(trees(pages).values(), key=len)
    planner, here, stretches = planner_of(pages), set[int](), 0
    assert len(leaves) > 1000
    for number, leaf in enumerate(leaves):
        found = planner.use(leaf) if leaf in here else planner.miss(leaf, 0)
        if found is not None and found.whole:
            stretches += 1
            assert 256 <= number < 800
            assert set(leaves) <= set(found.pages)
        here |= {leaf, *(found.pages if found is not None else ())}
    assert stretches == 1


def test_a_short_run_in_a_wide_tree_takes_no_stretch(tmp_path: Path) -> None:
    pages = make_database(tmp_path / "db", 9000, 2048, fragmented=True)
    leaves = max(trees(pages).values(), key=len)
    planner, here = planner_of(pages), set[int]()
    for leaf in leaves[:100]:
        found = planner.use(leaf) if leaf in here else planner.miss(leaf, 0)
        assert found is None or not found.whole
        here |= {leaf, *(found.pages if found is not None else ())}
    assert len(here) <= 1 + 1 + 8 + 32 + 128


def test_without_the_next_parent_the_run_goes_on_when_it_passes_by(tmp_path: Path) -> None:
    pages = make_database(tmp_path / "db", 6000, 512)
    leaves = max(trees(pages).values(), key=len)
    planner = BtreePlanner(len(pages))
    whole = planner_of(pages)
    place = whole._place(leaves[0])
    assert place is not None
    planner.page(place[0], pages[place[0] - 1])
    grand = whole._place(place[0])
    assert grand is not None
    planner.page(grand[0], pages[grand[0] - 1])
    siblings = whole._interior[place[0]]
    expected = whole._interior[grand[0]][grand[1] + 1]
    here, asked = set[int](), list[int]()
    for leaf in siblings:
        found = planner.use(leaf) if leaf in here else planner.miss(leaf, 0)
        asked += found.pages if found is not None else ()
        here |= {leaf, *asked}
    assert asked[-1] == expected, siblings
    planner.page(expected, pages[expected - 1])
    following = planner.miss(whole._interior[expected][0], 0)
    assert following is not None
    assert following.established


def test_index_leaves_lead_to_the_table(tmp_path: Path) -> None:
    pages = make_database(tmp_path / "db", 5000, 4096)
    planner = planner_of(pages)
    table, index = (leaves for _, leaves in sorted(trees(pages).items()))
    rowids = sp.index_rowids(index[1], pages[index[1] - 1], 4096)
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        names = [name for (name,) in db.execute("SELECT name FROM t ORDER BY name")]
        expected = [db.execute("SELECT id FROM t WHERE name = ?", (n,)).fetchone()[0] for n in names]
    assert rowids == expected[expected.index(rowids[0]) :][: len(rowids)]
    planner.page(index[1], pages[index[1] - 1])
    root = sp.schema_roots(1, pages[0])[0]
    wanted = [planner.below(root, rowid)[0] for rowid in rowids]
    assert set(wanted) <= set(table)
    planner.miss(wanted[0], 0)
    found = planner.miss(wanted[1], 0)
    assert found is not None
    assert found.established
    assert found.pages == tuple(dict.fromkeys(wanted[2:]))[: len(found.pages)]
    assert 2 <= len(found.pages) <= 9


def index_scan(pages: list[bytes], step: int, known: list[int]) -> tuple[int, int, int]:
    """``(waits, pages fetched, rows)`` of two leaves of the index and their rows, in the order of the index.

    Args:
        known: interior pages that the planner has seen.
    """
    _, index = (leaves for _, leaves in sorted(trees(pages).items()))
    whole, planner, here = planner_of(pages), BtreePlanner(len(pages)), set[int]()
    for pgno in [1, *known]:
        planner.page(pgno, pages[pgno - 1])
    waits = rows = 0

    def read(pgno: int) -> None:
        nonlocal waits, here
        if pgno in here:
            planner.page(pgno, pages[pgno - 1])
            found = planner.use(pgno)
        else:
            waits += 1
            found = planner.miss(pgno, 0)
            planner.page(pgno, pages[pgno - 1])
        here |= {pgno, *(found.pages if found is not None and found.established else ())}

    root = sp.schema_roots(1, pages[0])[0]
    for leaf in index[3:5][::step]:
        if leaf not in here:
            here.add(leaf)
            planner.page(leaf, pages[leaf - 1])
        else:
            read(leaf)
        rowids = sp.index_rowids(leaf, pages[leaf - 1], planner.usable) + whole._entry_after(leaf)
        for rowid in rowids[::step]:
            rows += 1
            read(whole.below(root, rowid)[0])
    return waits, len(here), rows


@pytest.mark.parametrize("step", [1, -1])
def test_rows_in_the_order_of_an_index_are_foreseen_from_leaf_to_leaf(tmp_path: Path, step: int) -> None:
    pages = make_database(tmp_path / "db", 20_000, 1024)
    waits, fetched, rows = index_scan(pages, step, planner_of(pages).interior)
    assert rows > 50
    assert waits <= 3
    assert fetched <= 2 * rows


def test_random_rows_are_not_taken_for_those_of_an_index(tmp_path: Path) -> None:
    """A leaf of the index was read, and every page of the table holds some row that it names."""
    pages = make_database(tmp_path / "db", 20_000, 65536)
    planner = planner_of(pages)
    planner.first = planner._leads.first = 2
    table, index = (leaves for _, leaves in sorted(trees(pages).items()))
    unasked = 0
    chance = random.Random(5)
    for leaf in index[:8]:
        planner.page(leaf, pages[leaf - 1])
        for _ in range(40):
            found = planner._leads.miss(chance.choice(table), len(pages), 1000)
            unasked += len(found.pages) if found is not None else 0
    assert unasked <= 32  # of 320


def test_a_leaf_whose_entries_all_lie_in_one_page_costs_no_time_of_its_square() -> None:
    class Trees:
        def span(self, pgno: int) -> Span:
            return Span(1, 10_000 * pgno, 10_000 * (pgno + 1))

        def below(self, root: int, rowid: int) -> tuple[int, bool]:
            return rowid // 10_000, True

        def following(self, pgno: int, step: int) -> int:
            return 0

    class Counted(list[int]):
        reads = 0

        def __getitem__(self, at):  # type: ignore[no-untyped-def]
            Counted.reads += 1
            return super().__getitem__(at)

    leads = Leads(Trees(), 8)
    leads.index_leaf(50, Counted(range(20_001, 29_000)))
    for pgno in (2, 3, 2, 4):
        assert leads.miss(pgno, 1000, 100) is None
    assert Counted.reads < 100


def test_overflow_chains_are_found(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("PRAGMA page_size=4096")
        db.execute("CREATE TABLE b (x)")
        db.executemany("INSERT INTO b VALUES (zeroblob(?))", ((n,) for n in (10, 9000, 20, 13100, 30)))
        db.commit()
    data = (tmp_path / "db").read_bytes()
    pages = [data[n : n + 4096] for n in range(0, len(data), 4096)]
    (leaf,) = trees(pages)[2]
    heads = sp.overflow_heads(leaf, pages[leaf - 1], 4096)
    assert len(heads) == 2
    planner = planner_of(pages)
    planner.page(leaf, pages[leaf - 1])
    found = planner.miss(heads[0], 0)
    assert found is not None
    assert found.pages == (heads[1],)
    assert not found.established


def test_overflow_pages_of_one_row_after_the_other_are_fetched_together(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("PRAGMA page_size=1024")
        db.execute("CREATE TABLE b (id INTEGER PRIMARY KEY, x BLOB) WITHOUT ROWID")
        db.executemany("INSERT INTO b VALUES (?, zeroblob(500))", ((n,) for n in range(100)))
        db.commit()
    data = (tmp_path / "db").read_bytes()
    pages = [data[n : n + 1024] for n in range(0, len(data), 1024)]
    first, second = trees(pages)[2][:2]
    planner = planner_of(pages)
    waits, here = 0, set[int]()
    for leaf in (first, second):
        planner.page(leaf, pages[leaf - 1])
        heads = sp.overflow_heads(leaf, pages[leaf - 1], 1024)
        assert len(heads) >= 3
        for head in heads:
            if head in here:
                planner.use(head)
                continue
            waits += 1
            found = planner.miss(head, 0)
            here |= set(found.pages) if found is not None and found.established else set()
    assert waits == 3  # two of the first leaf, one of the second


@given(st.binary(min_size=512, max_size=512), st.integers(1, 3))
def test_garbage_gives_no_answer_and_no_error(page: bytes, pgno: int) -> None:
    for byte in (2, 5, 10, 13):
        start = 100 if pgno == 1 else 0
        changed = page[:start] + bytes([byte]) + page[start + 1 :]
        planner = BtreePlanner(1000)
        planner.usable = 512
        planner.page(pgno, changed)
        planner.miss(pgno, 4)
        sp.schema_roots(pgno, changed)
        sp.separators(pgno, changed)


def test_what_is_known_of_a_tree_costs_a_few_bytes_a_page(tmp_path: Path) -> None:
    pages = make_database(tmp_path / "db", 20_000, 512)
    planner = BtreePlanner(len(pages))
    tracemalloc.start()
    try:
        for pgno, page in enumerate(pages, 1):
            if sp.kind(pgno, page) in (sp.INDEX_INTERIOR, sp.TABLE_INTERIOR):
                planner.page(pgno, page)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 32 * len(pages), used / len(pages)
