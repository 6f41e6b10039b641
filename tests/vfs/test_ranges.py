"""Wanted pages become ranges."""

from __future__ import annotations

import numpy
from hypothesis import given
from hypothesis import strategies as st

from vfsstream.vfs.bulk import merge_columns
from vfsstream.vfs.ranges import MANY, MOST, Frame, coalesce
from vfsstream.vfs.view import Columns


def frames(*places: tuple[int, int, int]) -> list[Frame]:
    return [Frame(n, file, offset, size, 1) for n, (file, offset, size) in enumerate(places, 1)]


def test_neighbours_join_and_files_do_not() -> None:
    found = coalesce(frames((0, 100, 50), (0, 150, 50), (1, 200, 50)))
    assert [(r.file, r.offset, r.size) for r in found] == [(0, 100, 100), (1, 200, 50)]


def test_a_small_gap_is_read_through_and_a_large_one_is_not() -> None:
    assert len(coalesce(frames((0, 0, 10), (0, 20, 10)), max_gap=10)) == 1
    assert len(coalesce(frames((0, 0, 10), (0, 21, 10)), max_gap=10)) == 2


def test_long_runs_are_split() -> None:
    found = coalesce(frames(*((0, n * 10, 10) for n in range(10))), max_range=40)
    assert [r.size for r in found] == [40, 40, 20]


def spread(count: int, gap: int) -> list[Frame]:
    return frames(*((0, n * (3000 + gap), 3000) for n in range(count)))


def test_a_few_scattered_pages_are_not_read_through_what_lies_between() -> None:
    found = coalesce(spread(MANY, 40_000))
    assert len(found) >= MANY - 2  # two bytes for one that is wanted: two gaps
    assert sum(r.size for r in found) <= 3 * MANY * 3000


def test_many_are_fetched_in_few_requests() -> None:
    found = coalesce(spread(150, 40_000))
    assert len(found) <= 24
    assert sum(r.size for r in found) <= MOST


def test_no_more_is_read_through_than_memory_is_for() -> None:
    found = coalesce(spread(1000, 40_000))
    assert sum(r.size for r in found) <= MOST + 1000 * 3000


PLACES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 500)), max_size=60, unique=True)


@given(PLACES, st.integers(0, 300), st.integers(50, 400))
def test_every_frame_is_covered_once(places: list[tuple[int, int]], gap: int, most: int) -> None:
    wanted = frames(*((file, slot * 40, 40) for file, slot in places))
    found = coalesce(wanted, gap, most)
    assert sorted(f.pgno for r in found for f in r.frames) == [f.pgno for f in wanted]
    for r in found:
        assert all(f.file == r.file and r.offset <= f.offset <= r.offset + r.size - f.size for f in r.frames)
        assert r.size <= max(most, 40)


@given(PLACES, st.integers(50, 4000))
def test_the_ranges_of_a_whole_view_cover_it(places: list[tuple[int, int]], most: int) -> None:
    rows = [(file, slot * 40, 40) for file, slot in places]
    table = numpy.array([*rows, (0, 0, 0)], dtype=numpy.int64).T
    found = merge_columns(Columns(table[0], table[1], table[2], table[0]), most)
    for file, offset, size in rows:
        inside = [r for r in found if r.file == file and r.offset <= offset and offset + size <= r.offset + r.size]
        assert len(inside) == 1
    assert all(r.size <= max(most, 40) for r in found)
