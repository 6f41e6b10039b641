"""What may be deleted: a table, and a replica that lives through everything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.plan import litestream_model as model
from vfsstream.errors import UsageError
from vfsstream.ltx import TXID
from vfsstream.plan import FileInfo
from vfsstream.plan.compaction import plan_compaction
from vfsstream.plan.retention import RetentionPolicy, l0_states, retire_l0, retire_level, retire_snapshots

NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def snapshots(*ages: tuple[int, float]) -> list[FileInfo]:
    return [FileInfo(TXID(1), TXID(end), 9, 1000, NOW - hours * HOUR, True) for end, hours in ages]


@pytest.mark.parametrize(
    ("ages", "keep", "floor"),
    [
        ([], [], 0),
        ([(5, 100)], [5], 0),
        ([(5, 30), (9, 1)], [5, 9], 0),  # 5 is what a restore to 24 h ago starts from
        ([(5, 50), (9, 30), (12, 1)], [9, 12], 5),
        ([(5, 50), (9, 30)], [9], 5),
        ([(5, 24), (9, 1)], [5, 9], 0),
        ([(1, 99), (2, 75), (3, 51), (4, 27), (5, 3)], [4, 5], 3),
        ([(5, 50), (9, -3), (12, -2)], [5, 9, 12], 0),  # times in the future are young
        ([(5, 50), (9, 40), (10, 3), (12, 40)], [9, 10, 12], 5),  # the clock stepped back and forth
    ],
)
def test_snapshots(ages: list[tuple[int, float]], keep: list[int], floor: int) -> None:
    plan = retire_snapshots(snapshots(*ages), NOW, RetentionPolicy())
    assert [i.max_txid for i in plan.keep] == keep
    assert plan.floor == floor
    assert [i.max_txid for i in plan.delete] == [end for end, _ in ages if end not in keep]


def test_a_number_of_snapshots_can_be_asked_for() -> None:
    plan = retire_snapshots(snapshots((1, 99), (2, 98), (3, 97)), NOW, RetentionPolicy(min_snapshots=2))
    assert [i.max_txid for i in plan.keep] == [2, 3]


def test_a_snapshot_without_a_time_is_young() -> None:
    infos = [FileInfo(TXID(1), TXID(n), 9, 1000) for n in (1, 2, 3)]
    assert retire_snapshots(infos, NOW, RetentionPolicy()).delete == ()


def level(number: int, *spans: tuple[int, int], age: timedelta = HOUR) -> list[FileInfo]:
    return [FileInfo(TXID(a), TXID(b), number, 100, NOW - age, True) for a, b in spans]


def test_levels_keep_what_touches_the_floor_and_their_newest() -> None:
    files = level(2, (1, 4), (5, 9), (10, 12))
    assert retire_level(files, TXID(0)) == []
    assert [i.max_txid for i in retire_level(files, TXID(9))] == [4]
    assert [i.max_txid for i in retire_level(files, TXID(99))] == [4, 9]
    assert retire_level([], TXID(5)) == []


def ends(files: Sequence[FileInfo]) -> list[int]:
    return [int(i.max_txid) for i in files]


@pytest.mark.parametrize(
    ("l0", "l1", "snaps", "expected"),
    [
        ([1, 2, 3, 4], [(2, 3)], [(1, 1)], [1, 2, 3]),
        ([1, 2, 3], [(2, 3)], [(1, 1)], [1, 2]),  # the newest is the position marker
        ([1, 2, 3, 4], [(2, 3)], [], [2, 3]),  # nothing else holds the base
        ([1, 2, 3, 4], [(1, 3)], [], [1, 2, 3]),
        ([1, 2, 3, 4], [], [(1, 4)], []),  # a snapshot does not replace the steps to it
        ([1, 2, 3, 4], [(2, 3)], [(1, 4)], [2, 3]),  # 3 needs the base
        ([1, 2, 3, 4, 5], [(2, 2), (4, 4)], [(1, 1)], [1, 2, 4]),  # 3 is in no level-1 file
        ([3, 9, 10], [(6, 9)], [(1, 5)], [3, 9]),  # 3 is before everything restorable
        ([3, 9, 10], [(6, 9)], [(1, 3)], [9]),  # 3 may still be needed
        ([], [], [], []),
    ],
)
def test_l0(l0: list[int], l1: list[tuple[int, int]], snaps: list[tuple[int, int]], expected: list[int]) -> None:
    gone = retire_l0(level(0, *((n, n) for n in l0)), level(1, *l1), level(9, *snaps), NOW, RetentionPolicy())
    assert ends(gone) == expected


def test_l0_scanning_stops_at_the_first_young_file() -> None:
    files = (
        level(0, (2, 2)) + level(0, (3, 3), age=timedelta(seconds=1)) + level(0, (4, 4), (5, 5))
    )  # a clock went back
    assert ends(retire_l0(files, level(1, (2, 5)), level(9, (1, 1)), NOW, RetentionPolicy())) == [2]


def test_l0_steps_of_a_level_1_file_go_together() -> None:
    files = level(0, (2, 2), (3, 3), (4, 4))
    assert (
        retire_l0(files, level(1, (2, 4), age=timedelta(seconds=1)), level(9, (1, 1)), NOW, RetentionPolicy())
        == []
    )


def test_l0_retention_zero_keeps_everything() -> None:
    policy = RetentionPolicy(l0=timedelta(0))
    assert retire_l0(level(0, (2, 2), (3, 3)), level(1, (2, 3)), level(9, (1, 1)), NOW, policy) == []


def test_l0_kept_for_another_reason() -> None:
    files, keep = level(0, (2, 2), (3, 3), (4, 4)), {TXID(2)}
    assert ends(retire_l0(files, level(1, (2, 4)), level(9, (1, 1)), NOW, RetentionPolicy(), keep=keep)) == [3]


@pytest.mark.parametrize(
    "values",
    [{"l0": -HOUR}, {"snapshots": timedelta(0)}, {"min_snapshots": 0}],
)
def test_impossible_policies(values: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        RetentionPolicy(**values)  # type: ignore[arg-type]


L0_RETENTION, WINDOW = timedelta(seconds=40), timedelta(minutes=10)


class Life(RuleBasedStateMachine):
    """A replica as sets of files. Whatever happens, what was promised can be restored, by Litestream's plan."""

    policy = RetentionPolicy(l0=L0_RETENTION, snapshots=WINDOW)
    litestream = False

    @initialize()
    def begin(self) -> None:
        self.now = NOW
        self.files: model.Files = {n: set() for n in range(10)}
        self.position = 0
        self.times: dict[int, datetime] = {}  # every TXID ever captured
        self.steps: dict[int, datetime] = {}  # TXIDs that a level-1 file ended at
        self.started = NOW
        self.taken_over = False

    @rule(count=st.integers(1, 6), seconds=st.integers(1, 30))
    def capture(self, count: int, seconds: int) -> None:
        for _ in range(count):
            self.now += timedelta(seconds=seconds / count)
            self.position += 1
            self.times[self.position] = self.now
            txid = TXID(self.position)
            self.files[0].add(FileInfo(txid, txid, 0, 100, self.now, True))

    @rule(seconds=st.integers(1, 400))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def snapshot(self) -> None:
        if self.position and all(i.max_txid < self.position for i in self.files[9]):
            at = self.times[self.position]
            self.files[9].add(FileInfo(TXID(1), TXID(self.position), 9, 1000, at, True))

    @rule(level=st.integers(1, 3), done=st.integers(0, 9))
    def compact(self, level: int, done: int) -> None:
        """A kill after ``done`` merges."""
        plan = plan_compaction(level, [*self.files[level - 1]], [*self.files[level]], [*self.files[9]])
        assert not plan.gaps
        for merge in plan.merges[:done]:
            made = model.merged(level, list(merge.inputs))
            self.files[level].add(made)
            if level == 1:
                assert made.created_at is not None
                self.steps[int(made.max_txid)] = made.created_at

    @rule(done=st.integers(0, 50))
    def retire_l0(self, done: int) -> None:
        gone = retire_l0([*self.files[0]], [*self.files[1]], [*self.files[9]], self.now, self.policy)
        self.files[0] -= set(gone[:done])

    @rule(done=st.integers(0, 50))
    def retire(self, done: int) -> None:
        """Snapshots first, then the levels; a kill after ``done`` deletions."""
        plan = retire_snapshots([*self.files[9]], self.now, self.policy)
        gone = [*plan.delete]
        for level in range(1, 4):
            gone += retire_level([*self.files[level]], plan.floor)
        for info in gone[:done]:
            self.files[info.level].discard(info)

    @invariant()
    def the_latest_is_restorable(self) -> None:
        if getattr(self, "position", 0):
            assert model.restore(self.files) == self.position
            assert max(i.max_txid for i in self.files[0]) == self.position

    @invariant()
    def the_window_is_restorable(self) -> None:
        if not getattr(self, "position", 0) or self.taken_over:
            return
        horizon = self.now - WINDOW
        for txid, at in self.times.items():
            if self.now - L0_RETENTION <= at:
                assert model.restore(self.files, txid=txid) == txid
        for txid, at in self.steps.items():
            if horizon <= at:
                assert model.restore(self.files, txid=txid) == txid
        for at in (horizon, horizon + WINDOW / 3):
            wanted = max((t for t, time in self.steps.items() if time < at), default=0)
            if wanted or any(time < at for time in self.times.values()):
                assert model.restore(self.files, time=at) >= wanted

    @invariant()
    def every_level_is_contiguous(self) -> None:
        for number in range(4):
            ordered = sorted(getattr(self, "files", {}).get(number, ()))
            for one, other in pairwise(ordered):
                assert number == 0 or other.min_txid <= one.max_txid + 1


class LifeWithLitestream(Life):
    """The same, with Litestream taking over now and then: it neither stumbles nor loses the latest state."""

    @rule(level=st.integers(1, 3))
    def litestream_compacts(self, level: int) -> None:
        self.snapshot()  # it writes its snapshot at start
        model.compact(self.files, level)
        self.taken_over = True

    @rule()
    def litestream_retires(self) -> None:
        self.snapshot()
        model.retire_l0(self.files, self.now, L0_RETENTION)
        model.retire_snapshots(self.files, self.now, WINDOW, range(1, 4))
        self.taken_over = True


TestLife = Life.TestCase
TestLifeWithLitestream = LifeWithLitestream.TestCase
for case in (TestLife, TestLifeWithLitestream):
    case.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def test_what_retention_makes_of_level_0() -> None:
    base = snapshots((1, 2))
    old, young = level(0, (2, 2), (3, 3), (4, 4)), level(0, (5, 5), (6, 6), age=HOUR / 60)
    merged = level(1, (2, 3))
    states = l0_states([*old, *young], merged, base, NOW, RetentionPolicy())
    assert states == {"eligible": 2, "not_compacted": 3, "too_recent": 0}
    merged = level(1, (2, 4)) + level(1, (5, 6), age=HOUR / 60)
    states = l0_states([*old, *young], merged, base, NOW, RetentionPolicy())
    assert states == {"eligible": 3, "not_compacted": 0, "too_recent": 2}
    kept = RetentionPolicy(delete_remote=False)
    assert l0_states(old, merged, base, NOW, kept)["eligible"] == 0
    assert l0_states([], [], [], NOW, kept) == {"eligible": 0, "not_compacted": 0, "too_recent": 0}
