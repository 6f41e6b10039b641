"""Descriptors of files that SQLite connections of this process may have locked.

Closing any descriptor of a file drops all POSIX locks that the process has on it, whoever took them
(https://sqlite.org/howtocorrupt.html, 2.2). And nobody can look whether a file is in use and close in one step: a
connection may open and lock it in between. So descriptors are parked instead, and serve the next who opens the same
file. A file that has no name any more cannot be opened again: of such a one a look is proof. So it is of every file in
a process whose only connections are those that open inside :func:`opening`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections import Counter
from collections.abc import Iterator

__all__ = ["SharedFile", "be_alone", "close_parked", "identity_of", "open_shared", "opening"]

Identity = tuple[int, int]

_MOST = 64
"""Descriptors parked before those that nobody seems to use are closed, on the strength of a look."""


def identity_of(status: os.stat_result) -> Identity:
    """(device, inode)."""
    return status.st_dev, status.st_ino


class SharedFile:
    """An open file, read-only.

    Attributes:
        descriptor: of whoever opened it, until it is closed.
        mapping: of its first bytes, once asked for. It holds a duplicate of the descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.mapping: mmap.mmap | None = None

    def map(self, length: int) -> mmap.mmap:
        """The first ``length`` bytes, always the same number for one file.

        Raises:
            ValueError: the file is shorter.
            OSError: it cannot be mapped.
        """
        if self.mapping is None:
            self.mapping = mmap.mmap(self.descriptor, length, access=mmap.ACCESS_READ)
        return self.mapping

    def read(self, length: int) -> bytes:
        """Up to ``length`` bytes of its begin.

        Raises:
            OSError: it cannot be read.
        """
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return os.read(self.descriptor, length)

    def identity(self) -> Identity:
        """(device, inode)."""
        return identity_of(os.fstat(self.descriptor))

    def is_open_here(self) -> bool:
        """Whether this process has the file open by more than this descriptor, as far as that can be told."""
        open_here = _open_files()
        return open_here is not None and open_here[self.identity()] > self._count()

    def close(self) -> None:
        """Close it when that takes nobody's locks, or park it until it does or is wanted again."""
        if os.name == "nt":  # locks belong to the handle there, and an open one keeps the file from being deleted
            self._close()
            return
        with _lock:
            _parked.append(self)
            _close_some()

    def _count(self) -> int:
        return 1 if self.mapping is None else 2

    def _close(self) -> None:
        if self.mapping is not None:
            self.mapping.close()
        os.close(self.descriptor)


_parked: list[SharedFile] = []
_next_look = _MOST
_alone = False
_openings = 0
_lock = threading.Lock()  # guards the four above


def be_alone(alone: bool = True) -> None:
    """Say that nobody in this process opens databases but the replicator."""
    global _alone
    with _lock:
        _alone = alone


@contextlib.contextmanager
def opening() -> Iterator[None]:
    """While a connection opens its files: until it has them open, a look does not see it."""
    global _openings
    with _lock:
        _openings += 1
    try:
        yield
    finally:
        with _lock:
            _openings -= 1
            if not _openings:
                _close_some()


def close_parked() -> None:
    """Close what may be closed by now. Of a file that was deleted meanwhile the disk gets its space back."""
    with _lock:
        _close_some()


def open_shared(path: str | os.PathLike[str]) -> SharedFile:
    """Open a file to read, by the descriptor that is parked if there is one.

    Raises:
        OSError: it cannot be opened.
    """
    with _lock:
        if _parked:
            wanted = identity_of(os.stat(path))
            for one in _parked:
                if one.identity() == wanted:
                    _parked.remove(one)
                    return one
    names = ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK")  # the last against a named pipe
    return SharedFile(os.open(path, os.O_RDONLY | sum(getattr(os, name, 0) for name in names)))


def _close_some() -> None:
    """Close those whose file is gone, and, when many are parked, those of files that nobody here seems to have."""
    global _next_look
    if not _parked:
        return
    status = [os.fstat(one.descriptor) for one in _parked]
    every = len(_parked) > _next_look or (_alone and not _openings)
    if not every and all(one.st_nlink for one in status):
        return
    open_here = _open_files()
    if open_here is None:
        return
    ours: Counter[Identity] = Counter()
    for one, found in zip(_parked, status, strict=True):
        ours[identity_of(found)] += one._count()
    kept: list[SharedFile] = []
    for one, found in zip(_parked, status, strict=True):
        identity = identity_of(found)
        if (found.st_nlink and not every) or open_here[identity] > ours[identity]:
            kept.append(one)
        else:
            one._close()
    _parked[:] = kept
    _next_look = max(_MOST, 2 * len(kept))


def _open_files() -> Counter[Identity] | None:
    """How often the process has each file open, or ``None`` when that cannot be told: then anybody may."""
    found: Counter[Identity] = Counter()
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd") if name.isdecimal()]
    except OSError:  # no such directory on this platform, or no descriptor left to read it
        return None
    for number in numbers:
        with contextlib.suppress(OSError):
            found[identity_of(os.fstat(number))] += 1
    return found
