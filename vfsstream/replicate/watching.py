"""Being told by the kernel that a log is written: one descriptor for all databases, no polling while nothing happens.

Each watch fires once and is set anew when its database is quiet again, so that constant writing costs nothing. The
wal-index cannot be watched, because it is changed through memory; the log is appended to with ordinary writes. What
is told is a hint: whoever relies on it looks at every database now and then all the same.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import Generic, TypeVar

from vfsstream.stores.inotify import IGNORED, MODIFY, ONESHOT, OVERFLOW, Inotify

__all__ = ["Alarm"]

T = TypeVar("T")


class Alarm(Generic[T]):
    """Sleeps until a watched file is written, somebody calls :meth:`wake`, or time is up.

    :meth:`wake` may be called from any thread, everything else from one.

    Args:
        kernel: use the kernel's notification where there is one.
    """

    def __init__(self, *, kernel: bool = True) -> None:
        self._inotify = Inotify.open() if kernel else None
        self._watched: dict[int, T] = {}
        self._lock = threading.Lock()  # guards _waking
        self._wakes, self._waking = os.pipe()
        os.set_blocking(self._wakes, False)
        os.set_blocking(self._waking, False)
        self._poll = _poller(self._wakes, self._inotify.descriptor if self._inotify else -1)

    def arm(self, path: str, item: T) -> bool:
        """Tell the next write to a file as ``item``; ``False`` when that cannot be promised."""
        if self._inotify is None:
            return False
        watch = self._inotify.add(path, MODIFY | ONESHOT)
        if watch < 0:  # no such file, or no watch left
            return False
        self._watched[watch] = item
        return True

    def disarm(self, item: T) -> None:
        """Tell nothing of it any more."""
        for watch in [watch for watch, watched in self._watched.items() if watched == item]:
            del self._watched[watch]
            if self._inotify is not None:
                self._inotify.remove(watch)

    def wake(self) -> None:
        """End the current or the next sleep."""
        with self._lock, contextlib.suppress(BlockingIOError):  # full: it will wake
            if self._waking >= 0:
                os.write(self._waking, b"x")

    def wait(self, seconds: float) -> list[T] | None:
        """Sleep; returns whose files were written since they were armed; ``None`` when any may have been."""
        self._poll(max(0.0, seconds))
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakes, 4096)
        if self._inotify is None:
            return []
        written: list[T] = []
        lost = False
        for watch, mask, _ in self._inotify.events():
            lost |= bool(mask & OVERFLOW)
            item = self._watched.pop(watch, None)
            if item is not None and not mask & IGNORED:
                written.append(item)
        if lost:
            self._watched.clear()
            return None
        return written

    def close(self) -> None:
        """Give the descriptors back. No other call may run or follow, except :meth:`wake`. Idempotent."""
        with self._lock:  # so that nobody writes to the number when it means another file
            if self._waking < 0:
                return
            os.close(self._waking)
            self._waking = -1
        os.close(self._wakes)
        if self._inotify is not None:
            self._inotify.close()


def _poller(*descriptors: int):  # type: ignore[no-untyped-def]
    if not hasattr(select, "poll"):  # pragma: no cover - Windows: select() takes only sockets there
        import time

        return lambda seconds: time.sleep(min(seconds, 0.01))
    poll = select.poll()
    for descriptor in descriptors:
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
    return lambda seconds: poll.poll(seconds * 1000)
