"""A value that is made at its first use, once, by whichever thread comes first and without a lock held meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from vfsstream.errors import DeadlineExceeded
from vfsstream.stores.deadline import time_left

__all__ = ["Once"]

T = TypeVar("T")

_LONGEST = 120.0


class Once(Generic[T]):
    """Made by ``make`` at the first ``get``; made anew after a failure, and in a forked child.

    Args:
        make: may do I/O; runs on the thread of the first caller, the others wait within their deadline.
        what: names the value in errors.
    """

    def __init__(self, make: Callable[[], T], what: str) -> None:
        self._make, self._what = make, what
        self._lock = threading.Lock()  # guards what follows, never held while the value is made
        self._value: T | None = None
        self._maker: threading.Event | None = None
        self._owner = os.getpid()

    @property
    def made(self) -> T | None:
        """The value if there is one already."""
        return self._value if self._owner == os.getpid() else None

    def get(self) -> T:
        """The value."""
        while True:
            with self._lock:
                if self._owner != os.getpid():
                    self._value, self._maker, self._owner = None, None, os.getpid()
                if self._value is not None:
                    return self._value
                waiting = self._maker
                if waiting is None:
                    self._maker = threading.Event()
            if waiting is None:
                return self._build()
            if not waiting.wait(time_left(_LONGEST)):
                raise DeadlineExceeded(f"{self._what} did not come in time")

    def _build(self) -> T:
        value: T | None = None
        try:
            value = self._make()
            return value
        finally:
            with self._lock:
                done, self._maker, self._value = self._maker, None, value
            if done is not None:
                done.set()
