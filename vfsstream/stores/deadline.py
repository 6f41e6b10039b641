"""The time limit of the operation that runs on this thread, and what stops it, for every network wait inside it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

from vfsstream.errors import DeadlineExceeded

__all__ = ["deadline", "nearest_end", "pause", "stoppable", "time_left"]

_end: ContextVar[float | None] = ContextVar("vfsstream_deadline", default=None)
_stop: ContextVar[threading.Event | None] = ContextVar("vfsstream_stop", default=None)
_LOOK = 0.05  # seconds between two looks when two events may end one wait


@contextlib.contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Limit what runs inside to ``seconds`` from now; an outer, nearer limit stays in force."""
    outer = _end.get()
    end = None if seconds is None else time.monotonic() + seconds
    token = _end.set(min((e for e in (outer, end) if e is not None), default=None))
    try:
        yield
    finally:
        _end.reset(token)


@contextlib.contextmanager
def stoppable(stop: threading.Event) -> Iterator[None]:
    """Let ``stop`` end the pauses between tries of what runs inside."""
    token = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(token)


def pause(seconds: float, stop: threading.Event) -> bool:
    """Wait; ``True``, at once, when ``stop`` or the one given to :func:`stoppable` is set."""
    other = _stop.get()
    if other is None:
        return stop.wait(seconds)
    end = time.monotonic() + seconds
    while not other.is_set():
        left = end - time.monotonic()
        if left <= 0:
            return False
        if stop.wait(min(left, _LOOK)):
            return True
    return True


def nearest_end() -> float | None:
    """The ``time.monotonic()`` at which the operation must have ended, if there is such a limit."""
    return _end.get()


def time_left(limit: float) -> float:
    """How long one wait may take, in seconds: ``limit``, or less when the operation's own limit is nearer.

    Raises:
        DeadlineExceeded: nothing is left.
    """
    end = _end.get()
    if end is None:
        return limit
    left = end - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded("the time limit of the operation passed")
    return min(limit, left)
