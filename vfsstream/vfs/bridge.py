"""The VFS for a SQLite that is not apsw's: C structures and callbacks made with ctypes.

Structures and callbacks are never freed, not even at exit: SQLite may call them until the process ends.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import ctypes.util
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import apsw

from vfsstream.errors import MissingExtra, VfsstreamError
from vfsstream.vfs.abi import METHODS, OPEN, Int, Long, Pointer, Text, VfsStructure
from vfsstream.vfs.callbacks import (
    COMMON,
    ERROR,
    INTERRUPT,
    IOERR,
    IOERR_LOCK,
    IOERR_UNLOCK,
    NOTFOUND,
    OK,
    result_code,
)
from vfsstream.vfs.file import ReplicaFile
from vfsstream.vfs.vfs import NAME, is_replica_companion, open_file, resolve

__all__ = ["file_by_id", "forget_error", "register", "thread_error"]

CANTOPEN = 14
FCNTL_PDB = 30


class _IoMethods(ctypes.Structure):
    _fields_ = (("iVersion", Int), *((name, ctypes.CFUNCTYPE(Int, *types)) for name, types in METHODS.items()))


class _File(ctypes.Structure):
    _fields_ = (("pMethods", ctypes.POINTER(_IoMethods)), ("id", Long))


_DELETE = ctypes.CFUNCTYPE(Int, Pointer, Pointer, Int)
_ACCESS = ctypes.CFUNCTYPE(Int, Pointer, Pointer, Int, ctypes.POINTER(Int))
_FULL = ctypes.CFUNCTYPE(Int, Pointer, Pointer, Int, Pointer)


_files: dict[int, ReplicaFile] = {}
_numbers = iter(range(1, 1 << 62))
_thread = threading.local()
_by_id: weakref.WeakValueDictionary[int, ReplicaFile] = weakref.WeakValueDictionary()
_state: dict[str, Any] = {}


def _never() -> bool:
    return False


def forget_error() -> None:
    """Before an operation whose failure will be asked about."""
    _thread.error = None


def thread_error() -> BaseException | None:
    """The last failure inside a callback in this thread."""
    return getattr(_thread, "error", None)


def file_by_id(number: int) -> ReplicaFile | None:
    """The open file that ``PRAGMA litestream_file_id`` names."""
    return _by_id.get(number)


def _guarded(function: Callable[..., int], otherwise: int) -> Callable[..., int]:
    """No exception may cross into C: it becomes a result code and is kept for ``last_error``."""

    def call(*arguments: Any) -> int:
        try:
            return function(*arguments)
        except BaseException as error:
            _thread.error = error.__cause__ if isinstance(error.__cause__, VfsstreamError) else error
            return result_code(error, otherwise)

    return call


def _file(pointer: int) -> ReplicaFile:
    return _files[_File.from_address(pointer).id]


def _close(pointer: int) -> int:
    number = _File.from_address(pointer).id
    file = _files.pop(number, None)
    if file is not None:
        file.xClose()
    return OK


def _lock(pointer: int, level: int) -> int:
    _file(pointer).xLock(level)
    return OK


def _unlock(pointer: int, level: int) -> int:
    _file(pointer).xUnlock(level)
    return OK


def _was_interrupted(handle: int) -> bool:
    """Whether ``interrupt()`` was called on the connection whose handle lies at an address.

    SQLite can be asked since 3.41. Before, its parser tells: at white space it looks at the flag and stops.
    """
    library, connection = _state["library"], Pointer.from_address(handle).value
    if connection is None:
        return False
    if hasattr(library, "sqlite3_is_interrupted"):
        return bool(library.sqlite3_is_interrupted(Pointer(connection)))
    statement = Pointer()
    code = library.sqlite3_prepare_v2(Pointer(connection), b" ", -1, ctypes.byref(statement), None)
    return bool(code == INTERRUPT)


def _file_control(pointer: int, op: int, argument: int) -> int:
    if op == FCNTL_PDB:  # the address at which the file finds its connection
        _file(pointer).interrupted = partial(_was_interrupted, argument)
        return OK
    if op != apsw.SQLITE_FCNTL_PRAGMA:
        return NOTFOUND
    array = (Text * 3).from_address(argument)
    name = (array[1] or b"").decode()
    value = None if array[2] is None else array[2].decode()
    file = _file(pointer)
    if name.lower() == "litestream_file_id":
        answer: str | None = str(_File.from_address(pointer).id)
    else:
        try:
            answer = file.pragma(name, value)
        except VfsstreamError as error:
            file.last_error = _thread.error = error
            _set_result(argument, str(error))
            return ERROR
    if answer is None:
        return NOTFOUND
    _set_result(argument, answer)
    return OK


def _set_result(argument: int, text: str) -> None:
    Pointer.from_address(argument).value = _state["printf"](b"%s", text.encode())


def _open(vfs: int, name: int | None, pointer: int, flags: int, out_flags: Any) -> int:
    library = _state["library"]
    if name and flags & apsw.SQLITE_OPEN_MAIN_DB:
        path = ctypes.string_at(name).decode()
        options = resolve(path, _parameters(library, name))
        if options is not None:
            header = _File.from_address(pointer)
            header.pMethods = None
            file = open_file(path, options)
            number = next(_numbers)
            _files[number] = _by_id[number] = file
            file.interrupted = _never  # until SQLite tells the connection
            header.id = number
            header.pMethods = ctypes.pointer(_state["methods"])
            if out_flags:
                out_flags[0] = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB
            return OK
    base = _state["base"]
    opened: int = OPEN(base.xOpen)(ctypes.addressof(base), name, pointer, flags, out_flags)
    return opened


def _parameters(library: ctypes.CDLL, name: int) -> dict[str, str]:
    """The URI parameters of a file name: SQLite keeps them behind it as zero-terminated pairs."""
    from vfsstream.vfs.options import KEYS

    found = {}
    for key in ("vfs", *KEYS):
        value = library.sqlite3_uri_parameter(name, key.encode())
        if value is not None:
            found[key] = value.decode()
    return found


def _access(vfs: int, name: int, flags: int, answer: Any) -> int:
    if is_replica_companion(ctypes.string_at(name).decode()):
        answer[0] = 0
        return OK
    base = _state["base"]
    result: int = _ACCESS(base.xAccess)(ctypes.addressof(base), name, flags, answer)
    return result


def _delete(vfs: int, name: int, sync: int) -> int:
    if is_replica_companion(ctypes.string_at(name).decode()):
        return OK
    base = _state["base"]
    result: int = _DELETE(base.xDelete)(ctypes.addressof(base), name, sync)
    return result


def _full_path(vfs: int, name: int, size: int, out: int) -> int:
    text = ctypes.string_at(name)
    if len(text) >= size:
        return CANTOPEN
    ctypes.memmove(out, text + b"\0", len(text) + 1)
    return OK


def _of_file(function: Callable[..., int]) -> Callable[..., int]:
    return lambda pointer, *arguments: function(_file(pointer), *arguments)


_FILE_CALLBACKS: dict[str, tuple[Callable[..., int], int]] = {
    **{name: (_of_file(function), code) for name, (function, code) in COMMON.items()},
    "xClose": (_close, IOERR),
    "xLock": (_lock, IOERR_LOCK),
    "xUnlock": (_unlock, IOERR_UNLOCK),
    "xFileControl": (_file_control, ERROR),
}


def _library() -> ctypes.CDLL:
    """The SQLite that the ``sqlite3`` module is linked with."""
    import _sqlite3
    import sqlite3

    try:
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_libversion.restype = Text
        if library.sqlite3_libversion().decode() == sqlite3.sqlite_version and library.sqlite3_vfs_register:
            return library
    except (OSError, AttributeError):
        pass
    error = MissingExtra(
        "shared-sqlite", "this Python's sqlite3 module hides its SQLite, and vfs=litestream in it"
    )
    error.hint = (
        "use apsw (vfsstream.connect), a Python linked with a shared libsqlite3,"
        " or read the hydrated file (hydration_path=) with any driver"
    )
    raise error


def register() -> None:
    """Register the VFS once.

    Raises:
        MissingExtra: this Python hides its SQLite.
    """
    if _state:
        return
    library = _library()
    library.sqlite3_vfs_find.restype = ctypes.POINTER(VfsStructure)
    library.sqlite3_vfs_find.argtypes = (Text,)
    library.sqlite3_vfs_register.argtypes = (ctypes.POINTER(VfsStructure), Int)
    library.sqlite3_uri_parameter.restype = Text
    library.sqlite3_uri_parameter.argtypes = (Pointer, Text)
    library.sqlite3_mprintf.restype = Pointer
    found = library.sqlite3_vfs_find(None)
    if not found:
        raise MissingExtra("shared-sqlite", "a SQLite without a default VFS, and vfs=litestream in it")
    base = found.contents
    callbacks = {
        name: ctypes.CFUNCTYPE(Int, *METHODS[name])(_guarded(function, code))
        for name, (function, code) in _FILE_CALLBACKS.items()
    }
    methods = _IoMethods(1, *(callbacks[name] for name in METHODS))
    functions = (
        OPEN(_guarded(_open, CANTOPEN)),
        _DELETE(_guarded(_delete, IOERR)),
        _ACCESS(_guarded(_access, IOERR)),
        _FULL(_guarded(_full_path, CANTOPEN)),
    )
    ours = VfsStructure.from_buffer_copy(base)
    ours.szOsFile = max(base.szOsFile, ctypes.sizeof(_File))
    ours.pNext = None
    ours.zName = NAME.encode()
    for field, function in zip(("xOpen", "xDelete", "xAccess", "xFullPathname"), functions, strict=True):
        setattr(ours, field, ctypes.cast(function, Pointer))
    for lasting in (base, methods, callbacks, functions, ours, _files, _state):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(lasting))
    _state.update(library=library, base=base, methods=methods, printf=library.sqlite3_mprintf)
    if library.sqlite3_vfs_register(ctypes.byref(ours), 0) != OK:
        _state.clear()
        raise MissingExtra("shared-sqlite", "a SQLite that refuses to register a VFS, and vfs=litestream in it")
    atexit.register(_close_connections)


def _close_connections() -> None:
    """Connections still open at exit would be closed while Python is taken apart: close them before."""
    import gc
    import sqlite3

    if not _files:
        return
    for thing in gc.get_objects():
        if isinstance(thing, sqlite3.Connection):
            # Those of other threads refuse; their callbacks outlive the interpreter's modules, see register().
            with contextlib.suppress(Exception):
                thing.close()
    for file in list(_files.values()):
        file.xClose()
