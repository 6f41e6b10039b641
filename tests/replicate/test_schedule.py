"""Clock arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsstream.ltx import TXID
from vfsstream.plan import FileInfo
from vfsstream.replicate.schedule import TrustedClock, previous_run, seconds_to_next_run, spread, too_early

NOW = datetime(2026, 3, 5, 12, 34, 56, 789000, tzinfo=UTC)
times = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
intervals = st.timedeltas(timedelta(milliseconds=1), timedelta(days=40))


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (timedelta(seconds=30), "2026-03-05T12:34:30+00:00"),
        (timedelta(minutes=5), "2026-03-05T12:30:00+00:00"),
        (timedelta(hours=1), "2026-03-05T12:00:00+00:00"),
        (timedelta(hours=24), "2026-03-05T00:00:00+00:00"),
    ],
)
def test_runs_are_on_the_clock(interval: timedelta, expected: str) -> None:
    assert previous_run(NOW, interval) == datetime.fromisoformat(expected)


def test_multiples_count_from_year_1_and_not_from_1970() -> None:
    assert (int(previous_run(NOW, timedelta(seconds=7)).timestamp()) + 62135596800) % 7 == 0


@given(times, intervals, st.floats(0, 5))
def test_the_next_run_is_within_one_interval(now: datetime, interval: timedelta, shift: float) -> None:
    seconds = seconds_to_next_run(now, interval, shift)
    assert 0 < seconds <= interval.total_seconds() + 1e-6
    at = now + timedelta(seconds=seconds)
    off = (at - timedelta(seconds=shift) - previous_run(at - timedelta(seconds=shift), interval)).total_seconds()
    assert min(off, interval.total_seconds() - off) < 1e-4


def test_names_are_spread_and_keep_their_place() -> None:
    shifts = [spread(f"/data/{n}.db", timedelta(seconds=30)) for n in range(200)]
    assert shifts == [spread(f"/data/{n}.db", timedelta(seconds=30)) for n in range(200)]
    assert min(shifts) < 0.3
    assert 2.7 < max(shifts) <= 3.0
    assert max(spread(f"{n}", timedelta(hours=24)) for n in range(200)) <= 5


def _file(created: datetime | None) -> FileInfo:
    return FileInfo(TXID(1), TXID(2), 1, 100, created, True)


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        (None, False),
        (NOW - timedelta(seconds=27), False),  # before 12:34:30
        (NOW - timedelta(seconds=26), True),
        (NOW, True),
        (NOW + timedelta(seconds=1), False),  # the clock was ahead: no reason to stand still until then
    ],
)
def test_too_early_since_the_last_run(created: datetime | None, expected: bool) -> None:
    assert too_early(_file(created), NOW, timedelta(seconds=30)) is expected


def test_nothing_there_is_never_too_early() -> None:
    assert not too_early(None, NOW, timedelta(seconds=30))


def test_a_clock_that_goes_evenly_is_believed() -> None:
    clock = TrustedClock(NOW, 100.0)
    assert clock.now(NOW + timedelta(hours=5), 100.0 + 5 * 3600) == NOW + timedelta(hours=5)


def test_a_step_back_is_believed_at_once() -> None:
    clock = TrustedClock(NOW, 100.0)
    assert clock.now(NOW - timedelta(days=2), 101.0) == NOW - timedelta(days=2)


def test_a_step_forward_must_last() -> None:
    clock = TrustedClock(NOW, 0.0)
    year = timedelta(days=365)
    assert clock.now(NOW + year + timedelta(seconds=10), 10.0) == NOW + timedelta(seconds=10)
    assert clock.now(NOW + year + timedelta(seconds=3000), 3000.0) == NOW + timedelta(seconds=3000)
    assert clock.now(NOW + year + timedelta(seconds=3700), 3700.0) == NOW + year + timedelta(seconds=3700)
    assert clock.now(NOW + year + timedelta(seconds=3710), 3710.0) == NOW + year + timedelta(seconds=3710)


def test_a_step_forward_that_is_taken_back_changed_nothing() -> None:
    clock = TrustedClock(NOW, 0.0)
    clock.now(NOW + timedelta(days=9), 10.0)
    assert clock.now(NOW + timedelta(seconds=20), 20.0) == NOW + timedelta(seconds=20)
    assert clock.now(NOW + timedelta(days=9), 3630.0) == NOW + timedelta(seconds=3630)
