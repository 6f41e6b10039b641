"""Wake a caller when something changes in a directory: inotify on Linux, a cheap comparison elsewhere.

A network file system tells the kernel nothing of what other machines change, so the comparison runs on Linux too,
only less often.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["watch_directory"]

log = logging.getLogger("vfsstream.stores")

_EVENT = struct.Struct("iIII")
_IN_NONBLOCK, _IN_CLOEXEC = 0o4000, 0o2000000
_CHANGES = (
    0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
)  # close-write, moves, create, delete, the directory's own
_COMPARE_SECONDS = 2.0
_COMPARE_ALONE_SECONDS = 0.5


def watch_directory(path: Path, wake: Callable[[], None], *, hidden_suffix: str = ".tmp") -> Callable[[], None]:
    """Call ``wake`` from a thread of its own after each change below ``path``, which need not exist yet.

    Several changes close together may cause one call. Names that end with ``hidden_suffix`` do not count.

    Returns:
        A function that ends the watch and joins its thread. It may be called from ``wake`` itself.
    """
    watcher = _Watcher(path, wake, hidden_suffix)
    watcher.start()
    return watcher.stop


class _Watcher:
    def __init__(self, path: Path, wake: Callable[[], None], hidden_suffix: str) -> None:
        self._path, self._wake, self._hidden = path, wake, os.fsencode(hidden_suffix)
        self._kernel = _Inotify.open()
        self._ended, self._ending = os.pipe()
        self._stopped = threading.Event()
        self._stopping = threading.Lock()
        self._seen = _state(path)
        if self._kernel:
            self._kernel.watch(_directories(path))
        self._thread = threading.Thread(target=self._run, name="vfsstream-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._stopping:
            if not self._stopped.is_set():
                os.write(self._ending, b"x")  # before the flag: once it is set the thread closes the pipe
                self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(30)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        if self._kernel:
            poll.register(self._kernel.descriptor, select.POLLIN)
        pause = _COMPARE_SECONDS if self._kernel else _COMPARE_ALONE_SECONDS
        try:
            while not self._stopped.is_set():
                told = [fd for fd, _ in poll.poll(pause * 1000) if fd != self._ended]
                if self._stopped.is_set():
                    return
                self._look(bool(told))
        finally:
            if self._kernel:
                self._kernel.close()
            os.close(self._ended)
            os.close(self._ending)

    def _look(self, told: bool) -> None:
        told = told and self._kernel is not None and self._kernel.changed(self._hidden)
        state = _state(self._path)
        if self._kernel and state.keys() != self._seen.keys():
            self._kernel.watch(_directories(self._path))
            state = _state(self._path)  # what came in before the new watch is seen by comparison
        different, existed, self._seen = state != self._seen, bool(self._seen), state
        if not existed and not state:  # other children of the directory above
            return
        # A temporary name changes the time of its directory too: with a kernel that tells, only what it tells counts,
        # and the comparison is for the changes it cannot see.
        if told or (different and not (self._kernel and self._temporary_only())):
            self._notify()

    def _temporary_only(self) -> bool:
        """Whether an unfinished file is there: its end will be told."""
        hidden = os.fsdecode(self._hidden)
        return any(name.endswith(hidden) for directory in self._seen for name in _names(directory))

    def _notify(self) -> None:
        try:
            self._wake()
        except Exception:
            log.exception("the function to call after a change in %s failed", self._path)


def _directories(path: Path) -> list[Path]:
    """What to watch: the directory and those below it, or the nearest one above that exists."""
    if path.is_dir():
        return [path, *(Path(root) / name for root, names, _ in os.walk(path) for name in names)]
    return [next(parent for parent in path.parents if parent.is_dir())]


def _state(path: Path) -> Mapping[str, int]:
    """The modification times of the directory and those below it; empty while there is none."""
    found = {}
    for directory in _directories(path) if path.is_dir() else []:
        with contextlib.suppress(OSError):
            found[str(directory)] = directory.stat().st_mtime_ns
    return found


def _names(directory: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(directory)
    return []


class _Inotify:
    """The kernel's notification, without its races hidden: the caller compares after each change of the watches."""

    def __init__(self, library: ctypes.CDLL, descriptor: int) -> None:
        self._library, self.descriptor = library, descriptor

    @classmethod
    def open(cls) -> _Inotify | None:
        if not sys.platform.startswith("linux"):
            return None
        library = ctypes.CDLL(None, use_errno=True)
        descriptor = library.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if descriptor < 0:  # the user's limit of instances is used up
            log.info("no inotify instance is left: folders are compared every %s s", _COMPARE_ALONE_SECONDS)
            return None
        return cls(library, descriptor)

    def watch(self, directories: list[Path]) -> None:
        """Watch these too; one that is watched already stays so."""
        for directory in directories:
            self._library.inotify_add_watch(self.descriptor, os.fsencode(directory), _CHANGES)

    def changed(self, hidden_suffix: bytes) -> bool:
        """Take what the kernel has to tell; whether it concerns a name that counts."""
        counts = False
        while True:
            try:
                events = os.read(self.descriptor, 65536)
            except BlockingIOError:
                return counts
            at = 0
            while at < len(events):
                _, _, _, length = _EVENT.unpack_from(events, at)
                name = events[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
                counts = counts or not name.endswith(hidden_suffix)
                at += _EVENT.size + length

    def close(self) -> None:
        os.close(self.descriptor)
