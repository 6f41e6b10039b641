"""Reading a whole LTX file in one pass, every rule checked."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from vfsstream.errors import LtxError
from vfsstream.ltx.bulk import block_size, inflate_frames, stored_head
from vfsstream.ltx.checksum import FLAG, crc64, page_checksum, rolling_checksum
from vfsstream.ltx.encoder import Trailer, index_pieces
from vfsstream.ltx.frames import (
    BLOCK,
    END_MARKER,
    FRAME_HEAD,
    PAGE_HEAD,
    legacy_frame_end,
    legacy_page,
    max_block_size,
)
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.index import TAIL_SIZE, TRAILER_SIZE, PageIndex
from vfsstream.ltx.order import PageOrder

__all__ = ["Batch", "Decoder", "Run"]

_BATCH = 256 << 10
"""Bytes of pages decompressed at once: more would not stay in the processor's cache."""


class Run(NamedTuple):
    """Some consecutive pages of a file, as the file checksum covers them.

    Attributes:
        pgnos: page numbers, ascending.
        data: each page behind the head of its frame.
        head: bytes of a head.
        raw: the frames as stored, one behind the other.
        sizes: bytes of each frame.
    """

    pgnos: list[int]
    data: bytes
    head: int
    raw: bytes | memoryview
    sizes: list[int]

    def pages(self) -> list[memoryview]:
        """The pages, nothing copied."""
        view, stride = memoryview(self.data), len(self.data) // len(self.pgnos)
        return [view[end - stride + self.head : end] for end in range(stride, len(view) + 1, stride)]

    def frames(self) -> list[bytes]:
        """The frames as stored."""
        ends = list(accumulate(self.sizes))
        return [bytes(self.raw[end - size : end]) for end, size in zip(ends, self.sizes, strict=True)]


class Batch(NamedTuple):
    """Some consecutive pages of a file.

    Attributes:
        pgnos: page numbers, ascending.
        pages: their contents.
        frames: the frames as stored, when they were asked for, else empty.
    """

    pgnos: list[int]
    pages: list[bytes]
    frames: list[bytes]


class _Buffer:
    """The bytes at hand, and how to get more."""

    __slots__ = ("base", "chunks", "data", "name", "position")

    def __init__(self, chunks: Iterable[bytes], name: str | None) -> None:
        self.chunks = iter(chunks)
        self.name = name
        self.data = b""
        self.position = 0
        self.base = 0  # offset in the file of data[0]

    def fill(self, size: int) -> bool:
        """Have ``size`` bytes from the position on; ``False`` when the file ends before."""
        missing = self.position + size - len(self.data)
        if missing <= 0:
            return True
        parts = [self.data[self.position :]]
        self.base += self.position
        self.position = 0
        for chunk in self.chunks:
            parts.append(bytes(chunk))
            missing -= len(chunk)
            if missing <= 0:
                break
        self.data = b"".join(parts)
        return missing <= 0

    def take(self, size: int, what: str) -> bytes:
        """The next ``size`` bytes."""
        if not self.fill(size):
            raise self.truncated(what)
        start = self.position
        self.position = start + size
        return self.data[start : self.position]

    def truncated(self, what: str) -> LtxError:
        """The error for a file that ends too early."""
        end = self.base + len(self.data)
        return LtxError(f"LTX file truncated: it ends inside {what}", name=self.name, offset=end)


class Decoder:
    """Reads one LTX file from its bytes in order. Memory: a chunk, a batch, eight bytes for each page.

    What was yielded may be used only once the iteration has ended: the checksum stands at the end of the file.

    Args:
        chunks: the file, in chunks of any size.
        name: key or path, for messages.
        strict: refuse pages above commit; a compaction accepts and drops them.

    Attributes:
        name: as given.
        header: of the file, known at once.
        trailer: known when the iteration has ended.

    Raises:
        LtxError: anything that breaks a rule of the format, with the offset.
    """

    def __init__(self, chunks: Iterable[bytes], name: str | None = None, *, strict: bool = True) -> None:
        self._buffer = _Buffer(chunks, name)
        if not self._buffer.fill(HEADER_SIZE):
            Header.unpack(self._buffer.data, name)
        head = self._buffer.take(HEADER_SIZE, "the header")
        self.header = Header.unpack(head, name)
        self.trailer: Trailer | None = None
        self.name = name
        self._crc = crc64(head)
        self._order = PageOrder(self.header, strict=strict)
        self._track = FLAG if self.header.tracks_checksums and self.header.is_snapshot else 0
        self._pgnos, self._sizes = array("I"), array("I")

    def position(self) -> tuple[int, int, int]:
        """Between two runs: ``(offset of the next frame, checksum of all before it, frames before it)``."""
        return self._buffer.base + self._buffer.position, self._crc, len(self._pgnos)

    def resume(self, offset: int, checksum: int, frames: Iterable[tuple[int, int, int]]) -> None:
        """Go on at a frame in the middle: the chunks hold the header alone, then what begins at ``offset``.

        Args:
            offset: of the next frame.
            checksum: as :meth:`position` gave it there.
            frames: the index entries before it.

        Raises:
            LtxError: these entries do not lead to that offset, or the file tracks checksums of the database.
        """
        end = HEADER_SIZE
        for pgno, start, size in frames:
            if start != end:
                raise LtxError(f"page {pgno} at byte {start}, expected at {end}", name=self.name)
            self._order.add(pgno)
            self._pgnos.append(pgno)
            self._sizes.append(size)
            end = start + size
        if end != offset or self._track:
            raise LtxError(f"cannot go on at byte {offset}: a page ends at {end}", name=self.name)
        self._crc = checksum
        self._buffer.base = offset - self._buffer.position

    @property
    def index(self) -> PageIndex:
        """The page index, as far as the file has been read."""
        offsets = array("Q")
        offset = HEADER_SIZE
        for size in self._sizes:
            offsets.append(offset)
            offset += size
        return PageIndex(self._pgnos.tolist(), offsets.tolist(), self._sizes.tolist())

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """``(pgno, page)`` of every page."""
        for batch in self.batches():
            yield from zip(batch.pgnos, batch.pages, strict=True)

    def batches(self, batch_size: int = _BATCH, *, frames: bool = False) -> Iterator[Batch]:
        """Every page in batches.

        Args:
            batch_size: bytes of pages in a batch; at least one page.
            frames: give the stored frames too.
        """
        for run in self.runs(lambda: batch_size):
            yield Batch(run.pgnos, [bytes(page) for page in run.pages()], run.frames() if frames else [])

    def runs(self, batch_size: Callable[[], int] = lambda: _BATCH) -> Iterator[Run]:
        """Every page in batches, pages not cut apart: the fast way.

        Args:
            batch_size: gives the bytes of pages of the next batch; at least one page is read.
        """
        try:
            while True:
                kind = self._next_kind()
                if kind is None:
                    break
                limit = max(1, batch_size() // self.header.page_size)
                run = self._blocks(limit) if kind == BLOCK else self._legacy(limit)
                self._crc = crc64(run.data, self._crc)
                self._pgnos.extend(run.pgnos)
                self._track_pages(run)
                yield run
        except LtxError as error:
            if error.offset is None:
                error.offset, error.name = self._buffer.base + self._buffer.position, self.name
            raise
        self._read_end()

    def _next_kind(self) -> int | None:
        """The flags of the next frame; ``None`` at the end marker."""
        buffer = self._buffer
        if not buffer.fill(FRAME_HEAD.size):  # what follows the end marker is longer than this
            raise buffer.truncated("a page header")
        pgno, flags = PAGE_HEAD.unpack_from(buffer.data, buffer.position)
        return None if pgno == 0 and flags == 0 else int(flags)

    def _blocks(self, limit: int) -> Run:
        """Up to ``limit`` pages in today's encoding."""
        buffer, order, page_size = self._buffer, self._order, self.header.page_size
        longest, unpack, head_size = max_block_size(page_size), FRAME_HEAD.unpack_from, FRAME_HEAD.size
        parts: list[bytes | memoryview] = []
        pgnos: list[int] = []
        sizes: list[int] = []
        start, data = buffer.position, buffer.data
        offset, since, available, view = buffer.base + start, start, len(data), memoryview(data)
        raw: list[memoryview] = []
        while len(pgnos) < limit:
            body = start + head_size
            end = body
            if body <= available:
                pgno, flags, size = unpack(data, start)
                if flags != BLOCK:
                    break
                if size > longest:
                    raise LtxError(f"LZ4 block of {size} bytes for a page of {page_size}")
                end = body + size
            if end > available or body > available:
                # What follows the last frame is longer than a head, so a head can always be awaited.
                raw.append(view[since:start])
                if not buffer.fill(end - start):
                    raise buffer.truncated(f"page {pgno}" if end > body else "a page header")
                start = since = buffer.position
                data = buffer.data
                available, view = len(data), memoryview(data)
                continue
            order.add(pgno)
            parts += (stored_head, view[start:body], block_size(size), view[body:end])
            pgnos.append(pgno)
            sizes.append(head_size + size)
            buffer.position = start = end
        try:
            pages = inflate_frames(parts, page_size)
        except LtxError as error:
            offset += sum(sizes[: error.offset or 0])
            raise LtxError(error.message, name=self.name, offset=offset) from error
        self._sizes.extend(sizes)
        raw.append(view[since:start])
        return Run(pgnos, pages, head_size, raw[0] if len(raw) == 1 else b"".join(raw), sizes)

    def _legacy(self, limit: int) -> Run:
        """Up to ``limit`` pages in the encoding of Litestream before 0.5.16."""
        buffer = self._buffer
        pgnos: list[int] = []
        parts: list[bytes] = []
        frames: list[bytes] = []
        sizes: list[int] = []
        while len(pgnos) < limit:
            if not buffer.fill(FRAME_HEAD.size):
                raise buffer.truncated("a page header")
            pgno, flags = PAGE_HEAD.unpack_from(buffer.data, buffer.position)
            if pgnos and (flags == BLOCK or not pgno):
                break
            head, page, end = self._read_legacy(pgno, flags)
            self._order.add(pgno)
            pgnos.append(pgno)
            parts += (head, page)
            sizes.append(end - buffer.position)
            frames.append(buffer.data[buffer.position : end])
            buffer.position = end
        self._sizes.extend(sizes)
        return Run(pgnos, b"".join(parts), PAGE_HEAD.size, b"".join(frames), sizes)

    def _read_legacy(self, pgno: int, flags: int) -> tuple[bytes, bytes, int]:
        """``(bytes under the checksum before the page, page, end of the frame in the buffer)``."""
        if flags or not pgno:
            raise LtxError(f"page {pgno} with unknown flags {flags:#x}")
        buffer, page_size = self._buffer, self.header.page_size
        while True:
            start = buffer.position + PAGE_HEAD.size
            end = legacy_frame_end(buffer.data, start, page_size)
            if end is not None:
                return buffer.data[buffer.position : start], legacy_page(buffer.data[start:end], page_size), end
            if not buffer.fill(len(buffer.data) - buffer.position + 1):
                raise buffer.truncated(f"page {pgno}")

    def _track_pages(self, run: Run) -> None:
        if self._track:
            for pgno, page in zip(run.pgnos, run.pages(), strict=True):
                self._track = rolling_checksum(self._track, page_checksum(pgno, page))

    def _read_end(self) -> None:
        buffer = self._buffer
        try:
            self._order.finish()
            self._take(len(END_MARKER), "the end marker")
            self._read_index()
            post = self._take(TRAILER_SIZE // 2, "the trailer")
            checksum = buffer.take(TRAILER_SIZE // 2, "the trailer")
            trailer = Trailer.unpack(post + checksum, buffer.base + buffer.position)
            trailer.check(self.header)
            if trailer.file_checksum != FLAG | self._crc:
                found, computed = trailer.file_checksum, FLAG | self._crc
                raise LtxError(f"file checksum {found:016x}, but the content gives {computed:016x}")
            if self._track and trailer.post_apply_checksum != self._track:
                found = trailer.post_apply_checksum
                raise LtxError(f"database checksum {found:016x}, but the pages give {self._track:016x}")
            if buffer.fill(1):
                raise LtxError("bytes after the trailer")
        except LtxError as error:
            if error.offset is None:
                error.offset, error.name = buffer.base + buffer.position, self.name
            raise
        self.trailer = trailer

    def _take(self, size: int, what: str) -> bytes:
        data = self._buffer.take(size, what)
        self._crc = crc64(data, self._crc)
        return data

    def _read_index(self) -> None:
        size = 1
        for piece in index_pieces(self._pgnos, self._sizes):
            size += len(piece)
            if self._take(len(piece), "the page index") != piece:
                raise LtxError("page index differs from the page frames")
        if self._take(1, "the page index") != b"\0":
            raise LtxError("page index differs from the page frames")
        stated = int.from_bytes(self._take(TAIL_SIZE - TRAILER_SIZE, "the size of the page index"), "big")
        if stated != size:
            raise LtxError(f"page index of {size} bytes, but its size field says {stated}")
