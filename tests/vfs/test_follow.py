"""What the follower decides: paces, bridges over gaps, and whether a listing is of another history."""

from __future__ import annotations

import pytest

from vfsstream.ltx import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.vfs.follow import (
    Pace,
    another_history,
    bridge,
    due_levels,
    poll_interval,
    probe_due,
    stall_pause,
)

PACE = Pace(1.0, 30.0, 15.0)


def info(low: int, high: int, level: int = 0, size: int = 500) -> FileInfo:
    return FileInfo(TXID(low), TXID(high), level, size)


def test_the_pause_grows_only_when_nothing_comes() -> None:
    assert [poll_interval(PACE, quiet) for quiet in (0, 10, 11, 13, 1000)] == [1.0, 1.0, 2.0, 8.0, 30.0]
    assert poll_interval(Pace(1.0, 1.0, 15.0), 10_000) == 1.0


def test_idle_traffic_stays_below_eleven_requests_in_ten_seconds() -> None:
    steady = Pace(1.0, 1.0, 15.0)
    listed = dict.fromkeys(range(10), 0.0)
    requests = 0
    for now in range(1, 7201):
        due = due_levels(steady, float(now), listed, active=False)
        requests += len(due) if 0 in due else 1 + len(due) + probe_due(now)
        listed.update(dict.fromkeys(due, float(now)))
    assert requests / 7200 <= 1.1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({0: [info(6, 6), info(7, 7)]}, [(6, 6), (7, 7)]),
        ({0: [info(7, 7)]}, []),
        ({0: [info(7, 7)], 1: [info(4, 6, 1)]}, [(4, 6), (7, 7)]),  # straddles what is known
        ({0: [info(9, 9)], 1: [info(4, 6, 1)], 2: [info(1, 8, 2)]}, [(1, 8), (9, 9)]),
        ({0: [info(5, 5)]}, []),
        ({9: [info(1, 12, 9)], 0: [info(6, 6)]}, [(1, 12)]),
    ],
)
def test_bridges(files: dict[int, list[FileInfo]], expected: list[tuple[int, int]]) -> None:
    assert [(one.min_txid, one.max_txid) for one in bridge(files, 5)] == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # A full image makes every page another version: not while anything else leads on.
        ({9: [info(1, 12, 9)], 0: [info(6, 6), info(7, 7)]}, [(6, 6), (7, 7), (1, 12)]),
        ({9: [info(1, 7, 9)], 0: [info(6, 6), info(7, 7), info(8, 8)]}, [(6, 6), (7, 7), (8, 8)]),
        ({9: [info(1, 7, 9)], 0: [info(8, 8)]}, [(1, 7), (8, 8)]),
        ({9: [info(1, 9, 9)], 1: [info(4, 8, 1)], 0: [info(9, 9)]}, [(4, 8), (9, 9)]),
        # Of two that reach as far, the one that holds less of what is known.
        ({1: [info(3, 8, 1)], 2: [info(2, 8, 2)]}, [(3, 8)]),
        ({}, []),
    ],
)
def test_bridges_that_keep_what_is_here(files: dict[int, list[FileInfo]], expected: list[tuple[int, int]]) -> None:
    assert [(one.min_txid, one.max_txid) for one in bridge(files, 5, sparing=True)] == expected


def test_another_history() -> None:
    known = [info(1, 5, 9, 1000), info(6, 6)]
    assert another_history({9: [info(1, 5, 9, 1000)], 0: [info(6, 6), info(7, 7)]}, known, 6) is None
    assert another_history({}, known, 6) is None  # nothing listed proves nothing
    assert another_history({0: [info(1, 1)]}, known, 6) is not None
    assert another_history({9: [info(1, 5, 9, 1234)], 0: [info(6, 6)]}, known, 6) is not None


def test_a_gap_is_looked_for_soon_after_news_and_rarely_later() -> None:
    asked = [quiet for quiet in range(1, 101) if probe_due(quiet)]
    assert asked[0] == 2
    assert len(asked) <= 10


def test_a_gap_is_listed_at_once_and_then_more_and_more_rarely() -> None:
    pace = Pace(1.0, 1.0, 15.0)
    pauses = [stall_pause(pace, tries) for tries in range(6)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert stall_pause(pace, 10**6) == 15.0
