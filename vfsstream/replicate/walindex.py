"""The wal-index: what the other processes know about the log, read from shared memory without a lock.

The first 48 bytes stand there twice; a reader that finds both copies equal and the checksum right has a consistent
answer (https://sqlite.org/walformat.html#the_wal_index_file_format). Words are in the machine's own order, the
salts are the bytes of the log's header.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from vfsstream.errors import DatabaseError
from vfsstream.replicate.sharedfiles import open_shared

__all__ = ["IndexHeader", "WalIndex", "parse_index"]

_COPY = 48
_LENGTH = 136
_VERSION = 3007000
_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class IndexHeader:
    """One consistent look at the wal-index.

    Attributes:
        page_size: bytes; 0 before the first frame of a new log.
        max_frame: number of the last committed frame; 0 when the log is empty.
        commit: database size in pages.
        frame_checksum: the 8 checksum bytes stored in frame ``max_frame``.
        salts: both salts as 8 bytes.
        backfilled: frames already copied into the database.
    """

    page_size: int
    max_frame: int
    commit: int
    frame_checksum: bytes
    salts: bytes
    backfilled: int


def parse_index(data: bytes) -> IndexHeader | None:
    """Read the first 136 bytes of a wal-index; ``None`` while a writer is changing it or before it is made."""
    if len(data) < _LENGTH or data[:_COPY] != data[_COPY : 2 * _COPY]:
        return None
    version, _, _, ready, _, size, max_frame, commit, sum0, sum1 = struct.unpack_from("=IIIBBHIIII", data)
    if version != _VERSION or not ready or _checksum(data[:40]) != struct.unpack_from("=II", data, 40):
        return None
    page_size = (size & 0xFE00) | (size & 1) << 16  # 65536 does not fit into 16 bits and is written as 1
    (backfilled,) = struct.unpack_from("=I", data, 2 * _COPY)
    return IndexHeader(
        page_size,
        max_frame,
        commit,
        struct.pack(">II", sum0, sum1),
        bytes(data[32:40]),
        min(backfilled, max_frame),
    )


def _checksum(data: bytes) -> tuple[int, int]:
    first = second = 0
    words = struct.unpack(f"={len(data) // 4}I", data)
    for index in range(0, len(words), 2):
        first = (first + words[index] + second) & _MASK
        second = (second + words[index + 1] + first) & _MASK
    return first, second


class WalIndex:
    """A mapping of a ``-shm`` file that a SQLite connection of this process has open.

    Descriptor and mapping outlive that connection, and every other of the process: the mapping holds a duplicate of
    the descriptor, and closing either drops all POSIX locks that the process has on the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open_shared(path)
        self._closed = False
        try:
            if os.fstat(self._file.descriptor).st_size < _LENGTH:
                raise DatabaseError(f"{os.fspath(path)} is too short for a wal-index")
            self._map = self._file.map(_LENGTH)
        except BaseException:
            self._file.close()
            raise

    def look(self) -> bytes:
        """The bytes that change with every commit. Costs tens of nanoseconds; compare with an earlier look."""
        return self._map[:_COPY]

    def read(self) -> IndexHeader | None:
        """A consistent header, or ``None`` when a writer is in the middle of a change: try again."""
        return parse_index(self._map[:_LENGTH])

    def identity(self) -> tuple[int, int]:
        """(device, inode) of the mapped file."""
        return self._file.identity()

    def close(self) -> None:
        """Look no more; unmapped and closed as soon as that harms nobody. Idempotent."""
        if not self._closed:
            self._closed = True
            self._file.close()
