"""What was learned of the pages of files that we merged: kept on the local disk, sixteen bytes for each page.

Every page is decompressed and verified when it is merged for the first time. The next merge of the same file finds
the checksums of its pages here, and that the file is still the same by one checksum over its stored bytes. Nothing
relies on these notes: one that is lost, damaged or of another file costs the time to decompress again.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vfsstream.errors import LtxError
from vfsstream.ltx.checksum import crc64
from vfsstream.plan.files import FileInfo

__all__ = ["Note", "PageSums"]

WORTH = 256 << 10
"""Files of so many bytes on get a note; smaller ones are read as quickly without."""

_HEAD = struct.Struct("<8sQQQQ")  # magic, size and checksum of the file, bytes and checksum of the records
_MAGIC = b"VFSSUMS1"
_PIECE = 256 << 10  # a whole number of records


class Note(NamedTuple):
    """What is known of a file.

    Attributes:
        size: bytes of the file.
        checksum: CRC-64 of its bytes as stored.
        records: of its pages; raises :class:`LtxError` at the end when the note is damaged.
    """

    size: int
    checksum: int
    records: Iterator[bytes]


class PageSums:
    """The notes in a folder.

    Args:
        directory: exists while something is to be noted; may vanish.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _path(self, info: FileInfo) -> Path:
        return self.directory / f"{info.level}-{info.min_txid}-{info.max_txid}"

    def find(self, info: FileInfo) -> Note | None:
        """The note of a file, if there is one of a file of this size."""
        path = self._path(info)
        with contextlib.suppress(OSError, struct.error):
            with open(path, "rb", buffering=0) as file:
                magic, size, checksum, length, total = _HEAD.unpack(file.read(_HEAD.size))
            if magic == _MAGIC and size == info.size:
                return Note(size, checksum, _records(path, length, total))
        return None

    def begin(self) -> NewNote:
        """A note to be filled while its file is written."""
        return NewNote(self)

    def forget(self, info: FileInfo) -> None:
        """Delete the note of a file."""
        with contextlib.suppress(OSError):
            self._path(info).unlink()

    def keep(self, infos: Collection[FileInfo]) -> None:
        """Delete all notes but those of these files."""
        wanted = {self._path(info).name for info in infos if info.size >= WORTH}
        with contextlib.suppress(OSError):
            for name in os.listdir(self.directory):
                if name not in wanted:
                    (self.directory / name).unlink()


class NewNote:
    """Collects records. A full disk is no error: there is no note then."""

    def __init__(self, sums: PageSums) -> None:
        self._sums = sums
        self._temporary = sums.directory / "new.tmp"
        self._file: BinaryIO | None = None
        self._length = self._checksum = 0
        with contextlib.suppress(OSError):
            sums.directory.mkdir(mode=0o700, exist_ok=True)
            self._file = open(self._temporary, "wb")  # noqa: SIM115 - closed by finish or close
            self._file.write(bytes(_HEAD.size))

    def add(self, records: bytes) -> None:
        """The next pages of the file."""
        if self._file is not None:
            try:
                self._file.write(records)
            except OSError:
                self.close()
            self._length += len(records)
            self._checksum = crc64(records, self._checksum)

    def finish(self, info: FileInfo, checksum: int) -> None:
        """The file was written.

        Args:
            checksum: CRC-64 of its bytes.
        """
        if self._file is None or info.size < WORTH:
            self.close()
            return
        with contextlib.suppress(OSError):
            self._file.seek(0)
            self._file.write(_HEAD.pack(_MAGIC, info.size, checksum, self._length, self._checksum))
            self._file.close()
            os.replace(self._temporary, self._sums._path(info))
        self.close()

    def close(self) -> None:
        """Leave nothing unfinished. Idempotent."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)
            self._file = None


def _records(path: Path, length: int, total: int) -> Iterator[bytes]:
    checksum = 0
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
        file.seek(_HEAD.size)
        while length > 0 and (data := file.read(min(_PIECE, length))):
            checksum = crc64(data, checksum)
            length -= len(data)
            yield data
    if length or checksum != total:
        raise LtxError("what was noted of the pages is damaged", name=str(path))
