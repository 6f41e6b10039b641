"""The sequential planner, replayed from traces."""

from __future__ import annotations

import random

from vfsstream.vfs.readahead import ReadAhead


def replay(trace: list[int], first: int = 16, most: int = 1000) -> tuple[int, int]:
    """``(runs fetched, pages fetched)`` when every fetched page stays."""
    planner, here, unused, runs, pages = ReadAhead(first, most), set[int](), set[int](), 0, 0
    for pgno in trace:
        run = planner.miss(pgno) if pgno not in here else None
        if run is None and pgno in unused:
            unused.discard(pgno)
            planner.first.used()
            run = planner.use(pgno)
        if run is not None:
            runs += 1
            pages += run.count
            fetched = set(range(run.first, run.first + run.count))
            unused |= fetched - here - {pgno}
            here |= fetched
    return runs, pages


def test_a_scan_needs_few_and_growing_windows() -> None:
    runs, pages = replay(list(range(1, 20_001)))
    assert runs < 40
    assert pages < 23_000


def test_a_scan_that_jumps_over_known_pages_stays_a_scan() -> None:
    runs, _ = replay([n for n in range(1, 10_001) if n % 7])
    assert runs < 40


def test_random_reads_cost_hardly_more_than_their_pages() -> None:
    chosen = random.Random(1).sample(range(1, 1_000_000), 1000)
    _, pages = replay(chosen)
    assert pages < 1300


def test_a_scan_after_random_reads_is_found_again() -> None:
    planner = ReadAhead(16, 1000)
    for pgno in random.Random(2).sample(range(1, 1_000_000), 500):
        planner.miss(pgno)
    assert planner.first.pages == 1
    here = 0
    counts = []
    for pgno in range(2_000_000, 2_001_000):
        if pgno >= here:
            run = planner.miss(pgno)
            counts.append(run.count)
            here = run.first + run.count
    assert counts[:6] == [1, 2, 4, 8, 16, 32]
    assert planner.first.pages > 1


def test_two_scans_at_once_do_not_disturb_each_other() -> None:
    trace = [page for n in range(5000) for page in (1 + n, 1_000_000 + n)]
    runs, _ = replay(trace)
    assert runs < 80


def test_the_marker_asks_for_the_next_window_before_the_end() -> None:
    planner = ReadAhead(16, 1000)
    planner.miss(1)
    run = planner.miss(17)
    assert 17 < run.marker < 17 + run.count
    following = planner.use(run.marker)
    assert following is not None
    assert following.first == 17 + run.count
    assert planner.use(run.marker) is None


def test_the_state_is_bounded() -> None:
    planner = ReadAhead(4, 100)
    for pgno in range(1, 1_000_000, 50):
        planner.miss(pgno)
        planner.miss(pgno + 4)
    assert len(planner._expected) < 100
    assert len(planner._markers) < 200
