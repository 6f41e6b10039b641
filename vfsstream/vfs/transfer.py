"""Carrying ranged reads out: retries within the deadline, measuring the link, counting."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from vfsstream.errors import Interrupted, StoreError
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica
from vfsstream.stores.deadline import deadline
from vfsstream.vfs.escalate import Link
from vfsstream.vfs.flight import Flight
from vfsstream.vfs.pool import Pool

__all__ = ["DEMAND", "GUESS", "STREAM", "Transfer"]

DEMAND, GUESS, STREAM = 0, 1, 2
"""Priorities: what somebody waits for, what will soon be needed, what may be."""

STREAMS = 4
"""Large reads at once of what may be needed: enough to fill a link, few enough for memory."""

LONE = 4
"""So many reads at once do not yet wait for one another."""
SMALL, LARGE = 128 << 10, 512 << 10
PAUSE, LONGEST_PAUSE = 0.05, 1.0


class Transfer:
    """Ranged reads of one replica on a pool of threads.

    Attributes:
        link: what the network was seen to do.
        counts: ``gets bytes retries failures`` so far.
    """

    def __init__(self, replica: Replica, requests: int) -> None:
        self.replica = replica
        self.link = Link()
        self.counts = {"gets": 0, "bytes": 0, "retries": 0, "failures": 0}
        self._requests = requests
        self._lock = threading.Lock()
        self._active = 0
        self.pool = Pool(requests, "fetch", (STREAM, STREAMS))

    def submit(
        self,
        flight: Flight,
        files: Sequence[FileInfo],
        landed: Callable[[Flight, bytes], bytes | None],
        priority: int,
    ) -> None:
        """Fetch a flight's range on a thread of the pool.

        Args:
            landed: called with the bytes before those who wait are woken; what it returns stays in the flight.
        """
        flight.job = lambda: self._carry(flight, files[flight.range.file], landed)
        self.pool.submit(flight.job, DEMAND if flight.urgent else priority)  # looked at after the job is there

    def hurry(self, flight: Flight) -> None:
        """Somebody waits now for a flight that was submitted with less priority."""
        flight.urgent = True  # before looking for the job: who submits it just now does it the other way round
        if not flight.started and flight.job is not None:
            self.pool.submit(flight.job, DEMAND)

    def _carry(self, flight: Flight, info: FileInfo, landed: Callable[[Flight, bytes], bytes | None]) -> None:
        if not flight.take():
            return  # it was hurried on
        try:
            data = self._fetch(flight, info)
            flight.finish(landed(flight, data))
        except Exception as error:
            with self._lock:
                self.counts["failures"] += 1
            flight.error = error
            landed(flight, b"")
            flight.finish(None, error)

    def _fetch(self, flight: Flight, info: FileInfo) -> bytes:
        pause = PAUSE
        while True:
            if self.pool.closing.is_set():
                raise Interrupted("the database was closed")
            try:
                return self._once(flight, info)
            except StoreError as error:
                flight.trouble = error
                left = flight.deadline - time.monotonic()
                if not error.retryable or left < pause:
                    raise
                with self._lock:
                    self.counts["retries"] += 1
                self.pool.closing.wait(pause * random.uniform(0.5, 1.0))
                pause = min(LONGEST_PAUSE, pause * 2)

    def _once(self, flight: Flight, info: FileInfo) -> bytes:
        wanted = flight.range
        started = time.monotonic()
        with self._lock:
            self._active += 1
            before = self._active
            self.counts["gets"] += 1
        try:
            with deadline(max(0.001, flight.deadline - started)):
                data = self.replica.fetch(info, wanted.offset, wanted.size).data
        finally:
            with self._lock:
                active = self._active
                self._active -= 1
        if len(data) != wanted.size:
            what = f"{self.replica.key(info)}: {len(data)} bytes of {wanted.size} from byte {wanted.offset}"
            raise StoreError(f"{what}: the answer is cut short", retryable=True)
        self._measure(len(data), time.monotonic() - started, max(before, active))
        return data

    def _measure(self, size: int, seconds: float, active: int) -> None:
        with self._lock:
            self.counts["bytes"] += size
            if size <= SMALL:
                if active <= LONE or not self.link.measured:
                    self.link.small(seconds)
            elif size >= LARGE:
                self.link.large(size * active, seconds)

    def restart(self) -> None:
        """After a fork: new threads and locks."""
        self._lock = threading.Lock()
        self._active = 0
        self.pool = Pool(self._requests, "fetch", (STREAM, STREAMS))

    def close(self) -> None:
        """End the threads."""
        self.pool.close()
