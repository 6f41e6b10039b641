"""What SQLite's C code may call of a :class:`~vfsstream.vfs.file.ReplicaFile`, and the result codes it gets."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import apsw

from vfsstream.errors import CorruptError, Interrupted
from vfsstream.vfs.file import ReplicaFile

__all__ = [
    "COMMON",
    "CORRUPT",
    "ERROR",
    "INTERRUPT",
    "IOERR",
    "IOERR_LOCK",
    "IOERR_UNLOCK",
    "NOTFOUND",
    "OK",
    "result_code",
]

OK, ERROR, READONLY, INTERRUPT, IOERR, CORRUPT, NOTFOUND = 0, 1, 8, 9, 10, 11, 12
IOERR_READ, SHORT_READ, IOERR_FSTAT, IOERR_UNLOCK, IOERR_LOCK = (IOERR | n << 8 for n in (1, 2, 7, 8, 15))


def result_code(error: BaseException, otherwise: int) -> int:
    """The result code of a failure; ``otherwise`` where its class says nothing."""
    if isinstance(error, apsw.ReadOnlyError):
        return READONLY
    if isinstance(error, Interrupted | KeyboardInterrupt | apsw.InterruptError):
        return INTERRUPT
    if isinstance(error, CorruptError | apsw.CorruptError):
        return CORRUPT
    return otherwise


def _read(file: ReplicaFile, buffer: int, amount: int, offset: int) -> int:
    data = file.xRead(amount, offset)
    ctypes.memmove(buffer, data if isinstance(data, bytes) else bytes(data), len(data))
    if len(data) < amount:
        ctypes.memset(buffer + len(data), 0, amount - len(data))
        return SHORT_READ
    return OK


def _file_size(file: ReplicaFile, answer: Any) -> int:
    answer[0] = file.xFileSize()
    return OK


def _check_reserved(file: ReplicaFile, answer: Any) -> int:
    answer[0] = 0
    return OK


COMMON: dict[str, tuple[Callable[..., int], int]] = {
    "xRead": (_read, IOERR_READ),
    "xWrite": (lambda *_: READONLY, IOERR),
    "xTruncate": (lambda *_: READONLY, IOERR),
    "xSync": (lambda *_: OK, IOERR),
    "xFileSize": (_file_size, IOERR_FSTAT),
    "xCheckReservedLock": (_check_reserved, IOERR),
    "xSectorSize": (lambda file: file.xSectorSize(), OK),
    "xDeviceCharacteristics": (lambda file: file.xDeviceCharacteristics(), OK),
}
"""Methods that need nothing but the file, each with the result code of a failure that has none of its own."""
