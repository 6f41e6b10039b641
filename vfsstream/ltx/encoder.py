"""Writing an LTX file, page by page, in one pass."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, repeat
from typing import TYPE_CHECKING

from vfsstream.errors import LtxError
from vfsstream.ltx.checksum import FLAG, crc64, page_checksum, rolling_checksum
from vfsstream.ltx.frames import (
    BLOCK,
    END_MARKER,
    FRAME_HEAD,
    PAGE_HEAD,
    compress,
    encode_frame,
    encode_legacy_frame,
)
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.index import TRAILER_SIZE, encode_entries
from vfsstream.ltx.order import PageOrder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Encoder", "Trailer", "encode", "in_batches", "index_pieces"]

_Page = tuple[int, bytes | memoryview]

_TRAILER = struct.Struct(">QQ")
_CHUNK = 1 << 20
_PIECE = 1 << 13
_BATCH = 128 << 10
"""Bytes of pages compressed one after the other: what stays in the processor's cache with what becomes of it."""


@dataclass(frozen=True, slots=True)
class Trailer:
    """The last sixteen bytes of an LTX file.

    Attributes:
        post_apply_checksum: database checksum after the file, 0 when not tracked.
        file_checksum: of the file, over its decompressed pages.
        size: bytes of the whole file.
    """

    post_apply_checksum: int
    file_checksum: int
    size: int

    def pack(self) -> bytes:
        """The trailer as stored."""
        return _TRAILER.pack(self.post_apply_checksum, self.file_checksum)

    @classmethod
    def unpack(cls, data: bytes, file_size: int) -> Trailer:
        """Read a trailer from exactly sixteen bytes; what it says is checked by :meth:`check`."""
        post, checksum = _TRAILER.unpack(data)
        return cls(post, checksum, file_size)

    def check(self, header: Header) -> None:
        """Check the rules that concern header and trailer alone.

        Raises:
            LtxError: the first rule broken.
        """
        post = self.post_apply_checksum
        if not self.file_checksum & FLAG:
            raise LtxError(f"invalid file checksum {self.file_checksum:016x}")
        if not header.tracks_checksums and post:
            raise LtxError(f"database checksum {post:016x} in a file that tracks none")
        if header.tracks_checksums and not post & FLAG:
            raise LtxError(f"invalid database checksum {post:016x}")
        if header.commit == 0 and post != FLAG:
            raise LtxError("a database of no pages in a file that tracks no checksums")


class Encoder:
    """Writes one LTX file. Holds about eight bytes for each page and a chunk of about 1 MiB.

    Args:
        header: of the file; cannot be changed once the first chunk is out.
        write: called with chunks of about 1 MiB, in order.
        legacy: write page frames for readers older than Litestream 0.5.16.

    Raises:
        LtxError: a header that breaks a rule.
    """

    def __init__(self, header: Header, write: Callable[[bytes], object], *, legacy: bool = False) -> None:
        packed = header.pack()
        self.header = header
        self._write = write
        self._encode = encode_legacy_frame if legacy else encode_frame
        self._order = PageOrder(header)
        self._track = FLAG if header.tracks_checksums and header.is_snapshot else 0
        self._crc = crc64(packed)
        self._parts: list[bytes | memoryview] = [packed]
        self._pending = len(packed)
        self._written = 0
        self._pgnos, self._sizes = array("I"), array("I")
        self._apart: list[npt.NDArray[np.uint64]] = []
        self._finished = False

    def add_page(self, pgno: int, page: bytes | bytearray | memoryview) -> None:
        """Compress and append a page.

        Raises:
            LtxError: the page may not come here, or is not of the page size.
        """
        if len(page) != self.header.page_size:
            raise LtxError(f"page {pgno} of {len(page)} bytes, expected {self.header.page_size}")
        self.add_frame(pgno, self._encode(pgno, page), page)

    def add_pages(self, pages: Sequence[_Page]) -> None:
        """Compress and append some pages; errors as for :meth:`add_page`. What was added before an error is no file."""
        page_size = self.header.page_size
        pgnos = [pgno for pgno, _ in pages]
        whole = {len(page) for _, page in pages} == {page_size}
        simple = whole and not self._track and self._encode is encode_frame
        if not simple or not self._order.add_run(pgnos):
            for pgno, page in pages:
                self.add_page(pgno, page)
            return
        self._join()
        blocks = [compress(page, store_size=False) for _, page in pages]
        sizes = [len(block) for block in blocks]
        heads = list(map(FRAME_HEAD.pack, pgnos, repeat(BLOCK), sizes))
        crc = self._crc
        for head, (_, page) in zip(heads, pages, strict=True):
            crc = crc64(page, crc64(head, crc))
        self._crc = crc
        self._pgnos.extend(pgnos)
        self._sizes.extend([size + FRAME_HEAD.size for size in sizes])
        parts: list[bytes] = [b""] * (2 * len(blocks))
        parts[0::2], parts[1::2] = heads, blocks
        self._parts += parts
        self._pending += sum(sizes) + FRAME_HEAD.size * len(sizes)
        if self._pending >= _CHUNK:
            self._flush()

    def add_frame(self, pgno: int, frame: bytes, page: bytes | bytearray | memoryview) -> None:
        """Append a frame made elsewhere, as it is. The caller answers that ``frame`` holds ``page``.

        Raises:
            LtxError: the page may not come here.
        """
        self._order.add(pgno)
        self._join()
        head = FRAME_HEAD.size if frame[5] == BLOCK else PAGE_HEAD.size
        self._crc = crc64(page, crc64(frame[:head], self._crc))
        if self._track:
            self._track = rolling_checksum(self._track, page_checksum(pgno, page))
        size = len(frame)
        self._pgnos.append(pgno)
        self._sizes.append(size)
        self._parts.append(frame)
        self._pending += size
        if self._pending >= _CHUNK:
            self._flush()

    def add_frames(
        self, pgnos: Sequence[int], sizes: Sequence[int], frames: bytes | memoryview, content: bytes | memoryview
    ) -> None:
        """Append neighbouring frames made elsewhere, in today's encoding, as they are.

        Args:
            pgnos: page numbers.
            sizes: bytes of each frame.
            frames: the frames, one behind the other.
            content: each page behind the head of its frame, as the checksum covers them.

        Raises:
            LtxError: a page may not come here.
        """
        if not self._order.add_run(pgnos):
            for pgno in pgnos:
                self._order.add(pgno)
        self._join()
        self._crc = crc64(content, self._crc)
        if self._track:
            stride = len(content) // len(pgnos)
            for place, pgno in enumerate(pgnos):
                page = content[place * stride + FRAME_HEAD.size : (place + 1) * stride]
                self._track = rolling_checksum(self._track, page_checksum(pgno, page))
        self._pgnos.extend(pgnos)
        self._sizes.extend(sizes)
        self._parts.append(frames)
        self._pending += len(frames)
        if self._pending >= _CHUNK:
            self._flush()

    def add_rows(
        self,
        pgnos: npt.NDArray[np.uint32],
        sizes: npt.NDArray[np.int32],
        frames: Sequence[bytes | memoryview],
        checksums: npt.NDArray[np.uint64],
    ) -> None:
        """Append many frames made elsewhere, all in this encoder's encoding, of which the pages are not at hand.

        Args:
            pgnos: page numbers.
            sizes: bytes of each frame.
            frames: the frames, one behind the other, cut anywhere.
            checksums: of each page behind the head of its frame, alone.

        Raises:
            LtxError: a page may not come here, or the header tracks checksums of the database.
        """
        if self._track:
            raise LtxError("pages that are not at hand cannot be added to a database checksum")
        self._order.add_all(pgnos)
        self._pgnos.frombytes(pgnos.astype("=u4").tobytes())
        self._sizes.frombytes(sizes.astype("=u4").tobytes())
        self._apart.append(checksums)
        self._parts += frames
        self._pending += int(sizes.sum())
        if self._pending >= _CHUNK:
            self._flush()
        if sum(map(len, self._apart)) >= _PIECE:
            self._join()

    def _join(self) -> None:
        """Take in the checksums of pages that stand apart."""
        if self._apart:
            import numpy as np

            from vfsstream.ltx.crcjoin import join_checksums

            head = PAGE_HEAD if self._encode is encode_legacy_frame else FRAME_HEAD
            self._crc = join_checksums(self._crc, np.concatenate(self._apart), head.size + self.header.page_size)
            self._apart.clear()

    def finish(self, post_apply_checksum: int | None = None) -> Trailer:
        """Write what follows the pages.

        Args:
            post_apply_checksum: of the database; only for headers that track it. A snapshot's is computed.

        Raises:
            LtxError: a snapshot lacks pages, or the checksum does not fit the header or the pages.
        """
        if self._finished:
            raise LtxError("the file is finished already")
        self._order.finish()
        self._join()
        post = self._track if post_apply_checksum is None else post_apply_checksum
        Trailer(post, FLAG, 0).check(self.header)
        if self._track and post != self._track:
            raise LtxError(f"database checksum {post:016x}, but the pages give {self._track:016x}")
        self._finished = True
        self._append(END_MARKER)
        index_size = 1
        for piece in index_pieces(self._pgnos, self._sizes):
            index_size += len(piece)
            self._append(piece)
        self._append(b"\0" + index_size.to_bytes(8, "big") + post.to_bytes(8, "big"))
        trailer = Trailer(post, FLAG | self._crc, self._written + self._pending + TRAILER_SIZE // 2)
        self._parts.append(trailer.pack()[TRAILER_SIZE // 2 :])
        self._flush()
        return trailer

    def _append(self, data: bytes) -> None:
        self._crc = crc64(data, self._crc)
        self._parts.append(data)
        self._pending += len(data)
        if self._pending >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        chunk = b"".join(self._parts)
        self._parts.clear()
        self._written += self._pending
        self._pending = 0
        self._write(chunk)


def in_batches(pages: Iterable[_Page], page_size: int) -> Iterator[list[_Page]]:
    """Pages, a few at a time, for :meth:`Encoder.add_pages`."""
    rest, count = iter(pages), max(1, _BATCH // page_size)
    while some := list(islice(rest, count)):
        yield some


def index_pieces(pgnos: array[int], sizes: array[int]) -> Iterator[bytes]:
    """The index entries of contiguous frames, in pieces of bounded size."""
    offset = HEADER_SIZE
    for start in range(0, len(pgnos), _PIECE):
        lengths = sizes[start : start + _PIECE]
        offsets = array("Q", accumulate(lengths, initial=offset))
        offset = offsets.pop()
        yield encode_entries(pgnos[start : start + _PIECE], offsets, lengths)


def encode(header: Header, pages: Iterable[_Page], *, legacy: bool = False) -> Iterator[bytes]:
    """A whole LTX file as chunks of about 1 MiB, for a store's ``put``.

    Args:
        header: of the file.
        pages: page number and content, ascending.
        legacy: write page frames for readers older than Litestream 0.5.16.

    Raises:
        LtxError: the header or a page breaks a rule; what was yielded before is not a file.
    """
    out: list[bytes] = []
    encoder = Encoder(header, out.append, legacy=legacy)
    for some in in_batches(pages, header.page_size):
        encoder.add_pages(some)
        if out:
            yield from out
            out.clear()
    encoder.finish()
    yield from out
