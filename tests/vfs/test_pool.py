"""Threads for requests: the urgent first, the large few at a time."""

from __future__ import annotations

import threading
import time

import pytest

from tests.vfs.live import wait_until
from vfsstream.vfs.pool import Pool


def test_large_jobs_run_a_few_at_a_time_and_urgent_ones_find_a_thread() -> None:
    pool = Pool(6, "test", (2, 2))
    release, lock = threading.Event(), threading.Lock()
    running, most, done = 0, 0, []

    def large() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        release.wait(60)
        with lock:
            running -= 1
            done.append("large")

    for _ in range(10):
        pool.submit(large, 2)
    wait_until(lambda: running == 2)
    for _ in range(20):
        pool.submit(lambda: done.append("urgent"), 0)
    wait_until(lambda: done.count("urgent") == 20, what="the urgent jobs")
    assert done.count("large") == 0
    release.set()
    wait_until(lambda: done.count("large") == 10, what="the large jobs")
    assert most == 2
    pool.close()


def test_a_pool_of_one_does_everything() -> None:
    pool = Pool(1, "test", (2, 4))
    done: list[int] = []
    for number in range(50):
        pool.submit(lambda number=number: done.append(number), number % 3)  # type: ignore[misc]
    wait_until(lambda: len(done) == 50)
    pool.close()
    assert not any(thread.is_alive() for thread in pool._threads)


def test_a_pool_closed_while_it_starts_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, starting, start = Pool(4, "closed-early"), threading.Event(), threading.Thread.start

    def slowly(thread: threading.Thread) -> None:
        if "closed-early" in thread.name:
            starting.set()
            time.sleep(0.2)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", slowly)
    submitting = threading.Thread(target=lambda: pool.submit(lambda: None))
    submitting.start()
    assert starting.wait(30)
    pool.close()
    submitting.join(30)
    wait_until(lambda: not any("closed-early" in thread.name for thread in threading.enumerate()))
