"""A ranged read under way, shared by all who wait for one of its pages."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vfsstream.errors import DeadlineExceeded, Interrupted, StoreError
from vfsstream.plan.files import FileInfo
from vfsstream.vfs.ranges import ByteRange

__all__ = ["Flight", "NotOurs"]

SLICE = 0.05
"""Seconds between two looks at whether the waiting should end."""


class NotOurs(Exception):
    """A flight failed that somebody else began: ask anew while there is time.

    Attributes:
        error: what befell it.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error


class Flight:
    """One range on its way.

    Attributes:
        info: the file of the range; file numbers mean nothing to readers of other views.
        data: the bytes, once here.
        error: why they never came.
        started: a thread has taken it up.
        job: what carries it out, once it is asked for.
        urgent: somebody waits for it although nobody did at first.
        trouble: the last failure that was retried.
        demanded: somebody waited for it from the beginning, so it was no guess.
    """

    __slots__ = (
        "_done",
        "_taken",
        "data",
        "deadline",
        "demanded",
        "error",
        "info",
        "job",
        "range",
        "started",
        "trouble",
        "urgent",
    )

    def __init__(self, wanted: ByteRange, deadline: float, info: FileInfo | None = None) -> None:
        self.range, self.deadline, self.info = wanted, deadline, info
        self.data: bytes | None = None
        self.error: Exception | None = None
        self.trouble: Exception | None = None
        self.started = self.demanded = self.urgent = False
        self.job: Callable[[], None] | None = None
        self._done = threading.Event()
        self._taken = threading.Lock()

    def take(self) -> bool:
        """Is it up to the caller to carry it out? Only the first one is told so."""
        if not self._taken.acquire(blocking=False):
            return False
        self.started = True
        return True

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def finish(self, data: bytes | None, error: Exception | None = None) -> None:
        """Wake those who wait."""
        self.data, self.error = data, error
        self._done.set()

    def binds(self, error: Exception) -> bool:
        """Must who joined this flight take its failure for the answer, and not ask anew?

        Not the end of another's deadline, and not what befell a guess that nobody waited for.
        """
        closing = isinstance(error, Interrupted)
        return closing or (self.demanded and not (isinstance(error, StoreError) and error.retryable))

    def settle(self, seconds: float) -> bool:
        """Wait a little; is it done?"""
        return self._done.wait(seconds)

    def wait(self, what: str, check: Callable[[], None], clock: Callable[[], float], deadline: float) -> None:
        """Wait for the bytes, at most until ``deadline``.

        Raises:
            DeadlineExceeded: names ``what`` and the last trouble.
        """
        self.pass_by(what, check, clock, deadline)
        if self.error is not None:
            raise self.error

    def pass_by(self, what: str, check: Callable[[], None], clock: Callable[[], float], deadline: float) -> None:
        """Like :meth:`wait`, but the flight's own error is left to the caller."""
        while not self._done.wait(min(SLICE, max(0.0, deadline - clock()))):
            check()
            if clock() >= deadline:
                trouble = f": {self.trouble}" if self.trouble else ""
                message = f"{what}: no answer from the replica within the deadline{trouble}"
                raise DeadlineExceeded(message, hint="raise deadline= or check the network") from self.trouble

    def frame(self, pgno: int, version: int) -> memoryview | None:
        """The frame of one page."""
        if self.data is None:
            return None
        for frame in self.range.frames:
            if frame.pgno == pgno and frame.version == version:
                start = frame.offset - self.range.offset
                return memoryview(self.data)[start : start + frame.size]
        return None
