"""Large files reach the disk while they are written, so that the final fsync has little left to wait for."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

__all__ = ["WriteBehind"]

_PIECE = 8 << 20
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin to write dirty pages, wait for nothing

Start = Callable[[int, int, int], object]


class WriteBehind:
    """Tells the kernel now and then to begin writing what was written to a descriptor front to back.

    A hint for speed only: durability is the business of fsync.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begun = self._end = 0

    def wrote(self, size: int) -> None:
        """So many more bytes were written."""
        self._end += size
        if self._end - self._begun >= _PIECE:
            start = _starter()
            if start is not None:
                start(self._descriptor, self._begun, self._end - self._begun)
            self._begun = self._end


@cache
def _starter() -> Start | None:
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)  # musl on some architectures lacks it
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return lambda descriptor, offset, size: function(descriptor, offset, size, _WRITE)
