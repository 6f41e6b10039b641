"""Whether files of a directory can have been exchanged: its modification time tells, for all of them at once.

Creating, deleting or renaming an entry changes the time of the directory, writing to a file does not. One call per
directory and second replaces several per database.
"""

from __future__ import annotations

import os
import time
import weakref
from pathlib import Path

__all__ = ["DirectoryTime", "Mark", "directory_of"]

Mark = tuple[int, int, int]
"""Device and inode of a directory, and its time in nanoseconds."""

_COARSE = 4.0  # seconds: a change within the resolution of the file system's clock may leave the time as it is
_FRESH = 0.2


class DirectoryTime:
    """One directory. Any thread may ask."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._asked = 0.0
        self._mark: Mark | None = None

    def mark(self, now: float) -> Mark | None:
        """The directory as it was at monotonic ``now`` or a fifth of a second before.

        While two marks are equal no entry was exchanged between them. ``None`` while that cannot be said.
        """
        if now - self._asked >= _FRESH:
            mark = _read(self._path)
            self._mark, self._asked = mark, now
        return self._mark


def _read(path: str) -> Mark | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    age = time.time() - status.st_mtime_ns / 1e9
    if -_COARSE < age < _COARSE:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


class _Never(DirectoryTime):
    def mark(self, now: float) -> Mark | None:
        return None


_known: weakref.WeakValueDictionary[str, DirectoryTime] = weakref.WeakValueDictionary()


def directory_of(file: Path) -> DirectoryTime:
    """The directory of a file, shared by all who ask; a file behind a link can be exchanged elsewhere."""
    if os.path.islink(file):  # False for what may not be looked at; opening says so
        return _Never("")
    path = str(file.parent)
    return _known.setdefault(path, DirectoryTime(path))
