"""Reading and writing at a position of an open file, also where the system has no call for it (Windows)."""

from __future__ import annotations

import os
import threading

__all__ = ["read_at", "write_at"]

_moving = threading.Lock()  # the position belongs to the file: who moves it must be alone until the call is done


def _read_at(file: int, size: int, position: int) -> bytes:
    with _moving:
        os.lseek(file, position, os.SEEK_SET)
        return os.read(file, size)


def _write_at(file: int, data: bytes | memoryview, position: int) -> int:
    with _moving:
        os.lseek(file, position, os.SEEK_SET)
        return os.write(file, data)


read_at = getattr(os, "pread", _read_at)
"""``read_at(file, size, position)``: at most ``size`` bytes; fewer at the end of the file."""
write_at = getattr(os, "pwrite", _write_at)
"""``write_at(file, data, position)``: how many bytes were written."""
