"""Writing LTX files: pages in ascending order go in, chunks of the file come out."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from vfsstream.errors import LtxError
from vfsstream.ltx.checksum import FLAG, crc64
from vfsstream.ltx.frames import END_MARKER, FRAME_HEAD, encode_frame
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.index import encode_entries

__all__ = ["CHUNK_SIZE", "Encoder", "Trailer", "encode"]

CHUNK_SIZE = 1 << 20
"""Bytes gathered before they are handed on."""

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Trailer:
    """The end of an LTX file.

    Attributes:
        post_apply_checksum: database checksum after this file; 0 when not tracked.
        file_checksum: over header, page headers, decompressed pages, index; bit 63 set.
        size: bytes of the whole file.
    """

    post_apply_checksum: int
    file_checksum: int
    size: int


class Encoder:
    """Writes one LTX file; memory holds one chunk and eight bytes per page.

    Args:
        header: complete; it cannot be patched later.
        write: receives the file in chunks, in order.

    Raises:
        LtxError: a page that breaks the order, size or range that the header promises.
    """

    def __init__(self, header: Header, write: Callable[[bytes], object]) -> None:
        self.header = header
        self._write = write
        self._lock_pgno = header.lock_pgno
        self._snapshot = header.is_snapshot
        self._pgnos = array("I")
        self._sizes = array("I")
        self._last = 0
        packed = header.pack()
        self._crc = crc64(packed)
        self._parts: list[Buffer] = [packed]
        self._pending = len(packed)
        self._written = 0

    def add_page(self, pgno: int, page: Buffer) -> None:
        """Compress and write a page."""
        if len(page) != self.header.page_size:
            raise LtxError(f"page {pgno} of {len(page)} bytes, expected {self.header.page_size}")
        self.add_frame(pgno, encode_frame(pgno, page), page)

    def add_frame(self, pgno: int, frame: Buffer, page: Buffer) -> None:
        """Write a page whose block frame exists already, verbatim.

        Args:
            pgno: page number.
            frame: the frame in today's encoding; kept until the next chunk is handed on.
            page: its decompressed bytes, which the checksum covers.
        """
        if pgno <= self._last or pgno == self._lock_pgno or pgno > self.header.commit:
            raise LtxError(self._misplaced(pgno))
        if self._snapshot and pgno != self._last + 1 and not self._skips_lock_page(pgno):
            raise LtxError(f"page {self._last + 1} is missing in a full image of TXID {self.header.max_txid}")
        self._last = pgno
        self._pgnos.append(pgno)
        self._sizes.append(len(frame))
        self._crc = crc64(page, crc64(frame[: FRAME_HEAD.size], self._crc))
        self._parts.append(frame)
        self._pending += len(frame)
        if self._pending >= CHUNK_SIZE:
            self._flush()

    def _skips_lock_page(self, pgno: int) -> bool:
        return pgno == self._last + 2 and self._lock_pgno == self._last + 1

    def _misplaced(self, pgno: int) -> str:
        if pgno == self._lock_pgno:
            return f"page {pgno} is the lock page, which is never stored"
        if pgno > self.header.commit:
            return f"page {pgno} above the database size of {self.header.commit} pages"
        return f"page {pgno} after page {self._last}: page numbers must ascend"

    def finish(self, post_apply_checksum: int = 0) -> Trailer:
        """Write end marker, index and trailer.

        Raises:
            LtxError: a full image that ends before the last page, or a checksum that the header rules out.
        """
        header = self.header
        if self._snapshot and self._last != header.commit and not self._skips_lock_page(header.commit + 1):
            raise LtxError(f"full image ends at page {self._last}, expected {header.commit}")
        if header.tracks_checksums != bool(post_apply_checksum & FLAG):
            raise LtxError(f"invalid database checksum after the file: {post_apply_checksum:016x}")
        offsets = accumulate(self._sizes, initial=HEADER_SIZE)
        entries = encode_entries(self._pgnos, list(offsets)[:-1], self._sizes)
        size = (len(entries) + 1).to_bytes(8, "big")
        tail = b"".join((END_MARKER, entries, b"\0", size, post_apply_checksum.to_bytes(8, "big")))
        checksum = FLAG | crc64(tail, self._crc)
        self._parts += (tail, checksum.to_bytes(8, "big"))
        self._pending += len(tail) + 8
        self._flush()
        return Trailer(post_apply_checksum, checksum, self._written)

    def _flush(self) -> None:
        self._write(b"".join(self._parts))
        self._written += self._pending
        self._parts.clear()
        self._pending = 0


def encode(header: Header, pages: Iterable[tuple[int, Buffer]]) -> Iterator[bytes]:
    """A whole file as chunks.

    Args:
        header: complete.
        pages: ``(pgno, page)`` ascending.

    Raises:
        LtxError: as :class:`Encoder`, in the middle of the iteration.
    """
    chunks: list[bytes] = []
    encoder = Encoder(header, chunks.append)
    for pgno, page in pages:
        encoder.add_page(pgno, page)
        if chunks:
            yield from chunks
            chunks.clear()
    encoder.finish()
    yield from chunks
