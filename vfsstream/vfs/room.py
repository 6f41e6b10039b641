"""Room for a file of the platform's VFS in what SQLite sets aside for one of ours; see :mod:`vfsstream.vfs.native`.

SQLite documents the structure at https://sqlite.org/c3ref/vfs.html.
"""

from __future__ import annotations

import ctypes
import os

import apsw

__all__ = ["VfsStructure", "make_room", "platform"]

Pointer, Int = ctypes.c_void_p, ctypes.c_int


class VfsStructure(ctypes.Structure):
    """The beginning of a ``sqlite3_vfs``."""

    _fields_ = (
        ("iVersion", Int),
        ("szOsFile", Int),
        ("mxPathname", Int),
        ("pNext", Pointer),
        ("zName", Pointer),
        ("pAppData", Pointer),
        ("xOpen", Pointer),
    )


_platform: VfsStructure | None = None


def platform() -> VfsStructure | None:
    """The platform's VFS, once there is room for its files; ``None`` where this is not known to work."""
    return _platform


def make_room(name: str) -> None:
    """Have SQLite set aside enough memory for a file of the platform's, whenever it opens one of the VFS ``name``.

    To be called before anything is opened on that VFS.
    """
    global _platform
    if os.name != "posix":
        return
    connection = apsw.Connection(":memory:")
    try:
        found = Pointer()
        connection.file_control("main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(found))
    finally:
        connection.close()
    first = vfs = VfsStructure.from_address(found.value) if found.value else None
    while vfs is not None and ctypes.string_at(vfs.zName or 0) != name.encode():
        vfs = VfsStructure.from_address(vfs.pNext) if vfs.pNext else None
    if first is None or vfs is None or ctypes.string_at(first.zName or 0) != b"unix":
        return
    vfs.szOsFile = max(vfs.szOsFile, first.szOsFile)
    _platform = first
