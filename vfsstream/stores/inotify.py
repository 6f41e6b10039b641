"""The kernel's notification of changes in files on Linux, as it is: what it tells is a hint, and may get lost."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator

__all__ = ["IGNORED", "MODIFY", "ONESHOT", "OVERFLOW", "Inotify"]

_EVENT = struct.Struct("iIII")
_NONBLOCK, _CLOEXEC = 0o4000, 0o2000000

MODIFY, OVERFLOW, IGNORED, ONESHOT = 0x2, 0x4000, 0x8000, 0x80000000
"""A file was written; events were lost; a watch is gone; tell once only."""


class Inotify:
    """One instance: a descriptor that can be polled, and any number of watches."""

    def __init__(self, library: ctypes.CDLL, descriptor: int) -> None:
        self._library, self.descriptor = library, descriptor

    @classmethod
    def open(cls) -> Inotify | None:
        """A new instance; ``None`` where there is no such thing, or when the user's limit of instances is used up."""
        if not sys.platform.startswith("linux"):
            return None
        library = ctypes.CDLL(None, use_errno=True)
        descriptor = int(library.inotify_init1(_NONBLOCK | _CLOEXEC))
        return cls(library, descriptor) if descriptor >= 0 else None

    def add(self, path: str | os.PathLike[str], mask: int) -> int:
        """The number of the watch of a path, a new one or the one it has; negative when there is none."""
        return int(self._library.inotify_add_watch(self.descriptor, os.fsencode(path), mask))

    def remove(self, watch: int) -> None:
        """Tell nothing of it any more."""
        self._library.inotify_rm_watch(self.descriptor, watch)

    def events(self) -> Iterator[tuple[int, int, bytes]]:
        """``(watch, mask, name)`` of everything that is to be told now."""
        while True:
            try:
                data = os.read(self.descriptor, 65536)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, at)
                start = at + _EVENT.size
                at = start + length
                yield watch, mask, data[start:at].rstrip(b"\0")

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)
