"""Pages in memory, shared by all connections of a process: decoded pages that were asked for, and compressed
windows whose frames are decoded on first use. Both have a budget in bytes; neither does any I/O.

The key is (page number, version), so no page is ever stale: a newer view asks for another version.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from vfsstream.vfs.ranges import Frame

__all__ = ["PageCache", "Windows"]

Key = tuple[int, int]
OVERHEAD = 200
"""Bytes that an entry costs beside its page."""


class PageCache:
    """Decoded pages. A hit is one look into a dictionary; pages hit since their last turn are spared once.

    Interior pages of b-trees are pinned: they go last, as long as they fill no more than half of the budget.

    Args:
        budget: bytes; at least one page is always kept.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.size = self._pinned_size = 0
        self._entries: dict[Key, list[bytes | bool]] = {}
        self._turn: deque[Key] = deque()
        self._pinned: set[Key] = set()
        self._lock = threading.Lock()

    def hot(self, pgno: int, version: int) -> bytes | None:
        """The page, or ``None``."""
        entry = self._entries.get((pgno, version))
        if entry is None:
            return None
        entry[1] = True
        return entry[0]  # type: ignore[return-value]

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, pgno: int, version: int, page: bytes, *, pin: bool = False) -> None:
        """Keep a page; others go when the budget is spent."""
        key = (pgno, version)
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = [page, False]
            self._turn.append(key)
            self.size += len(page) + OVERHEAD
            if pin:
                self._pinned.add(key)
                self._pinned_size += len(page) + OVERHEAD
            self._shrink(key)

    def _shrink(self, newest: Key) -> None:
        spared = 0
        while self.size > self.budget and len(self._entries) > 1:
            key = self._turn.popleft()
            entry = self._entries[key]
            pinned = key in self._pinned and self._pinned_size * 2 <= self.budget
            if key == newest or ((entry[1] or pinned) and spared <= 2 * len(self._turn)):
                entry[1] = False
                spared += 1
                self._turn.append(key)
                continue
            self._drop(key)

    def _drop(self, key: Key) -> None:
        cost = len(self._entries.pop(key)[0]) + OVERHEAD  # type: ignore[arg-type]
        self.size -= cost
        if key in self._pinned:
            self._pinned.discard(key)
            self._pinned_size -= cost

    def restart(self) -> None:
        """After a fork: the lock may be held by a thread that does not exist here."""
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._turn.clear()
            self._pinned.clear()
            self.size = self._pinned_size = 0


class _Window:
    __slots__ = ("data", "frames", "start")

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.start = memoryview(data), start
        self.frames: dict[Key, Frame] = {}


class Windows:
    """Compressed windows as they came from the store. A frame is handed out once; a window whose frames are
    all handed out is gone, and the oldest go when the budget is spent.

    Attributes:
        wasted: bytes of frames that were dropped unused.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.size = self.wasted = 0
        self._frames: dict[Key, _Window] = {}
        self._windows: OrderedDict[int, _Window] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Key) -> bool:
        return key in self._frames

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, data: bytes, start: int, frames: tuple[Frame, ...]) -> None:
        """Keep the frames of a range that began at byte ``start`` of its file."""
        window = _Window(data, start)
        with self._lock:
            for frame in frames:
                key = (frame.pgno, frame.version)
                if key not in self._frames:
                    window.frames[key] = frame
                    self._frames[key] = window
            if not window.frames:
                return
            self._windows[id(window)] = window
            self.size += len(data)
            while self.size > self.budget and len(self._windows) > 1:
                self._forget(next(iter(self._windows.values())))

    def take(self, pgno: int, version: int) -> memoryview | None:
        """The frame of a page, which is then no longer here."""
        key = (pgno, version)
        with self._lock:
            window = self._frames.pop(key, None)
            if window is None:
                return None
            frame = window.frames.pop(key)
            if not window.frames:
                self._forget(window)
        begin = frame.offset - window.start
        return window.data[begin : begin + frame.size]

    def _forget(self, window: _Window) -> None:
        if self._windows.pop(id(window), None) is None:
            return
        self.size -= len(window.data)
        for key, frame in window.frames.items():
            self._frames.pop(key, None)
            self.wasted += frame.size

    def restart(self) -> None:
        """After a fork: the lock may be held by a thread that does not exist here."""
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._frames.clear()
            self._windows.clear()
            self.size = 0
