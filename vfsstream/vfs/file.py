"""The file object that SQLite reads: one per connection and database, thin over the shared database."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import apsw

from vfsstream.errors import CorruptError, NotFound, OptionError, StoreError, VfsstreamError
from vfsstream.vfs.database import Database, Moment
from vfsstream.vfs.failures import BadPragma, ReadInterrupted, for_sqlite
from vfsstream.vfs.source import PageSource
from vfsstream.vfs.times import format_ms, parse_moment
from vfsstream.vfs.view import View

__all__ = ["ReplicaFile", "patch_first_page"]

NONE, SHARED = apsw.SQLITE_LOCK_NONE, apsw.SQLITE_LOCK_SHARED
HEADER = 100
MAX_REPAIRS = 3


def patch_first_page(page: bytes | memoryview, view: View) -> bytes:
    """Page 1 as SQLite should see it: a rollback-journal database whose change counter moves with the view.

    Bytes 18 and 19 would otherwise ask for a WAL and its shared memory. In WAL mode the primary's own change
    counter stands still, so that cached pages would never be dropped; see the file format, section 1.3.
    """
    counter = view.change_counter.to_bytes(4, "big")
    patched = bytearray(page)
    patched[18:20] = b"\x01\x01"
    patched[24:28] = counter
    patched[28:32] = view.commit.to_bytes(4, "big")
    patched[92:96] = counter
    if view.generation:  # another history may have the same schema cookie for another schema
        cookie = int.from_bytes(patched[40:44], "big") + view.generation * 0x10001
        patched[40:44] = (cookie & 0x7FFFFFFF).to_bytes(4, "big")
    return bytes(patched)


class ReplicaFile:
    """A read-only main database. Its view is pinned from the first lock to the last unlock.

    Attributes:
        database: the shared state.
        connection: the connection it belongs to, when known; asked whether it was interrupted.
        interrupted: asked instead, for a connection that is not apsw's.
        last_error: the last failure, with its cause.
        on_close: called once when SQLite closes the file.
        handed_over: the next close only gives the file to another who goes on with it.
    """

    def __init__(self, database: Database, on_close: Callable[[], None]) -> None:
        self.database = database
        self.on_close: Callable[[], None] | None = on_close
        self.connection: weakref.ref[apsw.Connection] | None = None
        self.interrupted: Callable[[], bool] | None = None
        self.last_error: BaseException | None = None
        self.handed_over = False
        self._immutable = database.options.immutable
        options = database.options
        self._particular = options.max_staleness is not None or options.max_lag is not None
        self._lock = NONE
        self._pinned: Moment | None = database.current if self._immutable else None
        self._target: Moment | None = None
        self._target_text: str | None = None
        self._first: tuple[View, bytes, bytes] | None = None

    # What SQLite calls.

    def xRead(self, amount: int, offset: int) -> bytes | memoryview:
        view, source = self._pinned or self._target or self.database.current
        first = self._first
        if offset == 24 and amount == 16 and first is not None and first[0] is view:
            return first[2]  # the change counter, at the start of each transaction
        page_size = view.page_size
        pgno = offset // page_size + 1
        if pgno != 1:
            page = source.hot(pgno, view.version(pgno))
            if page is not None and amount == page_size and not offset % page_size:
                return page
        try:
            return self._read(view, amount, offset)
        except VfsstreamError as error:
            self.last_error = error
            raise for_sqlite(error) from error.__cause__

    def _read(self, view: View, amount: int, offset: int) -> bytes | memoryview:
        if offset >= view.size:
            return b""  # apsw makes a short read of it
        pgno, start = offset // view.page_size + 1, offset % view.page_size
        page = self._first_page() if pgno == 1 else self._page(pgno)
        if start == 0 and amount == len(page):
            return page
        piece = page[start : start + amount]
        if len(piece) < amount and offset + len(piece) < view.size:
            return bytes(piece) + bytes(self._read(view, amount - len(piece), offset + len(piece)))
        return piece

    def _first_page(self) -> bytes:
        view = (self._pinned or self._target or self.database.current).view
        first = self._first
        if first is None or first[0] is not view:
            page = patch_first_page(self._page(1), view)
            first = self._first = (view, page, page[24:40])
        return first[1]

    def _page(self, pgno: int) -> bytes | memoryview:
        """A whole page, unpatched."""
        for _ in range(MAX_REPAIRS):
            moment = self._pinned or self._target or self.database.current
            view, source = moment
            version = view.version(pgno)
            if not version:
                return self._without_place(view, pgno)
            page = source.hot(pgno, version)
            if page is not None:
                return page
            try:
                return source.read(view, pgno, self.check)
            except NotFound:
                self._replace(moment, self.database.repair(moment, pgno, self.check))
        raise StoreError(
            f"page {pgno} of TXID {view.txid}: its files vanish as fast as they are found", retryable=True
        )

    def _replace(self, moment: Moment, repaired: Moment) -> None:
        if self._pinned is moment:
            self._pinned = repaired
        if self._target is moment:
            self._target = repaired

    def _without_place(self, view: View, pgno: int) -> bytes:
        if pgno > view.commit or pgno < 1:
            raise CorruptError(f"page {pgno} is beyond the database's {view.commit} pages at TXID {view.txid}")
        # Allocated and freed without ever having been written, or the lock page: a restore leaves a hole there.
        if pgno != view.lock_pgno:
            self.database.zeros_read += 1
        return bytes(view.page_size)

    def check(self) -> None:
        """Called while waiting for a page.

        Raises:
            ReadInterrupted: ``Connection.interrupt()`` was called.
        """
        if self.interrupted is not None:
            ended = self.interrupted()
        else:
            if self.connection is None:
                self.connection = self._find_connection()
            connection = self.connection() if self.connection is not None else None
            ended = connection is not None and connection.is_interrupted
        if ended:
            raise ReadInterrupted("interrupted while waiting for a page")

    def _find_connection(self) -> weakref.ref[apsw.Connection] | None:
        """Whose attached database this is: SQLite tells only of main ones."""
        from vfsstream.vfs.vfs import file_of

        for connection in apsw.connections():
            try:
                if any(file_of(connection, name) is self for name in connection.db_names()):
                    return weakref.ref(connection)
            except apsw.Error:  # busy in another thread, so not the one that waits here
                continue
        return None

    def xFileSize(self) -> int:
        return (self._pinned or self._target or self.database.current).view.size

    def xLock(self, level: int) -> None:
        if level > SHARED:
            raise apsw.ReadOnlyError("a replica is read-only: write to the primary database")
        if self._lock == NONE and not self._immutable:
            if self._target is None and not self._particular:
                moment = self._pinned = self.database.current
                moment.source.begin()
            else:
                try:
                    self._pin()
                except VfsstreamError as error:
                    self.last_error = error
                    raise for_sqlite(error) from error.__cause__
        if level > self._lock:
            self._lock = level

    def pin_current(self, view: View | None) -> bool:
        """Begin a transaction if it would see this very view and nothing has to be looked at first; did it?"""
        moment = self.database.current
        if moment.view is not view or self._target is not None or self._particular or self._immutable:
            return False
        self._pinned, self._lock = moment, SHARED
        return True

    @property
    def fixed(self) -> bool:
        """It shows one state for ever."""
        return self._immutable

    def _pin(self) -> None:
        if self._target is None:
            self._freshen()
        self._pinned = self._target or self.database.current
        self._pinned.source.begin()

    def _freshen(self) -> None:
        options, follower = self.database.options, self.database.follower
        assert follower is not None
        lag = self.database.lag() or 0.0
        if options.max_staleness is not None and lag > options.max_staleness:
            follower.refresh(self.check)
            lag = self.database.lag() or 0.0
        if options.max_lag is not None and lag > options.max_lag:
            why = follower.last_error or "no answer yet"
            raise StoreError(
                f"the last look for news was {lag:.1f} s ago, max_lag is {options.max_lag:g} s: {why}"
            )

    def xUnlock(self, level: int) -> None:
        if level < self._lock:
            self._lock = level
        if level == NONE and not self._immutable:
            self._pinned = None

    def xCheckReservedLock(self) -> bool:
        return False

    def xWrite(self, data: bytes, offset: int) -> NoReturn:
        raise apsw.ReadOnlyError("a replica is read-only: write to the primary database")

    def xTruncate(self, size: int) -> NoReturn:
        raise apsw.ReadOnlyError("a replica is read-only: write to the primary database")

    def xSync(self, flags: int) -> None:
        """Nothing was written."""

    def xSectorSize(self) -> int:
        return 0

    def xDeviceCharacteristics(self) -> int:
        # SQLite neither locks nor looks for changes then.
        return apsw.SQLITE_IOCAP_IMMUTABLE if self._immutable else 0

    def xClose(self) -> None:
        if self.handed_over:
            self.handed_over = False
            return
        on_close, self.on_close = self.on_close, None
        self._pinned = self._target = self._first = None
        if on_close is not None:
            on_close()

    def xFileControl(self, op: int, pointer: int) -> bool:
        if op == apsw.SQLITE_FCNTL_PRAGMA:
            return self._fcntl_pragma(pointer)
        if op == FIND_FILE:
            import ctypes

            found: Any = ctypes.py_object.from_address(pointer).value
            found.append(self)
            return True
        return False

    def _fcntl_pragma(self, pointer: int) -> bool:
        pragma: Any = apsw.VFSFcntlPragma(pointer)
        try:
            answer = self.pragma(pragma.name, pragma.value)
        except VfsstreamError as error:
            self.last_error = error
            pragma.result = str(error)
            raise BadPragma(error.message, hint=error.hint) from error
        if answer is None:
            return False
        pragma.result = answer
        return True

    # What users ask.

    def pragma(self, name: str, value: str | None) -> str | None:
        """The answer to a PRAGMA, never empty when it is one of ours; ``None`` when it is not.

        Raises:
            VfsstreamError: a value that cannot be honoured, or a failure on the way.
        """
        handler = PRAGMAS.get(name.lower())
        if handler is None:
            return None
        if value is not None and name.lower() not in SETTERS:
            raise OptionError(f"{name} cannot be set")
        return handler(self, value)

    @property
    def moment(self) -> Moment:
        """What a read would see now."""
        return self._pinned or self._target or self.database.current

    def txid(self) -> str:
        """The TXID of the view, 16 hex digits."""
        return str(self.moment.view.txid)

    def time(self) -> str:
        """The time travelled to as it was given, else the time of the view's last transaction."""
        if self._target_text is not None:
            return self._target_text
        return format_ms(self.moment.view.timestamp)

    def lag(self) -> int:
        """Whole seconds since the last successful look for news; -1 for a database that does not follow."""
        lag = self.database.lag()
        return -1 if lag is None else int(lag)

    def set_time(self, text: str) -> str:
        """Travel to the state before a moment, or back with ``LATEST``; takes effect at the next transaction.

        Raises:
            OptionError: not a time, or an immutable database.
            NotRestorable: nothing is that old.
        """
        if self._immutable:
            raise OptionError("opened with txid= or time=: this database never moves")
        if text.strip().upper() == "LATEST":
            self._target = self._target_text = None
        else:
            moment = parse_moment(text, "litestream_time")
            self._target = self.database.travel(moment)
            self._target_text = _rfc3339(text.strip(), moment)
        later = " from the next transaction on" if self._pinned is not None else ""
        return (self._target_text or "latest") + later

    def refresh(self) -> str:
        """Look for news now.

        Raises:
            StoreError: the look failed.
        """
        follower = self.database.follower
        if follower is not None:
            follower.refresh(self.check)
            if follower.last_error is not None:
                raise StoreError(follower.last_error, retryable=True)
            return str(self.database.current.view.txid)
        return self.txid()

    def stats(self) -> str:
        """Counters and state as JSON."""
        return json.dumps({**self.database.stats(), "view": self.txid(), "immutable": self._immutable})

    def source(self) -> PageSource:
        """Where the present view's pages come from."""
        return self.moment.source

    def __repr__(self) -> str:
        return f"<ReplicaFile {self.database!r} view={self.txid()}>"


def _rfc3339(text: str, moment: datetime) -> str:
    try:
        datetime.fromisoformat(text)
        return text
    except ValueError:
        return format_ms(int(moment.timestamp() * 1000))


def _time_pragma(file: ReplicaFile, value: str | None) -> str:
    return file.time() if value is None else file.set_time(value)


def _write_pragma(file: ReplicaFile, value: str | None) -> str:
    if value is not None and value.lower() not in ("0", "false", "off"):
        raise OptionError(
            "litestream_write_enabled: this reader never writes", hint="write to the primary database"
        )
    return "0"


FIND_FILE = 1200
"""Our own file-control operation: puts the file object into the list that the pointer leads to."""

PRAGMAS: dict[str, Callable[[ReplicaFile, str | None], str]] = {
    "litestream_txid": lambda file, _: file.txid(),
    "litestream_lag": lambda file, _: str(file.lag()),
    "litestream_time": _time_pragma,
    "litestream_write_enabled": _write_pragma,
    "litestream_hydration_progress": lambda file, _: f"{file.source().hydration()[0]:.1f}".removesuffix(".0"),
    "litestream_hydration_file": lambda file, _: file.source().hydration()[1],
    "litestream_refresh": lambda file, _: file.refresh(),
    "litestream_stats": lambda file, _: file.stats(),
}

SETTERS = frozenset({"litestream_time", "litestream_write_enabled"})
