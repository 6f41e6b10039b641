"""SQLite's C types for files and virtual file systems, as far as they are used here.

SQLite documents them at https://sqlite.org/c3ref/io_methods.html and https://sqlite.org/c3ref/vfs.html.
"""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["METHODS", "OPEN", "Int", "Long", "Pointer", "Text", "VfsStructure"]

Pointer, Int, Long, Text = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_char_p

METHODS: dict[str, tuple[Any, ...]] = {
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
"""What the methods of a file take, in their order in version 1 of ``sqlite3_io_methods``; all return an int."""

OPEN = ctypes.CFUNCTYPE(Int, Pointer, Pointer, Pointer, Int, ctypes.POINTER(Int))
"""``xOpen`` of a VFS."""


class VfsStructure(ctypes.Structure):
    """A ``sqlite3_vfs``."""

    _fields_ = (
        ("iVersion", Int),
        ("szOsFile", Int),
        ("mxPathname", Int),
        ("pNext", Pointer),
        ("zName", Text),
        ("pAppData", Pointer),
        ("xOpen", Pointer),
        ("xDelete", Pointer),
        ("xAccess", Pointer),
        ("xFullPathname", Pointer),
        ("rest", Pointer * 14),
    )
