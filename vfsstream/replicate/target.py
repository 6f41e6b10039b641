"""The file that a restore makes: built beside the target under a name of its own, swapped in when complete."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from vfsstream.errors import DatabaseError, DiskFull
from vfsstream.replica.positioned import write_at
from vfsstream.replicate.partial import Note, Partial, lock_file, new_path, remove_note, remove_stale, save_note
from vfsstream.replicate.sharedfiles import open_shared
from vfsstream.stores.file import sync_directory

__all__ = ["SIDECARS", "Target", "check_target"]

SIDECARS = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database; an old one beside a new database would be replayed into it."""

_VECTOR = 512
"""Pieces of one write; POSIX promises no more than 1024 anywhere that matters."""

_FLUSH = 8 << 20
_ROW_GAP = 1 << 20


def check_target(output: Path, *, force: bool) -> None:
    """Refuse a target that a restore would harm; touches nothing.

    Raises:
        DatabaseError: a directory, an existing database or sidecar without ``force``, or a database in use.
    """
    if output.is_dir():
        raise DatabaseError(f"cannot restore to {output}: it is a directory", hint="name a file with -o")
    present = [path for path in _sidecars(output) if path.exists()]
    if not force:
        if output.exists() and output.stat().st_size > 0:
            raise DatabaseError(
                f"cannot restore, output path already exists and is not empty: {output}",
                hint="use -force to overwrite",
            )
        if present:
            raise DatabaseError(
                f"cannot restore, SQLite sidecar path already exists: {present[0]}",
                hint="it belongs to another database and would be replayed; remove it or use -force",
            )
    elif output.exists() and _is_open(output):
        raise DatabaseError(
            f"cannot restore to {output}: a program has this database open", hint="stop the program first"
        )


class Target:
    """A database file under construction. Leaves nothing behind unless :meth:`publish` was reached.

    Args:
        output: where the finished database goes.
        size: its bytes, checked against the free space first.
        partial: what a killed restore left, to go on with.

    Raises:
        DiskFull: not enough room.
        DatabaseError: the directory cannot be written.
    """

    def __init__(self, output: Path, size: int, partial: Partial | None = None) -> None:
        self.output = output
        self.size = size
        self._flushed = self._end = 0
        self.descriptor = -1 if partial is None else partial.descriptor
        self.path = new_path(output) if partial is None else partial.path
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            remove_stale(output, keep=self.path)
            remove_note(self.path)
            self._check_room()
            if partial is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
                self.descriptor = os.open(self.path, flags, 0o666)
                lock_file(self.descriptor)
        except OSError as error:
            self._close()
            self.fail(error)

    def _check_room(self) -> None:
        held = os.fstat(self.descriptor).st_size if self.descriptor >= 0 else 0
        free = shutil.disk_usage(self.output.parent).free
        if free < self.size - held:
            raise DiskFull(
                f"{self.output.parent}: {free} bytes free, the database needs {self.size - held}",
                hint="free some space",
            )

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write bytes at an offset."""
        view = memoryview(data)
        try:
            while view:
                done = write_at(self.descriptor, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            self.fail(error)

    def write_pages(self, pages: Sequence[memoryview], offset: int) -> None:
        """Write neighbouring pages without joining them first."""
        if not hasattr(os, "pwritev"):  # pragma: no cover - Windows, macOS before 11
            self.write(b"".join(pages), offset)
            return
        for start in range(0, len(pages), _VECTOR):
            some = pages[start : start + _VECTOR]
            size = sum(len(page) for page in some)
            try:
                done = os.pwritev(self.descriptor, some, offset)
            except OSError as error:
                self.fail(error)
            if done != size:  # the disk is nearly full, or a signal came
                self.write(b"".join(some)[done:], offset + done)
            offset += size
        self._start_writing(offset - sum(map(len, pages)), offset)

    def _start_writing(self, start: int, end: int) -> None:
        """Send what was written in a row on its way to the disk, so that the final sync finds little to do."""
        if not 0 <= start - self._end < _ROW_GAP:
            self._flushed = start
        self._end = end
        if end - self._flushed >= _FLUSH and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # a hint
                os.posix_fadvise(self.descriptor, self._flushed, end - self._flushed, os.POSIX_FADV_DONTNEED)
            self._flushed = end

    def save(self, note: Note) -> None:
        """Make what was written durable, and note how far it is: a restore after a kill goes on from there."""
        try:
            getattr(os, "fdatasync", os.fsync)(self.descriptor)
            save_note(self.path, note)
        except OSError as error:
            self.fail(error)

    def complete(self) -> None:
        """Give the file its final size and make it durable under its temporary name."""
        try:
            os.ftruncate(self.descriptor, self.size)
            os.fsync(self.descriptor)
        except OSError as error:
            self.fail(error)

    def publish(self) -> None:
        """Swap the file in: old sidecars go first, so that they never stand beside the new database."""
        try:
            if os.name == "nt":  # pragma: no cover
                self._close()  # an open file cannot be renamed there; elsewhere it stays locked
            if self.output.exists():
                os.chmod(self.path, self.output.stat().st_mode & 0o7777)
            for sidecar in _sidecars(self.output):
                sidecar.unlink(missing_ok=True)
            os.replace(self.path, self.output)
            self._close()
            remove_note(self.path)
            sync_directory(self.output.parent)
        except OSError as error:
            self.fail(error)

    def _close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def fail(self, error: OSError) -> NoReturn:
        """Say what could not be done to the file."""
        if isinstance(error, DiskFull | DatabaseError):
            raise error
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        kind = DiskFull if full else DatabaseError
        raise kind(f"cannot write {self.output}: {error.strerror}", hint="check space and permissions") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        for path in (self.path, *_sidecars(self.path)):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            remove_note(self.path)


def _sidecars(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in SIDECARS]


def _is_open(path: Path) -> bool:
    """Somebody here has it open, or elsewhere one of SQLite's locks on it (https://sqlite.org/lockingv3.html)."""
    try:
        import fcntl
        import struct
    except ImportError:  # pragma: no cover - Windows refuses to replace an open file by itself
        return False
    pending, span = 0x40000000, 512
    question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, pending, span, 0)
    try:
        file = open_shared(path)
    except OSError:
        return False
    try:
        if file.is_open_here():
            return True
        answer = fcntl.fcntl(file.descriptor, fcntl.F_GETLK, question)
    except OSError:
        return False
    finally:
        file.close()
    return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)
