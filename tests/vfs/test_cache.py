"""The caches in memory."""

from __future__ import annotations

import random

from vfsstream.vfs.cache import OVERHEAD, PageCache, Windows
from vfsstream.vfs.ranges import Frame


def test_the_budget_holds_and_hit_pages_stay_longer() -> None:
    cache = PageCache(100 * (1000 + OVERHEAD))
    for pgno in range(1, 101):
        cache.put(pgno, 1, bytes(1000))
    assert cache.hot(1, 1) is not None
    for pgno in range(101, 150):
        cache.put(pgno, 1, bytes(1000))
    assert cache.hot(1, 1) is not None
    assert cache.hot(2, 1) is None
    assert cache.size <= cache.budget
    assert len(cache) == 100


def test_versions_are_apart() -> None:
    cache = PageCache(10_000)
    cache.put(1, 1, b"old")
    cache.put(1, 2, b"new")
    assert (cache.hot(1, 1), cache.hot(1, 2), cache.hot(1, 3)) == (b"old", b"new", None)


def test_interior_pages_outlive_a_scan() -> None:
    cache = PageCache(50 * (1000 + OVERHEAD))
    for pgno in range(1, 11):
        cache.put(pgno, 1, bytes(1000), pin=True)
    for pgno in range(100, 1000):
        cache.put(pgno, 1, bytes(1000))
    assert all(cache.hot(pgno, 1) for pgno in range(1, 11))
    assert cache.size <= cache.budget


def test_too_many_pinned_pages_are_not_spared() -> None:
    cache = PageCache(10 * (1000 + OVERHEAD))
    for pgno in range(1, 100):
        cache.put(pgno, 1, bytes(1000), pin=True)
    assert cache.size <= cache.budget


def test_a_budget_below_one_page_keeps_one() -> None:
    cache = PageCache(1)
    for pgno in range(1, 10):
        cache.put(pgno, 1, bytes(1000))
        assert len(cache) == 1
        assert cache.hot(pgno, 1) is not None


def test_random_use_never_breaks_the_accounts() -> None:
    chance = random.Random(1)
    cache = PageCache(20_000)
    for _ in range(5000):
        pgno = chance.randrange(100)
        if cache.hot(pgno, 1) is None:
            cache.put(pgno, 1, bytes(chance.randrange(1, 3000)), pin=pgno < 5)
    assert cache.size == sum(len(entry[0]) + OVERHEAD for entry in cache._entries.values())
    assert cache.size <= cache.budget


def window(first: int, count: int) -> tuple[bytes, int, tuple[Frame, ...]]:
    frames = tuple(Frame(first + n, 0, 1000 + n * 10, 10, 7) for n in range(count))
    return b"".join(bytes([first + n]) * 10 for n in range(count)), 1000, frames


def test_frames_are_handed_out_once_and_memory_comes_back() -> None:
    windows = Windows(1000)
    windows.add(*window(1, 3))
    assert bytes(windows.take(2, 7) or b"") == b"\2" * 10
    assert windows.take(2, 7) is None
    assert windows.take(1, 8) is None
    assert windows.size == 30
    windows.take(1, 7)
    windows.take(3, 7)
    assert windows.size == 0


def test_the_oldest_window_goes_and_is_counted_as_waste() -> None:
    windows = Windows(50)
    windows.add(*window(1, 3))
    windows.take(1, 7)
    windows.add(*window(11, 3))
    assert windows.size == 30
    assert windows.wasted == 20
    assert windows.take(2, 7) is None
    assert windows.take(12, 7) is not None
