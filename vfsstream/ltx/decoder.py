"""Reading whole LTX files: chunks of the file go in, pages come out, and everything is checked."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate

from vfsstream.errors import LtxError
from vfsstream.ltx.checksum import FLAG, crc64, page_checksum, rolling_checksum
from vfsstream.ltx.encoder import Trailer
from vfsstream.ltx.frames import (
    BLOCK,
    END_MARKER,
    FRAME_HEAD,
    PAGE_HEAD,
    inflate,
    legacy_frame_end,
    legacy_page,
    max_block_size,
)
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.index import TAIL_SIZE, encode_entries

__all__ = ["Decoder"]

Frame = tuple[int, memoryview, bytes]


class Decoder:
    """Reads one LTX file from its chunks, strictly.

    The header is read at once; iterate to get ``(pgno, page)``. Only when the iteration ends without an error
    is the file known to be whole: its checksum covers everything before.

    Args:
        chunks: the bytes of the file, of any sizes.
        name: key or path of the file, for messages.
        strict: ``False`` tolerates pages above the database size, which merging drops.

    Attributes:
        header: of the file.
        trailer: after the iteration has ended, else ``None``.

    Raises:
        LtxError: the first rule broken, with its offset.
    """

    def __init__(self, chunks: Iterable[bytes], name: str | None = None, *, strict: bool = True) -> None:
        self.name = name
        self.trailer: Trailer | None = None
        self._chunks = iter(chunks)
        self._strict = strict
        self._buffer = memoryview(b"")
        self._at = 0  # position in the buffer
        self._base = 0  # offset in the file of the buffer's first byte
        head = self._take(HEADER_SIZE, "header")
        self.header = Header.unpack(head, name)
        self._crc = crc64(head)
        self._pgnos = array("I")
        self._sizes = array("I")
        self._rolling = FLAG

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for pgno, _, page in self.frames():
            yield pgno, page

    def frames(self) -> Iterator[Frame]:
        """``(pgno, frame as stored, page)`` of every page, in either encoding; may be iterated once."""
        size = self.header.page_size
        largest = max_block_size(size)
        head_size, unpack = FRAME_HEAD.size, FRAME_HEAD.unpack_from
        track = self.header.tracks_checksums and self.header.is_snapshot
        last = 0
        while True:
            if len(self._buffer) - self._at < head_size and not self._fill(head_size):
                self._need(len(END_MARKER), "page header")
            at = self._at
            buffer = self._buffer
            pgno, flags = PAGE_HEAD.unpack_from(buffer, at)
            if pgno == 0:
                break
            self._check_order(pgno, last)
            if flags == BLOCK:
                self._need(head_size, "page frame")
                (_, _, length) = unpack(self._buffer, self._at)
                if length > largest:
                    raise self._error(f"page {pgno}: block of {length} bytes, at most {largest} expected")
                frame = self._take(head_size + length, f"page {pgno}")
                page = self._inflate(pgno, frame[head_size:], size, len(frame))
                crc = crc64(frame[:head_size], self._crc)
            else:
                frame, page = self._legacy(pgno, flags)
                crc = crc64(frame[: PAGE_HEAD.size], self._crc)
            self._crc = crc64(page, crc)
            if track:
                self._rolling = rolling_checksum(self._rolling, page_checksum(pgno, page))
            self._pgnos.append(pgno)
            self._sizes.append(len(frame))
            last = pgno
            yield pgno, frame, page
        self._finish(last)

    def _check_order(self, pgno: int, last: int) -> None:
        header = self.header
        if pgno <= last:
            raise self._error(f"page {pgno} after page {last}")
        if pgno == header.lock_pgno:
            raise self._error(f"page {pgno} is the lock page")
        if pgno > header.commit and self._strict:
            raise self._error(f"page {pgno} above the database size of {header.commit} pages")
        if header.is_snapshot and pgno != last + 1 and not self._lock_between(last, pgno):
            raise self._error(f"page {last + 1} is missing in a full image, page {pgno} found")

    def _lock_between(self, last: int, pgno: int) -> bool:
        return pgno == last + 2 and self.header.lock_pgno == last + 1

    def _inflate(self, pgno: int, block: memoryview, size: int, back: int) -> bytes:
        try:
            return inflate(block, size)
        except LtxError as error:
            raise self._error(f"page {pgno}: {error.message}", back) from error

    def _legacy(self, pgno: int, flags: int) -> tuple[memoryview, bytes]:
        if flags:
            raise self._error(f"page {pgno}: unknown page flags {flags:#x}")
        size = self.header.page_size
        try:
            while (end := legacy_frame_end(self._buffer, self._at + PAGE_HEAD.size, size)) is None:
                if not self._fill(len(self._buffer) - self._at + 1):
                    raise LtxError("file ends in the middle of the frame")
            page = legacy_page(self._buffer[self._at + PAGE_HEAD.size : end], size)
        except LtxError as error:
            raise self._error(f"page {pgno}: {error.message}") from error
        frame = self._buffer[self._at : end]
        self._at = end
        return frame, page

    def _finish(self, last: int) -> None:
        header = self.header
        marker = self._take(len(END_MARKER), "end marker")
        if bytes(marker) != END_MARKER:
            raise self._error("page number 0 with page flags", len(marker))
        if header.is_snapshot and last < header.commit and not self._lock_between(last, header.commit + 1):
            raise self._error(f"full image ends at page {last}, expected {header.commit}")
        offsets = list(accumulate(self._sizes, initial=HEADER_SIZE))[:-1]
        entries = encode_entries(self._pgnos, offsets, self._sizes) + b"\0"
        start = self._base + self._at
        stored = self._take(len(entries) + TAIL_SIZE, "page index and trailer")
        if bytes(stored[: len(entries)]) != entries:
            raise self._error("page index differs from the frames of the file", len(stored))
        tail = bytes(stored[len(entries) :])
        if int.from_bytes(tail[:8], "big") != len(entries):
            raise self._error(f"page index states a wrong size, expected {len(entries)}", TAIL_SIZE)
        checksum = FLAG | crc64(stored[:-8], crc64(marker, self._crc))
        self._check_trailer(int.from_bytes(tail[8:16], "big"), int.from_bytes(tail[16:], "big"), checksum)
        if self._fill(1):
            raise self._error(f"bytes after the trailer (index at {start})")
        end = self._base + self._at
        self.trailer = Trailer(int.from_bytes(tail[8:16], "big"), checksum, end)

    def _check_trailer(self, post_apply: int, stored: int, computed: int) -> None:
        header = self.header
        if stored != computed:
            raise self._error(f"file checksum is {stored:016x}, its content gives {computed:016x}", 8)
        if header.tracks_checksums != bool(post_apply & FLAG) or (not header.tracks_checksums and post_apply):
            raise self._error(f"invalid database checksum after the file: {post_apply:016x}", 16)
        if header.tracks_checksums and header.is_snapshot and post_apply != self._rolling:
            raise self._error(f"database checksum is {post_apply:016x}, its pages give {self._rolling:016x}", 16)

    def _take(self, size: int, what: str) -> memoryview:
        self._need(size, what)
        start = self._at
        self._at = start + size
        return self._buffer[start : self._at]

    def _need(self, size: int, what: str) -> None:
        if not self._fill(size):
            have = len(self._buffer) - self._at
            raise self._error(f"file ends in the middle of its {what}: {have} of {size} bytes", -have)

    def _fill(self, size: int) -> bool:
        """Make at least ``size`` bytes available at the position; ``False`` at the end of the input."""
        have = len(self._buffer) - self._at
        if have >= size:
            return True
        parts = [bytes(self._buffer[self._at :])]
        while have < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            parts.append(chunk)
            have += len(chunk)
        self._base += self._at
        self._buffer = memoryview(b"".join(parts))
        self._at = 0
        return have >= size

    def _error(self, message: str, back: int = 0) -> LtxError:
        return LtxError(message, name=self.name, offset=self._base + self._at - back)
