"""The whole database streamed: ranges of LTX files in a nameless local file, for when memory is too small."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Sequence

from vfsstream.plan.files import FileInfo
from vfsstream.replica.positioned import read_at, write_at
from vfsstream.vfs.flight import Flight

__all__ = ["Spill"]


class Spill:
    """Flights that end on disk instead of in memory.

    Args:
        files: what the file numbers of the ranges mean.
        flights: of all ranges, none overlapping.

    Raises:
        OSError: no room for a temporary file.
    """

    def __init__(self, files: Sequence[FileInfo], flights: Sequence[Flight]) -> None:
        self.files = files
        self._numbers = {info: number for number, info in enumerate(files)}
        self.flights = sorted(flights, key=lambda f: (f.range.file, f.range.offset))
        self._starts = [(f.range.file, f.range.offset) for f in self.flights]
        self._positions: list[int] = []
        position = 0
        for flight in self.flights:
            self._positions.append(position)
            position += flight.range.size
        self.size = position
        self._file = tempfile.TemporaryFile(prefix="vfsstream-")  # noqa: SIM115 - closed by close()

    def find(self, info: FileInfo, offset: int, size: int) -> int | None:
        """The number of the flight that brings these bytes of a file."""
        file = self._numbers.get(info)
        if file is None:
            return None
        number = bisect_right(self._starts, (file, offset)) - 1
        if number < 0:
            return None
        found = self.flights[number].range
        inside = found.file == file and offset + size <= found.offset + found.size
        return number if inside else None

    def store(self, flight: Flight, data: bytes) -> None:
        """Write a range; the flight then ends without bytes in memory."""
        write_at(self._file.fileno(), data, self._positions[self.flights.index(flight)])

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of a flight that has arrived."""
        begin = self._positions[number] + offset - self.flights[number].range.offset
        return read_at(self._file.fileno(), size, begin)

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()
