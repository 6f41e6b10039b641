"""Every database of a directory, those that come and go included.

Directories are watched by their modification time: it changes when an entry is created, removed or renamed, and does
not when a database is written. One ``stat`` per directory and look works on every platform and network file system;
events of the kernel would come in floods from the very databases that are being written, and stop at some mounts.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import TracebackType
from typing import Self

from vfsstream.errors import UsageError, VfsstreamError
from vfsstream.replica import Replica
from vfsstream.replicate.service import Service
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.sharedfiles import close_parked, open_shared
from vfsstream.replicate.timetable import MaintenanceSettings

__all__ = ["DirectorySettings", "DirectoryWatcher", "is_database", "join_url", "meta_dir_in", "scan"]

_log = logging.getLogger(__name__)

MAGIC = b"SQLite format 3\0"
_SIDECARS = ("-wal", "-shm", "-journal")
_COARSE = 2.0
"""Seconds: the coarsest resolution of modification times; a directory changed within it is looked at again."""
_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """Which databases of which directory.

    Attributes:
        directory: where they are.
        pattern: glob on the file name, as ``*.db``; case matters.
        recursive: look into subdirectories too; links to directories are not followed.
        interval: seconds between two looks for changes.
        settings: of each database; the service's when ``None``.
        maintenance: likewise.
        meta_dir: gives the place of a database's local files from its path relative to the directory.
    """

    directory: Path
    pattern: str
    recursive: bool = False
    interval: float = 0.25
    settings: Settings | None = None
    maintenance: MaintenanceSettings | None = None
    meta_dir: Callable[[PurePath], Path] | None = None

    def __post_init__(self) -> None:
        if not self.pattern or "/" in self.pattern:
            raise UsageError(f"pattern {self.pattern!r} must be a glob on the file name, as *.db")


def join_url(url: str, relative: PurePath) -> str:
    """The replica URL of one database: its relative path appended to the path of ``url``."""
    address, mark, query = url.partition("?")
    return f"{address.rstrip('/')}/{relative.as_posix()}{mark}{query}"


def meta_dir_in(root: Path, relative: PurePath) -> Path:
    """Where a database's local files go below a common directory, by Litestream's rule for ``meta-path``."""
    return root / relative.parent / f".{relative.name}-litestream"


def is_database(path: Path) -> bool:
    """Whether a file begins as SQLite databases do; an empty one is none yet.

    The file is closed in a way that does not take away the locks of a connection in this process.
    """
    try:
        file = open_shared(path)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(file.descriptor).st_mode) and file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
    finally:
        file.close()


def scan(directory: Path, pattern: str, *, recursive: bool = False) -> list[Path]:
    """The databases of a directory, sorted.

    Raises:
        UsageError: it is no directory, or cannot be read.
    """
    try:
        found = [path for path, _ in _candidates(directory, pattern, recursive, {})]
    except OSError as error:
        raise UsageError(f"cannot read directory {directory}: {error.strerror}") from error
    return sorted(path for path in found if is_database(path))


def _candidates(
    directory: Path, pattern: str, recursive: bool, times: dict[Path, int]
) -> Iterator[tuple[Path, int]]:
    """Matching files with their sizes; the modification time of each directory goes to ``times`` before it is read."""
    times[directory] = directory.stat().st_mtime_ns
    pattern = pattern.replace("[^", "[!")
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    ours = entry.name.startswith(".") and entry.name.endswith("-litestream")
                    if recursive and not ours:
                        yield from _candidates(Path(entry.path), pattern, recursive, times)
                elif fnmatch.fnmatchcase(entry.name, pattern) and not entry.name.endswith(_SIDECARS):
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        yield Path(entry.path), status.st_size
            except OSError:  # it went away, or is not ours to read
                continue


@dataclass
class _Retry:
    at: float
    pause: float = field(default=_FIRST_RETRY)


class DirectoryWatcher:
    """Registers the databases of a directory with a service, and unregisters those that disappear.

    Args:
        replica: gives each database's replica from its path relative to the directory: a URL, or a function that
            opens it.
    """

    def __init__(
        self,
        service: Service,
        settings: DirectorySettings,
        replica: Callable[[PurePath], str | Callable[[], Replica]],
    ) -> None:
        self.service, self.settings = service, settings
        self.directory = settings.directory.absolute()
        self._replica = replica
        self._managed: set[Path] = set()  # touched by whoever runs look(), one at a time
        self._leaving: set[Path] = set()  # guarded by _lock
        self._times: dict[Path, int] = {}
        self._unsettled = True
        self._retries: dict[Path, _Retry] = {}
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._closers: ThreadPoolExecutor | None = None

    @property
    def managed(self) -> list[Path]:
        """The databases registered by this watcher."""
        return sorted(self._managed)

    def start(self, *, watch: bool = True) -> None:
        """Register what is there, and with ``watch`` go on looking.

        Raises:
            UsageError: no such directory; or no database in it and nothing to wait for.
        """
        if not self.directory.is_dir():
            raise UsageError(f"{self.directory} is not a directory")
        self.look()
        if not watch:
            if not self._managed:
                raise UsageError(
                    f"no database in {self.directory} matches {self.settings.pattern}",
                    hint="watch the directory to wait for the first one",
                )
            return
        self._thread = threading.Thread(target=self._loop, name="vfsstream-directory", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stop.wait(self.settings.interval):
            try:
                if self._has_changed():
                    self.look()
            except Exception:
                _log.exception("watching %s failed", self.directory)
                self._stop.wait(1.0)

    def _has_changed(self) -> bool:
        now = time.monotonic()
        if self._unsettled or any(retry.at <= now for retry in self._retries.values()):
            return True
        for directory, before in self._times.items():
            try:
                if directory.stat().st_mtime_ns != before:
                    return True
            except OSError:
                return True
        return False

    def look(self) -> None:
        """Compare the directory with what is registered, once."""
        with self._looking:
            times: dict[Path, int] = {}
            try:
                found = dict(_candidates(self.directory, self.settings.pattern, self.settings.recursive, times))
            except OSError:
                found = {}
            newest = max(times.values(), default=0)
            empty = any(size == 0 for path, size in found.items() if path not in self._managed)
            self._unsettled = empty or time.time() - newest / 1e9 < _COARSE
            self._times = times
            for path in sorted(self._managed - set(found)):
                self._remove(path)
            for path in sorted(set(found) - self._managed):
                self._add(path)
            close_parked()

    def _add(self, path: Path) -> None:
        retry = self._retries.get(path)
        with self._lock:
            busy = path in self._leaving
        if busy or (retry is not None and retry.at > time.monotonic()) or not is_database(path):
            self._unsettled = self._unsettled or busy
            return
        settings, relative = self.settings, path.relative_to(self.directory)
        try:
            self.service.register(
                path,
                self._replica(relative),
                settings=settings.settings,
                maintenance=settings.maintenance,
                meta_dir=settings.meta_dir(relative) if settings.meta_dir else None,
            )
        except VfsstreamError as error:
            pause = min(_LAST_RETRY, retry.pause * 2) if retry else _FIRST_RETRY
            self._retries[path] = _Retry(time.monotonic() + pause, pause)
            _log.error("%s is not replicated: %s", path, error)
            return
        self._retries.pop(path, None)
        self._managed.add(path)
        _log.info("replicating %s", path)

    def _remove(self, path: Path) -> None:
        self._managed.discard(path)
        with self._lock:
            self._leaving.add(path)
        if self._closers is None:
            self._closers = ThreadPoolExecutor(4, thread_name_prefix="vfsstream-leave")
        self._closers.submit(self._leave, path)

    def _leave(self, path: Path) -> None:
        try:
            result = self.service.unregister(path)
            if result is not None and not result.uploaded:
                _log.warning("%s disappeared before everything was in its replica: %s", path, result.error)
        except Exception:
            _log.exception("closing %s failed", path)
        finally:
            with self._lock:
                self._leaving.discard(path)
            self._unsettled = True

    def close(self) -> None:
        """Stop looking. What is registered stays so: closing it is the service's."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._closers is not None:
            self._closers.shutdown(wait=True)
            self._closers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
