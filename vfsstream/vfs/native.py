"""Hydrated databases read by SQLite's own file code: no Python between SQLite and the local file.

The file of a connection opened once the local copy is complete becomes one of the platform's VFS, opened on the
copy. Its table of methods is ours in two editions, exchanged at the start of each transaction: while the copy is at
the transaction's view, reading and measuring are the platform's own functions; otherwise they lead to
:class:`~vfsstream.vfs.file.ReplicaFile` as ever. Who updates the copy waits for transactions of the first kind.

A failure reaches the user as the exception that it was, by way of xGetLastError; see :class:`_Open`.

Callbacks are never freed: SQLite may call them until the process ends.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import apsw

from vfsstream.vfs.abi import METHODS, OPEN, Int, Pointer
from vfsstream.vfs.callbacks import COMMON, CORRUPT, ERROR, IOERR, IOERR_LOCK, NOTFOUND, OK, result_code
from vfsstream.vfs.file import ReplicaFile
from vfsstream.vfs.hydrate import Hydrator
from vfsstream.vfs.room import platform
from vfsstream.vfs.vfs import keep_cause

__all__ = ["hydrator_of", "is_native", "take_over"]

NONE, SHARED = apsw.SQLITE_LOCK_NONE, apsw.SQLITE_LOCK_SHARED


class _Methods(ctypes.Structure):
    _fields_ = (("iVersion", Int), *((name, Pointer) for name in METHODS))


class _Open:
    """A file that SQLite has open on a local copy.

    Attributes:
        active: a transaction reads the copy; the hydrator waits for its end.
    """

    def __init__(self, file: ReplicaFile, hydrator: Hydrator, pointer: int, name: Any) -> None:
        self.file, self.hydrator, self.name = file, hydrator, name
        self.active = False
        self.methods = Pointer.from_address(pointer)
        theirs = _Methods.from_address(self.methods.value or 0)
        self.close = ctypes.CFUNCTYPE(Int, Pointer)(theirs.xClose)
        ending = {name: getattr(theirs, name) for name in ("xUnlock", "xDeviceCharacteristics", "xSectorSize")}
        reading = {name: getattr(theirs, name) for name in ("xRead", "xFileSize")}
        if not file.fixed:  # else the characteristics tell SQLite that no lock is needed
            reading["xDeviceCharacteristics"] = theirs.xDeviceCharacteristics
        self._tables = _methods(), _methods(**reading), _methods(**ending)
        self.python, self.native, self.pending = (ctypes.addressof(table) for table in self._tables)
        self.methods.value = self.python
        hydrator.direct_readers.add(self)

    def choose(self) -> None:
        """A transaction begins: read the copy if it is at the transaction's view."""
        self.active = True  # before looking: whoever changes the copy does it the other way round
        if self.hydrator.settled is self.file.moment.view:
            self.methods.value = self.native
        else:
            self.methods.value = self.python
            self.active = False

    def begin(self) -> bool:
        """As a transaction begins, nearly always: nothing but the copy is looked at, and it is at the newest view."""
        self.active = True
        if self.file.pin_current(self.hydrator.settled):
            self.methods.value = self.native
            return True
        self.active = False
        return False

    def raise_pending(self) -> None:
        """An exception is about to be pending while SQLite ends the transaction: no Python may run meanwhile."""
        self.methods.value = self.pending

    def resume(self) -> None:
        """Python is called again."""
        if self.methods.value == self.pending:
            self.methods.value = self.python


_failing: set[int] = set()
"""Threads in which a cause was kept since a transaction began there."""
_open_files: dict[int, _Open] = {}
_callbacks: dict[str, Any] = {}
for _lasting in (_open_files, _callbacks):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_lasting))


def is_native(file: ReplicaFile) -> bool:
    """Is this file read by SQLite's own code right now?"""
    return any(entry.file is file and entry.active for entry in list(_open_files.values()))


def hydrator_of(file: ReplicaFile) -> Hydrator | None:
    """The local copy of the history that a file shows now."""
    local = getattr(file.moment.source, "local", None)
    return local.hydrator if local is not None else None


def _guarded(function: Callable[..., int], otherwise: int) -> Callable[..., int]:
    """No exception may cross into C."""

    def call(pointer: int, *arguments: Any) -> int:
        entry = _open_files[pointer]
        entry.resume()
        try:
            return function(entry, pointer, *arguments)
        except BaseException as error:
            return _failed(entry, error, otherwise)

    return call


def _failed(entry: _Open, error: BaseException, otherwise: int) -> int:
    """The result code of a failure, whose cause is kept until SQLite asks for it, as it does for no other code."""
    entry.file.last_error = error.__cause__ or entry.file.last_error or error
    code = result_code(error, otherwise)
    if code not in (otherwise, CORRUPT):
        return code
    keep_cause(error, entry.raise_pending)
    _failing.add(threading.get_ident())
    return otherwise


def _close(entry: _Open, pointer: int) -> int:
    del _open_files[pointer]
    entry.active = False
    entry.hydrator.direct_readers.discard(entry)
    result: int = entry.close(pointer)
    entry.file.xClose()
    return result


def _lock(pointer: int, level: int) -> int:
    entry = _open_files[pointer]
    if _failing and threading.get_ident() in _failing:
        _failing.discard(threading.get_ident())
        keep_cause(None)
    if level == SHARED and entry.begin():
        return OK
    entry.resume()
    try:
        if level == SHARED:
            entry.file.xUnlock(NONE)  # after a failure SQLite ended the transaction without us
        entry.file.xLock(level)
    except BaseException as error:
        return _failed(entry, error, IOERR_LOCK)
    if not entry.active:
        entry.choose()
    return OK


def _unlock(pointer: int, level: int) -> int:
    entry = _open_files[pointer]
    if level < SHARED:
        entry.active = False
    entry.file.xUnlock(level)
    return OK


def _file_control(entry: _Open, pointer: int, op: int, argument: int) -> int:
    return OK if entry.file.xFileControl(op, argument) else NOTFOUND


def _of_file(function: Callable[..., int]) -> Callable[..., int]:
    return lambda entry, pointer, *arguments: function(entry.file, *arguments)


_CALLBACKS: dict[str, tuple[Callable[..., int], int]] = {
    **{name: (_of_file(function), code) for name, (function, code) in COMMON.items()},
    "xClose": (_close, IOERR),
    "xFileControl": (_file_control, ERROR),
}


def _methods(**native: int) -> _Methods:
    """A table of our callbacks, some of them replaced by the platform's functions."""
    if not _callbacks:
        functions = {name: _guarded(function, code) for name, (function, code) in _CALLBACKS.items()}
        for name, function in (*functions.items(), ("xLock", _lock), ("xUnlock", _unlock)):
            _callbacks[name] = ctypes.CFUNCTYPE(Int, *METHODS[name])(function)
    addresses = {name: ctypes.cast(function, Pointer).value for name, function in _callbacks.items()}
    return _Methods(iVersion=1, **{**addresses, **native})


def take_over(connection: apsw.Connection, file: ReplicaFile) -> bool:
    """Put a file opened on the local copy in the place of a fresh connection's; ``False``: there is no such copy."""
    hydrator = hydrator_of(file)
    if hydrator is None or not hydrator.direct or platform() is None:
        return False
    opened = _open_copy(str(hydrator.path))
    if opened is None:
        return False
    made, name = opened
    found = Pointer()
    connection.file_control("main", apsw.SQLITE_FCNTL_FILE_POINTER, ctypes.addressof(found))
    pointer = found.value or 0
    file.handed_over = True
    ctypes.CFUNCTYPE(Int, Pointer)(_Methods.from_address(Pointer.from_address(pointer).value or 0).xClose)(pointer)
    ctypes.memmove(pointer, made, len(made))
    entry = _open_files[pointer] = _Open(file, hydrator, pointer, name)
    if file.database.options.immutable:
        entry.choose()  # SQLite takes no locks on what never changes
    return True


def _open_copy(path: str) -> tuple[Any, Any] | None:
    """A file of the platform's VFS in memory of ours, and its name, which must live as long."""
    theirs = platform()
    assert theirs is not None
    made = ctypes.create_string_buffer(theirs.szOsFile)
    name = ctypes.create_string_buffer(os.fsencode(path) + b"\0\0\0")
    wanted = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB
    result = OPEN(theirs.xOpen)(
        ctypes.addressof(theirs), ctypes.addressof(name), ctypes.addressof(made), wanted, ctypes.byref(Int())
    )
    return (made, name) if result == OK else None
