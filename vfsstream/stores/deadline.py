"""The time limit of the operation that runs on this thread, for every network wait inside it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar

from vfsstream.errors import DeadlineExceeded

__all__ = ["deadline", "nearest_end", "time_left"]

_end: ContextVar[float | None] = ContextVar("vfsstream_deadline", default=None)


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
