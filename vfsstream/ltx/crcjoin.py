"""The checksum of a sequence from the checksums of its pieces.

CRC-64 is linear: moving a checksum along by some bytes is a fixed map of its 64 bits, and a piece adds its own checksum
by exclusive or. Pieces of equal size are joined two by two, many pairs at a time.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from vfsstream.ltx.checksum import crc64

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Checksums = npt.NDArray[np.uint64]

__all__ = ["join_checksums"]


def join_checksums(before: int, checksums: Checksums, size: int) -> int:
    """The checksum of what came before followed by pieces.

    Args:
        before: finished checksum of all that came before.
        checksums: finished checksum of each piece alone.
        size: bytes of every piece.
    """
    import numpy as np

    count, values, doublings = len(checksums), checksums, 0
    if not count:
        return before
    while len(values) > 1:
        if len(values) % 2:  # the checksum of nothing is zero, and stays zero wherever it is moved
            values = np.concatenate((np.zeros(1, np.uint64), values))
        values = _moved(values[0::2], _tables(size, doublings)) ^ values[1::2]
        doublings += 1
    moved = np.array([before], np.uint64)
    for bit in range(count.bit_length()):
        if count >> bit & 1:
            moved = _moved(moved, _tables(size, bit))
    return int(moved[0] ^ values[0])


def _moved(values: Checksums, tables: Checksums) -> Checksums:
    import numpy as np

    octets = np.ascontiguousarray(values, dtype="<u8").view(np.uint8).reshape(-1, 8)
    moved: Checksums = tables[0][octets[:, 0]]
    for place in range(1, 8):
        moved ^= tables[place][octets[:, place]]
    return moved


@lru_cache(maxsize=256)
def _tables(size: int, doublings: int) -> Checksums:
    """For each octet of a checksum what it becomes when ``size << doublings`` bytes follow."""
    import numpy as np

    if doublings:
        half: Checksums = _tables(size, doublings - 1)
        basis = _moved(_moved(np.uint64(1) << np.arange(64, dtype=np.uint64), half), half)
    else:
        zeros = bytes(size)
        start = crc64(zeros)
        basis = np.array([crc64(zeros, 1 << bit) ^ start for bit in range(64)], np.uint64)
    tables = np.zeros((8, 256), np.uint64)
    for bit in range(64):
        step = 1 << bit % 8
        tables[bit // 8, step : 2 * step] = tables[bit // 8, :step] ^ basis[bit]
    return tables
