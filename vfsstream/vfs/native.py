"""Hydrated databases read by SQLite's own file code: no Python between SQLite and the local file.

A connection opened once the local copy is complete gets a file object of the platform's VFS, opened on the copy. Its
table of methods is ours in two editions, exchanged at the start of each transaction: while the copy is at the
transaction's view, reading and measuring are the platform's own functions; otherwise they lead to
:class:`~vfsstream.vfs.file.ReplicaFile` as ever. Who updates the copy waits for transactions of the first kind.

SQLite documents the structures at https://sqlite.org/c3ref/io_methods.html and https://sqlite.org/c3ref/vfs.html.
Callbacks are never freed: SQLite may call them until the process ends.
"""

from __future__ import annotations

import ctypes
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from vfsstream.errors import CorruptError, Interrupted
from vfsstream.vfs.file import ReplicaFile
from vfsstream.vfs.hydrate import Hydrator
from vfsstream.vfs.options import Options

__all__ = ["hydrator_of", "install", "is_native"]

logger = logging.getLogger("vfsstream.vfs")

Pointer, Int, Long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
OK, ERROR, IOERR, READONLY, INTERRUPT, CORRUPT, NOTFOUND, SHORT_READ = 0, 1, 10, 8, 9, 11, 12, 522
SHARED = apsw.SQLITE_LOCK_SHARED

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "xClose": (Pointer,),
    "xRead": (Pointer, Pointer, Int, Long),
    "xWrite": (Pointer, Pointer, Int, Long),
    "xTruncate": (Pointer, Long),
    "xSync": (Pointer, Int),
    "xFileSize": (Pointer, ctypes.POINTER(Long)),
    "xLock": (Pointer, Int),
    "xUnlock": (Pointer, Int),
    "xCheckReservedLock": (Pointer, ctypes.POINTER(Int)),
    "xFileControl": (Pointer, Int, Pointer),
    "xSectorSize": (Pointer,),
    "xDeviceCharacteristics": (Pointer,),
}
_OPEN = ctypes.CFUNCTYPE(Int, Pointer, Pointer, Pointer, Int, ctypes.POINTER(Int))


class _Methods(ctypes.Structure):
    _fields_ = (("iVersion", Int), *((name, Pointer) for name in _SIGNATURES))


class _Vfs(ctypes.Structure):
    _fields_ = (
        ("iVersion", Int),
        ("szOsFile", Int),
        ("mxPathname", Int),
        ("pNext", Pointer),
        ("zName", Pointer),
        ("pAppData", Pointer),
        ("xOpen", Pointer),
    )


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
        self._tables = _methods(), _methods(xRead=theirs.xRead, xFileSize=theirs.xFileSize)
        self.python, self.native = (ctypes.addressof(table) for table in self._tables)
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


_open_files: dict[int, _Open] = {}
_installed: dict[str, Any] = {}
_install_lock = threading.Lock()


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
        try:
            return function(entry, pointer, *arguments)
        except BaseException as error:
            return _failed(entry, error, otherwise)

    return call


def _failed(entry: _Open, error: BaseException, otherwise: int) -> int:
    """The result code of a failure; :attr:`ReplicaFile.last_error` keeps the cause."""
    entry.file.last_error = error.__cause__ or entry.file.last_error or error
    return _code(error, otherwise)


def _code(error: BaseException, otherwise: int) -> int:
    if isinstance(error, apsw.ReadOnlyError):
        return READONLY
    if isinstance(error, Interrupted | KeyboardInterrupt | apsw.InterruptError):
        return INTERRUPT
    if isinstance(error, CorruptError | apsw.CorruptError):
        return CORRUPT
    return otherwise


def _close(entry: _Open, pointer: int) -> int:
    del _open_files[pointer]
    entry.active = False
    entry.hydrator.direct_readers.discard(entry)
    result: int = entry.close(pointer)
    entry.file.xClose()
    return result


def _read(entry: _Open, pointer: int, buffer: int, amount: int, offset: int) -> int:
    data = entry.file.xRead(amount, offset)
    ctypes.memmove(buffer, data if isinstance(data, bytes) else bytes(data), len(data))
    if len(data) < amount:
        ctypes.memset(buffer + len(data), 0, amount - len(data))
        return SHORT_READ
    return OK


def _file_size(entry: _Open, pointer: int, answer: Any) -> int:
    answer[0] = entry.file.xFileSize()
    return OK


def _lock(pointer: int, level: int) -> int:
    entry = _open_files[pointer]
    try:
        entry.file.xLock(level)
    except BaseException as error:
        return _failed(entry, error, IOERR | 15 << 8)
    if not entry.active:
        entry.choose()
    return OK


def _unlock(pointer: int, level: int) -> int:
    entry = _open_files[pointer]
    if level < SHARED:
        entry.active = False
    entry.file.xUnlock(level)
    return OK


def _check_reserved(entry: _Open, pointer: int, answer: Any) -> int:
    answer[0] = 0
    return OK


def _file_control(entry: _Open, pointer: int, op: int, argument: int) -> int:
    return OK if entry.file.xFileControl(op, argument) else NOTFOUND


_CALLBACKS: dict[str, tuple[Callable[..., int], int]] = {
    "xClose": (_close, IOERR),
    "xRead": (_read, IOERR | 1 << 8),
    "xWrite": (lambda *_: READONLY, IOERR),
    "xTruncate": (lambda *_: READONLY, IOERR),
    "xSync": (lambda *_: OK, IOERR),
    "xFileSize": (_file_size, IOERR | 7 << 8),
    "xCheckReservedLock": (_check_reserved, IOERR),
    "xFileControl": (_file_control, ERROR),
    "xSectorSize": (lambda entry, _: entry.file.xSectorSize(), OK),
    "xDeviceCharacteristics": (lambda entry, _: entry.file.xDeviceCharacteristics(), OK),
}


def _methods(**native: int) -> _Methods:
    """A table of our callbacks, some of them replaced by the platform's functions."""
    found: dict[str, Any] = _installed.setdefault("callbacks", {})
    if not found:
        functions = {name: _guarded(function, code) for name, (function, code) in _CALLBACKS.items()}
        for name, function in (*functions.items(), ("xLock", _lock), ("xUnlock", _unlock)):
            found[name] = ctypes.CFUNCTYPE(Int, *_SIGNATURES[name])(function)
    addresses = {name: ctypes.cast(function, Pointer).value for name, function in found.items()}
    return _Methods(iVersion=1, **{**addresses, **native})


def parameters(name: int) -> tuple[str, dict[str, str]]:
    """A file name as SQLite gives it to a VFS, and the URI parameters that lie behind it in memory."""
    path = ctypes.string_at(name)
    at = name + len(path) + 1
    found: dict[str, str] = {}
    while key := ctypes.string_at(at):
        value = ctypes.string_at(at + len(key) + 1)
        found.setdefault(key.decode(), value.decode())
        at += len(key) + len(value) + 2
    return path.decode(), found


def install(connection: apsw.Connection) -> None:
    """Let later connections to complete copies read them directly.

    Args:
        connection: one of the VFS that shall hand out such files.
    """
    with _install_lock:
        if "open" in _installed or os.name != "posix":
            return
        vfs = _vfs_of(connection)
        with tempfile.TemporaryDirectory(prefix="vfsstream-") as folder:
            plain = apsw.Connection(str(Path(folder) / "x"), vfs="unix")
            try:
                platform = _vfs_of(plain)
            finally:
                plain.close()
        if vfs is None or platform is None:
            return
        theirs = _OPEN(vfs.xOpen)
        _installed.update(vfs=vfs, platform=platform, theirs=theirs, open=_OPEN(_open))
        vfs.szOsFile = max(vfs.szOsFile, platform.szOsFile)
        vfs.xOpen = ctypes.cast(_installed["open"], Pointer).value
        for lasting in (_installed, _open_files):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(lasting))


def _vfs_of(connection: apsw.Connection) -> _Vfs | None:
    found = Pointer()
    connection.file_control("main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(found))
    return _Vfs.from_address(found.value) if found.value else None


def _open(vfs: int, name: int | None, pointer: int, flags: int, out_flags: Any) -> int:
    """SQLite's xOpen: a complete copy directly, everything else as before."""
    if name and flags & apsw.SQLITE_OPEN_MAIN_DB:
        try:
            if _open_copy(name, pointer, out_flags):
                return OK
        except Exception as error:  # the other way still works, and reports what is wrong
            logger.debug("not opened directly: %s", error)
    result: int = _installed["theirs"](vfs, name, pointer, flags, out_flags)
    return result


def _open_copy(name: int, pointer: int, out_flags: Any) -> bool:
    from vfsstream.vfs.registry import registry
    from vfsstream.vfs.vfs import open_file, resolve

    path, given = parameters(name)
    options: Options | None = resolve(path, given) if "hydration_path" in given else None
    database = registry.peek(options) if options is not None else None
    local = getattr(database.current.source, "local", None) if database is not None else None
    if options is None or local is None or local.hydrator is None or not local.hydrator.direct:
        return False
    file = open_file(path, options)
    hydrator = hydrator_of(file)
    if hydrator is None or hydrator.path is None:
        file.xClose()
        return False
    platform = _installed["platform"]
    copy = ctypes.create_string_buffer(os.fsencode(hydrator.path) + b"\0\0\0")
    wanted = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB
    got = Int()
    result = _OPEN(platform.xOpen)(
        ctypes.addressof(platform), ctypes.addressof(copy), pointer, wanted, ctypes.byref(got)
    )
    if result != OK:
        file.xClose()
        return False
    entry = _open_files[pointer] = _Open(file, hydrator, pointer, copy)
    if options.immutable:
        entry.choose()  # SQLite takes no locks on what never changes
    if out_flags:
        out_flags[0] = wanted
    return True
