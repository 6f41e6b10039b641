"""The choice of what to merge."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsstream.ltx import TXID
from vfsstream.plan import FileInfo
from vfsstream.plan.compaction import Gap, Limits, Merge, _bounded, held, plan_compaction, split_by_page_size

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def files(level: int, *spans: tuple[int, int], size: int = 100) -> list[FileInfo]:
    return [FileInfo(TXID(a), TXID(b), level, size, T0, True) for a, b in spans]


def spans(merges: tuple[Merge, ...]) -> list[list[tuple[int, int]]]:
    return [[(int(i.min_txid), int(i.max_txid)) for i in merge.inputs] for merge in merges]


SNAP = files(9, (1, 1))


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        ([], [], []),
        ([(2, 2), (3, 3)], [], [[(2, 2), (3, 3)]]),
        ([(2, 2), (3, 3), (4, 4)], [(2, 3)], [[(4, 4)]]),
        ([(2, 2), (3, 3)], [(2, 3)], []),
        ([(7, 7), (8, 8)], [], [[(7, 7), (8, 8)]]),  # a level may begin anywhere
        ([(2, 2), (3, 3), (6, 6)], [], [[(2, 2), (3, 3)], [(6, 6)]]),  # gap: two files
        ([(5, 5)], [(2, 3)], [[(5, 5)]]),  # gap to the destination
        ([(1, 1), (2, 2)], [], [[(2, 2)]]),  # the base stays where it is
        ([(1, 1)], [], []),
        ([(1, 1), (2, 2), (3, 3)], [(1, 2)], [[(3, 3)]]),  # Litestream lifted the base
        ([(3, 5), (3, 4), (6, 6)], [], [[(3, 5), (6, 6)]]),  # a nested file adds nothing
        ([(2, 4), (3, 6)], [], [[(2, 4), (3, 6)]]),  # overlap is fine
        ([(2, 6)], [(2, 4)], [[(2, 6)]]),  # a straddling file is not lost
    ],
)
def test_level_1(source: list[tuple[int, int]], destination: list[tuple[int, int]], expected: object) -> None:
    plan = plan_compaction(1, files(0, *source), files(1, *destination), SNAP)
    assert spans(plan.merges) == expected


def test_gaps_are_told() -> None:
    assert plan_compaction(1, files(0, (2, 2), (5, 5)), [], SNAP).gaps == (Gap(TXID(2), TXID(5)),)
    assert plan_compaction(1, files(0, (5, 5)), files(1, (2, 2)), SNAP).gaps == (Gap(TXID(2), TXID(5)),)
    assert plan_compaction(1, files(0, (5, 5)), [], SNAP).gaps == ()


def test_without_a_snapshot_the_base_is_not_left_alone() -> None:
    plan = plan_compaction(1, files(0, (1, 1), (2, 2)), [], [])
    assert plan.waits_for_snapshot
    assert not plan.merges


def test_leave_base_can_be_switched_off() -> None:
    plan = plan_compaction(1, files(0, (1, 1), (2, 2)), [], [], leave_base=False)
    assert spans(plan.merges) == [[(1, 1), (2, 2)]]


def test_a_lone_file_waits_above_level_1() -> None:
    assert plan_compaction(2, files(1, (2, 4)), [], SNAP).merges == ()
    assert spans(plan_compaction(2, files(1, (2, 4), (5, 6)), [], SNAP).merges) == [[(2, 4), (5, 6)]]
    assert spans(plan_compaction(1, files(0, (2, 2)), [], SNAP).merges) == [[(2, 2)]]


def test_a_base_made_by_litestream_stays_in_its_level() -> None:
    plan = plan_compaction(2, files(1, (1, 4), (5, 6), (7, 9)), [], files(9, (1, 2)))
    assert spans(plan.merges) == [[(5, 6), (7, 9)]]


def test_limits() -> None:
    source = files(0, *((n, n) for n in range(2, 12)))
    plan = plan_compaction(1, source, [], SNAP, limits=Limits(max_files=4))
    assert [len(m.inputs) for m in plan.merges] == [4, 4, 2]
    plan = plan_compaction(1, source, [], SNAP, limits=Limits(max_bytes=350))
    assert [len(m.inputs) for m in plan.merges] == [3, 3, 3, 1]
    plan = plan_compaction(1, source, [], SNAP, limits=Limits(max_bytes=10))
    assert [len(m.inputs) for m in plan.merges] == [1] * 10


def test_what_is_in_memory_is_limited() -> None:
    small = files(0, *((n, n) for n in range(2, 12)), size=60_000)
    plan = plan_compaction(1, small, [], SNAP, limits=Limits(max_held=200_000))
    assert [len(m.inputs) for m in plan.merges] == [3, 3, 3, 1]
    large = files(0, *((n, n) for n in range(2, 12)), size=5 << 30)
    plan = plan_compaction(1, large, [], SNAP, limits=Limits(max_held=2 << 20, max_bytes=1 << 50))
    assert [len(m.inputs) for m in plan.merges] == [4, 4, 2]
    assert held([*small, *large]) == 600_000 + (5 << 20)
    assert held(large, 1000) == 10_000


@pytest.mark.parametrize("level", [0, 9, -1])
def test_only_levels_1_to_8(level: int) -> None:
    with pytest.raises(ValueError, match="levels 1 to 8"):
        plan_compaction(level, [], [], [])


def test_split_by_page_size() -> None:
    merge = Merge(1, tuple(files(0, (2, 2), (3, 3), (4, 4), (5, 5))))
    assert spans(tuple(split_by_page_size(merge, [4096, 4096, 512, 4096]))) == [
        [(2, 2), (3, 3)],
        [(4, 4)],
        [(5, 5)],
    ]
    assert split_by_page_size(merge, [512] * 4) == [merge]


span = st.tuples(st.integers(1, 40), st.integers(0, 6)).map(lambda p: (p[0], p[0] + p[1]))


@given(st.lists(span, max_size=25), st.lists(span, max_size=5), st.integers(1, 4), st.booleans())
def test_merges_are_contiguous_and_complete(
    source: list[tuple[int, int]], destination: list[tuple[int, int]], level: int, leave_base: bool
) -> None:
    below, above = files(level - 1, *source), files(level, *destination)
    plan = plan_compaction(
        level, below, above, SNAP, limits=Limits(max_files=5, min_files=1), leave_base=leave_base
    )
    reached = max((i.max_txid for i in above), default=0)
    for merge in plan.merges:
        for one, other in pairwise(merge.inputs):
            assert other.min_txid <= one.max_txid + 1
            assert other.max_txid > one.max_txid
        assert merge.max_txid > reached
    made = {n for m in plan.merges for n in range(m.min_txid, m.max_txid + 1)}
    kept = {n for i in below if leave_base and i.is_snapshot for n in range(1, i.max_txid + 1)}
    for info in below:
        if info.max_txid > reached:
            assert set(range(max(info.min_txid, reached + 1), info.max_txid + 1)) <= made | kept


def test_a_merge_knows_its_bytes_and_nothing_makes_no_merge() -> None:
    (merge,) = plan_compaction(1, files(0, (2, 2), (3, 3)), [], SNAP).merges
    assert merge.size == 200
    assert list(_bounded([], Limits())) == []
