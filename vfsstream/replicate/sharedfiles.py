"""Descriptors of files that SQLite connections of this process may have locked.

Closing any descriptor of a file drops all POSIX locks that the process has on it, whoever took them
(https://sqlite.org/howtocorrupt.html, 2.2). So such a descriptor is closed only when nobody else here has the file
open, and kept until then.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections import Counter
from dataclasses import dataclass

__all__ = ["close_shared", "identity_of", "is_open_here"]

Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A descriptor, and the mapping made of it, which holds a duplicate of it."""

    descriptor: int
    mapping: mmap.mmap | None

    @property
    def count(self) -> int:
        return 1 if self.mapping is None else 2

    def close(self) -> None:
        if self.mapping is not None:
            self.mapping.close()
        os.close(self.descriptor)


_kept: list[_Kept] = []
_lock = threading.Lock()


def identity_of(status: os.stat_result) -> Identity:
    """(device, inode)."""
    return status.st_dev, status.st_ino


def close_shared(descriptor: int, mapping: mmap.mmap | None = None) -> None:
    """Close a descriptor and its mapping, or keep both while others in the process have the file open.

    What is kept is tried again at every later call.
    """
    with _lock:
        _kept.append(_Kept(descriptor, mapping))
        open_here = _open_files()
        kept: dict[Identity, list[_Kept]] = {}
        for one in _kept:
            kept.setdefault(identity_of(os.fstat(one.descriptor)), []).append(one)
        _kept.clear()
        for identity, group in kept.items():
            if open_here is None or open_here[identity] > sum(one.count for one in group):
                _kept.extend(group)
                continue
            for one in group:
                one.close()


def is_open_here(descriptor: int) -> bool:
    """Whether this process has the file open by more than this descriptor, as far as that can be told."""
    with _lock:
        open_here = _open_files()
        if open_here is None:
            return False
        identity = identity_of(os.fstat(descriptor))
        kept = sum(one.count for one in _kept if identity_of(os.fstat(one.descriptor)) == identity)
        return open_here[identity] > kept + 1


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
