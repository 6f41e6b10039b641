"""Wake a caller when something changes in a directory: inotify on Linux, a cheap comparison elsewhere.

A network file system tells the kernel nothing of what other machines change, so the comparison runs on Linux too,
only less often.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from vfsstream.stores.inotify import Inotify

__all__ = ["watch_directory"]

log = logging.getLogger("vfsstream.stores")

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
        self._kernel = Inotify.open()
        self._ended, self._ending = os.pipe()
        self._stopped = threading.Event()
        self._stopping = threading.Lock()
        self._seen = _state(path)
        if self._kernel is None and sys.platform.startswith("linux"):
            log.info("no inotify instance is left: folders are compared every %s s", _COMPARE_ALONE_SECONDS)
        self._watch_directories()
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
        told = told and self._is_told()
        state = _state(self._path)
        if self._kernel and state.keys() != self._seen.keys():
            self._watch_directories()
            state = _state(self._path)  # what came in before the new watch is seen by comparison
        different, existed, self._seen = state != self._seen, bool(self._seen), state
        if not existed and not state:  # other children of the directory above
            return
        # A temporary name changes the time of its directory too: with a kernel that tells, only what it tells counts,
        # and the comparison is for the changes it cannot see.
        if told or (different and not (self._kernel and self._temporary_only())):
            self._notify()

    def _watch_directories(self) -> None:
        if self._kernel is not None:
            for directory in _directories(self._path):
                self._kernel.add(directory, _CHANGES)

    def _is_told(self) -> bool:
        """Take what the kernel has to tell; whether it concerns a name that counts."""
        names = [name for _, _, name in self._kernel.events()] if self._kernel is not None else []
        return any(not name.endswith(self._hidden) for name in names)

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
