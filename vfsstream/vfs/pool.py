"""Threads that carry out requests, the most urgent first. They are daemons with names and end when told to."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from heapq import heappop, heappush

__all__ = ["Pool"]


class Pool:
    """At most ``limit`` threads, started when there is work.

    Args:
        name: of the threads, after ``vfsstream-``.
        few: jobs of this priority and beyond run only so many at once: they are large, and what is urgent shall
            find a thread.
    """

    def __init__(self, limit: int, name: str, few: tuple[int, int] | None = None) -> None:
        self.limit, self.name = max(1, limit), name
        self._patient, self._most = few or (1 << 30, 1)
        self._running = 0  # jobs of those priorities
        self.closing = threading.Event()
        self._condition = threading.Condition()
        self._jobs: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._threads: list[threading.Thread] = []
        self._idle = 0

    def submit(self, job: Callable[[], None], priority: int = 0) -> None:
        """Run a job, which must not raise; lower priorities first, in order of submission."""
        with self._condition:
            if self.closing.is_set():
                return
            heappush(self._jobs, (priority, next(self._order), job))
            self._condition.notify()
            if self._idle >= len(self._jobs):
                return
            if len(self._threads) >= self.limit:
                return
            number = len(self._threads) + 1
            thread = threading.Thread(target=self._work, name=f"vfsstream-{self.name}-{number}", daemon=True)
            thread.start()  # before anybody who closes the pool can see it: only what has started can be joined
            self._threads.append(thread)

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._jobs or self._held():
                    if self.closing.is_set():
                        return
                    self._idle += 1
                    self._condition.wait()
                    self._idle -= 1
                priority, _, job = heappop(self._jobs)
                self._running += priority >= self._patient
            job()
            if priority >= self._patient:
                with self._condition:
                    self._running -= 1
                    self._condition.notify()

    def _held(self) -> bool:
        """Must the first job wait for others of its kind?"""
        return self._jobs[0][0] >= self._patient and self._running >= self._most

    def close(self, timeout: float = 2.0) -> None:
        """Drop what has not begun; wait at most ``timeout`` seconds, in all, for what has."""
        end = time.monotonic() + timeout
        self.closing.set()
        with self._condition:
            self._jobs.clear()
            self._condition.notify_all()
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))
