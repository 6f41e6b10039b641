"""Which databases have something to capture: sleeps until there are some.

Three sources: the kernel tells that a log was written; a database that shows signs of life is looked at again after
short pauses; and every database is looked at thoroughly in a regular round, so that nothing is ever missed for longer
than that, whatever the kernel does not tell.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from vfsstream.replicate.pacing import Attention, after_look
from vfsstream.replicate.watching import Alarm

__all__ = ["Lookout", "Observed"]

_log = logging.getLogger(__name__)

_AT_ONCE = 0.001
_PATIENCE = 1.0  # whoever is told of work says when it is done; if not, the next look comes after so long


class Observed(Protocol):
    """What is looked at."""

    @property
    def log_path(self) -> str | None:
        """The log to watch; ``None`` while there is none."""

    def has_news(self) -> bool:
        """Whether something was committed since the last capture; cheap."""

    def poll_capture(self, *, thorough: bool = False) -> bool:
        """Whether there is something to capture now."""

    def held_back(self, now: float) -> float:
        """Seconds for which what is there has to wait."""


T = TypeVar("T")


class _Post(Generic[T]):
    def __init__(self, database: Observed, item: T) -> None:
        self.database, self.item = database, item
        self.attention = Attention()
        self.armed = False
        self.next_at = 0.0


class Lookout(Generic[T]):
    """Looks at databases on behalf of one thread, which calls :meth:`due` again and again.

    Args:
        poll: seconds between two looks at a lively database.
        round_: seconds between two looks at all of them.
        kernel: use the kernel's notification where there is one.
    """

    def __init__(self, poll: float, round_: float = 1.0, *, kernel: bool = True) -> None:
        self._poll, self._round = poll, round_
        self._alarm: Alarm[_Post[T]] = Alarm(kernel=kernel)
        self._wanted: tuple[tuple[Observed, T], ...] | None = None  # replaced from any thread
        self._stirred: deque[Observed] = deque()  # appended to from any thread
        self._posts: dict[Observed, _Post[T]] = {}
        self._lively: set[_Post[T]] = set()
        self._round_at = 0.0
        self.in_round = False

    def watch(self, databases: Iterable[tuple[Observed, T]], round_: float | None = None) -> None:
        """Look at exactly these from now on, each known to the caller as its item. From any thread.

        Args:
            round_: seconds between two looks at all of them, from now on.
        """
        self._round = round_ or self._round
        self._wanted = tuple(databases)
        self._alarm.wake()

    def stir(self, database: Observed) -> None:
        """Look at a database at once: its capture ended. From any thread."""
        self._stirred.append(database)
        self._alarm.wake()

    def wake(self) -> None:
        """End the sleep of :meth:`due`. From any thread."""
        self._alarm.wake()

    def due(self) -> list[T]:
        """Sleep until something happens, at most until the round; returns what has something to capture.

        ``in_round`` tells whether all databases were looked at this time.
        """
        written = self._alarm.wait(min(self._next_at(), self._round_at) - time.monotonic())
        now = time.monotonic()
        self._take_wanted(now)
        for post in list(self._posts.values()) if written is None else written:
            if self._posts.get(post.database) is post:  # not let go meanwhile
                self._sign(post, now)
        while self._stirred:
            stirred = self._posts.get(self._stirred.popleft())
            if stirred is not None:
                stirred.attention.sign_at, stirred.next_at = now, now
                self._lively.add(stirred)
        self.in_round = now >= self._round_at
        if self.in_round:
            self._round_at = now + self._round
            return [post.item for post in list(self._posts.values()) if self._look(post, now, thorough=True)]
        return [post.item for post in list(self._lively) if post.next_at <= now and self._look(post, now)]

    def _next_at(self) -> float:
        return (
            min((post.next_at for post in self._lively), default=self._round_at)
            if self._lively
            else self._round_at
        )

    def _take_wanted(self, now: float) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        databases = dict(wanted)
        for database in [database for database in self._posts if database not in databases]:
            post = self._posts.pop(database)
            self._lively.discard(post)
            self._alarm.disarm(post)
        for database, item in databases.items():
            if database not in self._posts:
                post = self._posts[database] = _Post(database, item)
                post.next_at = now
                self._lively.add(post)

    def _sign(self, post: _Post[T], now: float) -> None:
        post.attention.told(now)
        post.armed = False
        post.next_at = now
        self._lively.add(post)

    def _look(self, post: _Post[T], now: float, *, thorough: bool = False) -> bool:
        try:
            return self._judge(post, now, thorough)
        except Exception:
            _log.exception("looking at %s failed", post.database)
            post.next_at = now + _PATIENCE
            return False

    def _judge(self, post: _Post[T], now: float, thorough: bool) -> bool:
        database = post.database
        news = database.has_news()
        if news and post.armed and post not in self._lively:
            post.attention.missed(now)
        if database.poll_capture(thorough=thorough):
            post.next_at = now + _PATIENCE
            self._lively.add(post)
            return True
        if not news and not post.armed:
            path = database.log_path
            post.armed = path is not None and self._alarm.arm(path, post)
            news = database.has_news()  # what was committed before the watch was set
        held = max(database.held_back(now), _AT_ONCE) if news else 0.0
        pause = after_look(post.attention, now, self._poll, armed=post.armed, held=held)
        if pause is None:
            self._lively.discard(post)
            return False
        at = now + pause
        post.next_at = at if pause < self._poll or held else math.ceil(at / self._poll) * self._poll
        self._lively.add(post)
        return False

    def close(self) -> None:
        """Give the descriptors back. :meth:`due` must not run any more."""
        self._alarm.close()
