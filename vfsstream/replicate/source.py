"""The SQLite side of a replicated database: one connection with a long read transaction, the log and the wal-index.

The read transaction is what makes capture safe: while it is held no frame committed after its start can be lost.
Nothing in the database is changed: the write lock is taken with BEGIN IMMEDIATE, and no table is created.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import apsw

from vfsstream.errors import DatabaseError, DiskFull
from vfsstream.replicate.sharedfiles import identity_of, opening
from vfsstream.replicate.walindex import IndexHeader, WalIndex

__all__ = ["Source", "sqlite_errors"]

_FLAGS = apsw.SQLITE_OPEN_READWRITE
_PATIENCE = 2.0  # a wal-index stays half written only when its writer died


@contextlib.contextmanager
def sqlite_errors(path: Path, action: str) -> Iterator[None]:
    """Turn SQLite's errors into one line that names the database and what was tried."""
    try:
        yield
    except apsw.FullError as error:
        raise DiskFull(f"cannot {action} {path}: {error}", hint="free some space on the volume") from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise DatabaseError(
            f"cannot {action} {path}: another connection holds its lock ({error})",
            hint="locking_mode=EXCLUSIVE keeps replicators out; otherwise raise busy-timeout",
        ) from error
    except apsw.ReadOnlyError as error:
        raise DatabaseError(
            f"cannot {action} {path}: it is read-only ({error})",
            hint="the replicator needs write permission on the database and its directory",
        ) from error
    except apsw.Error as error:
        raise DatabaseError(f"cannot {action} {path}: {error}") from error


class Source:
    """An open database. Not thread-safe: one caller at a time, except :meth:`look`.

    Attributes:
        page_size: bytes.
        identity: (device, inode) of the database file.
    """

    def __init__(self, path: Path, busy_timeout: timedelta) -> None:
        self.path = path
        self.log_path = path.with_name(path.name + "-wal")
        self._busy_ms = int(busy_timeout.total_seconds() * 1000)
        self._log = -1
        self._index: WalIndex | None = None
        self.identity = identity_of(os.stat(path))
        with opening():
            self._reader = self._connect()
            try:
                with sqlite_errors(path, "open"):
                    self._to_wal_mode()
                    self.begin_read()
                    self.page_size = int(self._reader.pragma("page_size"))
            except BaseException:
                self.close()
                raise
        try:
            self._log = os.open(self.log_path, os.O_RDONLY | os.O_CLOEXEC)
            self._index = WalIndex(path.with_name(path.name + "-shm"))
            if self.changed_underneath():
                raise DatabaseError(f"{path} was replaced while it was opened")
        except OSError as error:
            self.close()
            raise DatabaseError(f"cannot open the write-ahead log of {path}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def _connect(self) -> apsw.Connection:
        with sqlite_errors(self.path, "open"):
            connection = apsw.Connection(str(self.path), flags=_FLAGS)
            connection.set_busy_timeout(self._busy_ms)
            connection.wal_autocheckpoint(0)
            connection.pragma("cache_size", -64)
            return connection

    def _to_wal_mode(self) -> None:
        import ctypes

        # Otherwise SQLite deletes the log when the replicator is the last to close, and the next start finds nothing.
        persist = ctypes.c_int(1)
        self._reader.file_control("main", apsw.SQLITE_FCNTL_PERSIST_WAL, ctypes.addressof(persist))
        mode = self._reader.execute("PRAGMA journal_mode=wal").get
        if mode != "wal":
            raise DatabaseError(f"{self.path} cannot be switched to WAL mode (journal mode is {mode})")

    def begin_read(self) -> None:
        """Take the long read transaction."""
        with sqlite_errors(self.path, "read"):
            self._reader.execute("BEGIN")
            try:
                self._reader.execute("SELECT rootpage FROM sqlite_schema LIMIT 1").fetchall()
            except BaseException:
                self._reader.execute("ROLLBACK")
                raise

    def end_read(self) -> None:
        """Let the read transaction go."""
        if self._reader.in_transaction:
            self._reader.execute("ROLLBACK")

    def advance_read(self) -> None:
        """Move the read transaction to the newest commit without a moment in which none is held."""
        fresh = self._connect()
        try:
            older, self._reader = self._reader, fresh
            self._to_wal_mode()
            self.begin_read()
        except BaseException:
            self._reader = older
            fresh.close(True)
            raise
        with contextlib.suppress(apsw.Error):
            older.execute("ROLLBACK")
        older.close(True)

    def look(self) -> bytes:
        """The bytes of the wal-index that change with every commit.

        Raises:
            ValueError: the source was closed by another thread.
        """
        index = self._index
        if index is None:
            raise ValueError(f"{self.path} is closed")
        return index.look()

    def index(self) -> IndexHeader:
        """A consistent wal-index header.

        Raises:
            DatabaseError: the wal-index stays half written.
        """
        assert self._index is not None
        deadline = time.monotonic() + _PATIENCE
        while (header := self._index.read()) is None:
            if time.monotonic() > deadline:
                raise DatabaseError(f"the wal-index of {self.path} stays inconsistent")
            time.sleep(0.001)
            if time.monotonic() > deadline - _PATIENCE / 2:
                self._recover()
        return header

    def _recover(self) -> None:
        # A writer died in the middle of its change; the next reader repairs the index.
        with contextlib.closing(self._connect()) as connection, contextlib.suppress(apsw.Error):
            connection.execute("SELECT rootpage FROM sqlite_schema LIMIT 1").fetchall()

    def page_count(self) -> int:
        """Pages of the database as the read transaction sees it."""
        return int(self._reader.pragma("page_count"))

    def read_pages(self, first: int, count: int) -> bytes:
        """``count`` pages of the database *file* from page ``first``; zeros behind its end."""
        return _read_pages(self._reader, self.path, self.page_size, first, count)

    def read_log(self, offset: int, size: int) -> bytes:
        """Bytes of the log; fewer at its end."""
        return _read_log(self._log, self.log_path, offset, size)

    def view(self) -> View:
        """A second pair of eyes on the same files, for another thread."""
        log = os.dup(self._log)
        try:
            return View(self.path, self.log_path, self.page_size, self._connect(), log)
        except BaseException:
            os.close(log)
            raise

    def log_size(self) -> int:
        """Bytes of the log file, stale frames included."""
        return os.fstat(self._log).st_size

    def changed_underneath(self) -> str | None:
        """What was exchanged behind our back: the database, its log or its wal-index. ``None`` when all is well."""
        assert self._index is not None
        for what, path, open_as in (
            ("database file", self.path, self.identity),
            ("write-ahead log", self.log_path, identity_of(os.fstat(self._log))),
            ("wal-index", self.path.with_name(self.path.name + "-shm"), self._index.identity()),
        ):
            try:
                if identity_of(os.stat(path)) != open_as:
                    return f"the {what} was replaced by another file"
            except FileNotFoundError:
                return f"the {what} was deleted"
        return None

    @contextlib.contextmanager
    def sealed(self) -> Iterator[None]:
        """Hold SQLite's write lock: no frame can appear."""
        with contextlib.closing(self._connect()) as connection:
            with sqlite_errors(self.path, "lock"):
                connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")

    def checkpoint(self, mode: str, *, wait: bool = True) -> tuple[bool, int, int]:
        """Run ``PRAGMA wal_checkpoint``: (busy, frames in the log, frames in the database).

        Args:
            wait: up to the busy timeout for whoever is in the way.
        """
        with contextlib.closing(self._connect()) as connection:
            if not wait:
                connection.set_busy_timeout(0)
            try:
                row = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            except (apsw.BusyError, apsw.LockedError):
                return True, -1, -1
            except apsw.Error:
                with sqlite_errors(self.path, "checkpoint"):
                    raise
            busy, log, done = row or (1, -1, -1)
            return bool(busy), log, done

    def close(self) -> None:
        """Close the connection, then what must outlive it. Idempotent."""
        # Nobody may look any more: once the connection is gone, another process may cut the wal-index off.
        index, self._index = self._index, None
        with contextlib.suppress(apsw.Error):
            self.end_read()
        self._reader.close(True)
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        if index is not None:
            index.close()


class View:
    """Reads the files of a source from another thread; promises nothing about when they change."""

    def __init__(self, path: Path, log_path: Path, page_size: int, connection: apsw.Connection, log: int) -> None:
        self.path, self.log_path, self.page_size = path, log_path, page_size
        self._connection, self._log = connection, log

    def read_pages(self, first: int, count: int) -> bytes:
        """As :meth:`Source.read_pages`."""
        return _read_pages(self._connection, self.path, self.page_size, first, count)

    def read_log(self, offset: int, size: int) -> bytes:
        """As :meth:`Source.read_log`."""
        return _read_log(self._log, self.log_path, offset, size)

    def close(self) -> None:
        """Release both files. Idempotent."""
        self._connection.close(True)
        if self._log >= 0:
            os.close(self._log)
            self._log = -1


def _read_pages(connection: apsw.Connection, path: Path, size: int, first: int, count: int) -> bytes:
    with sqlite_errors(path, "read"):
        complete, data = connection.read("main", 0, (first - 1) * size, count * size)
        if complete:
            return data
        if count == 1:
            return bytes(size)
        return b"".join(_read_pages(connection, path, size, pgno, 1) for pgno in range(first, first + count))


def _read_log(descriptor: int, path: Path, offset: int, size: int) -> bytes:
    parts = []
    try:
        while size > 0 and (part := os.pread(descriptor, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
    except OSError as error:
        raise DatabaseError(f"cannot read {path}: {error.strerror}") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)
