"""Changing pages of a live SQLite database in place, by SQLite's own rules, without SQLite.

The pages to be overwritten go into a rollback journal first (https://sqlite.org/fileformat2.html#the_rollback_journal),
under the locks of https://sqlite.org/lockingv3.html. Whoever opens the database after a crash rolls it back.
"""

from __future__ import annotations

import os
import secrets
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from vfsstream.errors import DatabaseError, DeadlineExceeded, Interrupted
from vfsstream.stores.file import sync_directory

__all__ = ["Rewriter", "patch_first_page", "roll_back"]

_MAGIC = bytes.fromhex("d9d505f920a163d7")
_HEADER = struct.Struct(">8sIIIII")
_SECTOR = 512
_PENDING = 0x40000000
_RESERVED = _PENDING + 1
_SHARED, _SHARED_SIZE = _PENDING + 2, 510
_NAP = 0.01
_EXCLUSIVE, _UNLOCK = 1, 2
_LOCKF = {_EXCLUSIVE: 2, _UNLOCK: 8}
_FLOCK = struct.Struct("@hhqqi4x")
_IN_ROLLBACK_MODE = b"\x01\x01"


def patch_first_page(page: bytes, change_counter: int, commit: int) -> bytes:
    """Page 1 for a database in rollback mode, stating its size, with a change counter that readers notice."""
    out = bytearray(page)
    out[18:20] = _IN_ROLLBACK_MODE
    counter = (change_counter & 0xFFFFFFFF).to_bytes(4, "big")
    out[24:28] = out[92:96] = counter  # the size at 28 counts only while both agree
    out[28:32] = commit.to_bytes(4, "big")
    return bytes(out)


def roll_back(path: Path) -> None:
    """Let SQLite undo what a killed process began, and bring the database into rollback mode.

    Raises:
        DatabaseError: not a database, or in use by others in write-ahead mode.
        DeadlineExceeded: others keep it busy.
    """
    import apsw

    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_timeout(2000)
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            mode = connection.execute("PRAGMA journal_mode=delete").fetchall()[0][0]
        finally:
            connection.close()
    except apsw.BusyError as error:
        raise DeadlineExceeded(f"{path}: other programs keep the copy busy") from error
    except apsw.Error as error:
        raise DatabaseError(
            f"{path}: {error}", hint="end the programs that use the copy, then try again"
        ) from error
    if mode != "delete":
        raise DatabaseError(
            f"{path}: journal mode {mode} cannot be left", hint="end the programs that use the copy"
        )


def _set_lock(file: int, kind: int, start: int, size: int) -> None:
    """Lock or unlock bytes of a file without waiting.

    Where the system has locks of an open file (Linux), they are taken: they hold against SQLite in the same
    process, too, which locks of the process do not.
    """
    import fcntl

    if hasattr(fcntl, "F_OFD_SETLK"):
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, size, 0))
    else:
        fcntl.lockf(file, _LOCKF[kind] | fcntl.LOCK_NB, size, start, os.SEEK_SET)


class Rewriter:
    """One change of a database file, all or nothing.

    Use as a context manager: ``prepare`` writes the journal while readers go on, ``write`` waits for them to end
    and changes the file. Leaving without ``write`` changes nothing.

    Args:
        path: the database, in rollback mode, without a journal.
        page_size: bytes.
        timeout: seconds to wait for readers and writers.
        stop: set to end the wait.
        file: an open descriptor of the database, used and left open: closing one drops the locks that SQLite
            itself may hold on the same file in this process.

    Raises:
        DeadlineExceeded: others keep the database busy.
        Interrupted: ``stop`` was set while waiting.
    """

    def __init__(
        self, path: Path, page_size: int, timeout: float, stop: threading.Event, file: int | None = None
    ) -> None:
        self.path, self.page_size, self.stop = path, page_size, stop
        self.journal = path.with_name(path.name + "-journal")
        self._deadline = time.monotonic() + timeout
        self._borrowed = file is not None
        self._file = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0)) if file is None else file
        self._journaled = False

    def __enter__(self) -> Rewriter:
        try:
            self._lock(_RESERVED, 1)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        try:
            if self._journaled:
                self.journal.unlink(missing_ok=True)
        finally:
            self._release()

    def _release(self) -> None:
        if self._borrowed:
            _set_lock(self._file, _UNLOCK, _PENDING, 2 + _SHARED_SIZE)
        else:
            os.close(self._file)  # and with it every lock

    def pages(self) -> int:
        """Size of the database, pages."""
        return os.fstat(self._file).st_size // self.page_size

    def read(self, pgno: int) -> bytes:
        """A page as it is; empty above the end."""
        return os.pread(self._file, self.page_size, (pgno - 1) * self.page_size)

    def prepare(self, pgnos: Iterable[int]) -> None:
        """Write these pages, as they are, to the journal.

        Args:
            pgnos: ascending, all of them within the database.
        """
        size = self.page_size
        nonce = secrets.randbits(32)
        count = 0
        self._journaled = True
        mode = os.fstat(self._file).st_mode & 0o777
        descriptor = os.open(self.journal, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), mode)
        with open(descriptor, "wb", buffering=1 << 20) as out:
            out.write(bytes(_SECTOR))
            for pgno in pgnos:
                page = self.read(pgno)
                checksum = (nonce + sum(page[size - 200 : 0 : -200])) & 0xFFFFFFFF
                out.write(pgno.to_bytes(4, "big") + page + checksum.to_bytes(4, "big"))
                count += 1
            out.flush()
            os.fsync(out.fileno())
            # The header last: until it is there, nobody takes the journal for a hot one.
            out.seek(0)
            out.write(_HEADER.pack(_MAGIC, count, nonce, self.pages(), _SECTOR, size))
            out.flush()
            os.fsync(out.fileno())
        sync_directory(self.path.parent)

    def write(self, pages: Iterable[tuple[int, bytes]], commit: int) -> None:
        """Wait until nobody reads, then write the pages, set the size, and make it all durable.

        An error in the middle leaves the journal, and the next one to open the database rolls it back.
        """
        self._lock(_PENDING, 1)
        self._lock(_SHARED, _SHARED_SIZE)
        self._journaled = False  # from here on it is the only way back
        for pgno, page in pages:
            os.pwrite(self._file, page, (pgno - 1) * self.page_size)
        os.ftruncate(self._file, commit * self.page_size)
        os.fsync(self._file)
        self.journal.unlink()  # the commit
        sync_directory(self.path.parent)

    def _lock(self, start: int, size: int) -> None:
        while True:
            try:
                _set_lock(self._file, _EXCLUSIVE, start, size)
                return
            except OSError as error:
                if time.monotonic() >= self._deadline:
                    message = f"{self.path}: other programs keep the copy busy"
                    raise DeadlineExceeded(message, hint="end long read transactions on it") from error
            if self.stop.wait(_NAP):
                raise Interrupted(f"interrupted while waiting for the readers of {self.path}")
