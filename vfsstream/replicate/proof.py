"""Reading back what was written, before anything may be deleted because of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vfsstream.errors import CorruptError, NotFound
from vfsstream.ltx.checksum import crc64
from vfsstream.ltx.decoder import Decoder
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.index import PageIndex, index_start
from vfsstream.plan.files import FileInfo
from vfsstream.replica.replica import Replica

__all__ = ["FULL_READ", "Fingerprint", "check_stored", "prove", "read_back"]

FULL_READ = 64 << 20
"""Files up to so many bytes are read back whole; of larger ones in a remote store both ends, byte for byte."""

_END = 64 << 10


@dataclass
class Fingerprint:
    """What went into a file, taken while it passed: size, checksum and both ends of its bytes."""

    size: int = 0
    checksum: int = 0
    head: bytes = b""
    tail: bytes = field(default=b"", repr=False)

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the chunks on unchanged."""
        for chunk in chunks:
            self.size += len(chunk)
            self.checksum = crc64(chunk, self.checksum)
            if len(self.head) < HEADER_SIZE:
                self.head += bytes(chunk[: HEADER_SIZE - len(self.head)])
            self.tail = bytes(chunk[-_END:]) if len(chunk) >= _END else (self.tail + chunk)[-_END:]
            yield chunk


def read_back(replica: Replica, info: FileInfo, written: Fingerprint) -> None:
    """Compare a file in the store with what was sent there.

    Raises:
        CorruptError: they differ.
        StoreError: the file cannot be read.
    """
    found = Fingerprint()
    try:
        if info.size <= FULL_READ or replica.store.kind in ("file", "memory"):
            for _ in found.watch(replica.stream(info)):
                pass
            same = found == written
        else:
            end = replica.fetch(info, -len(written.tail))
            head = replica.fetch(info, 0, HEADER_SIZE).data
            same = (head, end.data) == (written.head, written.tail) and end.total_size in (None, written.size)
    except NotFound:
        same = False
    if not same:
        raise CorruptError(
            f"{replica.key(info)} in {replica.describe()} is not what was written there "
            f"({written.size} bytes sent, {found.size or info.size} found)",
            hint="the store loses or changes data; nothing that this file replaces was deleted",
        )


def prove(replica: Replica, info: FileInfo) -> None:
    """Read a file that somebody wrote earlier: all of it when it is small, else header, index and size.

    Raises:
        LtxError: it is damaged.
        NotFound: it is not there.
    """
    name = replica.key(info)
    if info.size <= FULL_READ:
        check_stored(replica, info)
        return
    tail = replica.fetch(info, -_END)
    size = tail.total_size or info.size
    start = index_start(tail.data, size, name)
    header = Header.unpack(replica.fetch(info, 0, HEADER_SIZE).data, name=name)
    data = tail.data[-(size - start) :] if size - start <= len(tail.data) else replica.fetch(info, start).data
    PageIndex.decode(data, header, size, name)
    header.check_span(info.min_txid, info.max_txid, name)


def check_stored(replica: Replica, info: FileInfo) -> None:
    """Decode a whole file: every checksum.

    Raises:
        LtxError: it is damaged, or its header names other TXIDs than its key.
    """
    name = replica.key(info)
    decoder = Decoder(replica.stream(info), name)
    for _ in decoder.runs():
        pass
    decoder.header.check_span(info.min_txid, info.max_txid, name)
