"""Room for a file of the platform's VFS in what SQLite sets aside for one of ours; see :mod:`vfsstream.vfs.native`."""

from __future__ import annotations

import ctypes
import os

import apsw

from vfsstream.vfs.abi import Pointer, VfsStructure

__all__ = ["make_room", "platform"]

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
    while vfs is not None and vfs.zName != name.encode():
        vfs = VfsStructure.from_address(vfs.pNext) if vfs.pNext else None
    if first is None or vfs is None or first.zName != b"unix":
        return
    vfs.szOsFile = max(vfs.szOsFile, first.szOsFile)
    _platform = first
