"""Being told by the kernel that a log is written: one descriptor for all databases, no polling while nothing happens.

Each watch fires once and is set anew when its database is quiet again, so that constant writing costs nothing. The
wal-index cannot be watched, because it is changed through memory; the log is appended to with ordinary writes. What
is told is a hint: whoever relies on it looks at every database now and then all the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Alarm"]

_EVENT = struct.Struct("iIII")
_NONBLOCK, _CLOEXEC = 0o4000, 0o2000000
_MODIFY, _OVERFLOW, _IGNORED, _ONESHOT = 0x2, 0x4000, 0x8000, 0x80000000

T = TypeVar("T")


class Alarm(Generic[T]):
    """Sleeps until a watched file is written, somebody calls :meth:`wake`, or time is up.

    :meth:`wake` may be called from any thread, everything else from one.

    Args:
        kernel: use the kernel's notification where there is one.
    """

    def __init__(self, *, kernel: bool = True) -> None:
        self._inotify = _Inotify() if kernel and sys.platform.startswith("linux") else None
        self._watched: dict[int, T] = {}
        self._lock = threading.Lock()  # guards _waking
        self._wakes, self._waking = os.pipe()
        os.set_blocking(self._wakes, False)
        os.set_blocking(self._waking, False)
        self._poll = _poller(self._wakes, self._inotify.descriptor if self._inotify else -1)

    def arm(self, path: str, item: T) -> bool:
        """Tell the next write to a file as ``item``; ``False`` when that cannot be promised."""
        if self._inotify is None or self._inotify.descriptor < 0:
            return False
        watch = self._inotify.add(path)
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
        for watch, mask in self._inotify.events():
            lost |= bool(mask & _OVERFLOW)
            item = self._watched.pop(watch, None)
            if item is not None and not mask & _IGNORED:
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


class _Inotify:
    """The kernel's notification as it is; ``descriptor`` is -1 when the user's limit of instances is used up."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self.descriptor = int(self._library.inotify_init1(_NONBLOCK | _CLOEXEC))

    def add(self, path: str) -> int:
        return int(self._library.inotify_add_watch(self.descriptor, os.fsencode(path), _MODIFY | _ONESHOT))

    def remove(self, watch: int) -> None:
        self._library.inotify_rm_watch(self.descriptor, watch)

    def events(self) -> Iterator[tuple[int, int]]:
        """(watch, mask) of everything that is to be told."""
        while self.descriptor >= 0:
            try:
                data = os.read(self.descriptor, 65536)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, at)
                yield watch, mask
                at += _EVENT.size + length

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
