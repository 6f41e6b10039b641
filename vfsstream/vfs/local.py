"""Pages in local files: the disk cache and the hydrated database, behind one small face."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from vfsstream.errors import OptionError
from vfsstream.replica import Replica
from vfsstream.vfs.diskcache import DiskCache, directory_for
from vfsstream.vfs.hydrate import Hydrator, RangeGiver
from vfsstream.vfs.hydrate_file import NamedCopy
from vfsstream.vfs.options import Options
from vfsstream.vfs.view import View

__all__ = ["Engine", "LocalPages", "open_local"]

logger = logging.getLogger("vfsstream.vfs")


class Engine(RangeGiver, Protocol):
    """The fetch engine, as far as local files know it."""

    options: Options
    replica: Replica


class LocalPages:
    """What is held locally.

    Args:
        disk: the disk cache, if one is wanted.
        hydrator: the local copy, if one is wanted.
    """

    def __init__(self, disk: DiskCache | None = None, hydrator: Hydrator | None = None) -> None:
        self.disk, self.hydrator = disk, hydrator

    def page(self, pgno: int, version: int) -> bytes | None:
        """The page, or ``None``."""
        found = self.hydrator.page(pgno, version) if self.hydrator is not None else None
        if found is None and self.disk is not None:
            found = self.disk.page(pgno, version)
        return found

    def has(self, pgno: int, version: int) -> bool:
        """Is the page here? A hint."""
        return self.disk is not None and self.disk.has(pgno, version)

    def store(self, pgno: int, version: int, page: bytes) -> None:
        """A page was fetched."""
        if self.disk is not None:
            self.disk.store(pgno, version, page)

    def advanced(self, view: View) -> None:
        """A newer view became current."""
        if self.disk is not None:
            self.disk.learn(view.files)
        if self.hydrator is not None:
            self.hydrator.follow(view)

    def progress(self) -> tuple[float, str]:
        """Percent held by the local copy, and its path."""
        return self.hydrator.progress() if self.hydrator is not None else (0.0, "")

    def after_fork(self) -> None:
        """In a child process: the thread that hydrates is the parent's; what it wrote may change under us."""
        self.hydrator = None
        if self.disk is not None:
            self.disk.restart()

    def close(self) -> None:
        """Close files, end the thread."""
        if self.hydrator is not None:
            self.hydrator.close()
        if self.disk is not None:
            self.disk.close()


def require_locks() -> None:
    """Refuse to hydrate where a local copy cannot be changed under SQLite's locks.

    Raises:
        OptionError: this system has no POSIX file locks.
    """
    if find_spec("fcntl") is None:
        raise OptionError(
            "hydration_enabled: this system has no POSIX file locks, under which the copy is kept up to date",
            hint="cache_dir= keeps pages locally without them",
        )


def open_local(engine: Engine, view: View) -> LocalPages:
    """The local files that the options ask for.

    Raises:
        OptionError: a directory that cannot be used, or a path with a file that is not ours.
    """
    options, disk, hydrator = engine.options, None, None
    if options.cache_dir is not None:
        directory = directory_for(options.cache_dir, engine.replica.describe())
        disk = DiskCache(directory, view.page_size, options.disk_cache_size, view.files)
    if options.hydration_enabled:
        require_locks()
        copy = None
        if options.hydration_path:
            path = Path(options.hydration_path).expanduser().absolute()
            copy = NamedCopy.claim(path, engine.replica.describe())
            if copy is None:
                logger.warning("%s is kept current by another reader: hydrating a file of our own", path)
        hydrator = Hydrator(engine, view, copy)
        hydrator.start()
    return LocalPages(disk, hydrator)
