"""Writing an LTX file, page by page, in one pass."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from vfsstream.errors import LtxError
from vfsstream.ltx.checksum import FLAG, crc64, page_checksum, rolling_checksum
from vfsstream.ltx.frames import (
    BLOCK,
    END_MARKER,
    FRAME_HEAD,
    PAGE_HEAD,
    encode_frame,
    encode_legacy_frame,
)
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.index import TRAILER_SIZE, encode_entries

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Encoder", "PageOrder", "Trailer", "encode", "index_pieces"]

_TRAILER = struct.Struct(">QQ")
_CHUNK = 1 << 20
_PIECE = 1 << 13


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


class PageOrder:
    """The rule which page may come next. Also knows when a snapshot is complete.

    Args:
        header: of the file.
        strict: refuse pages above commit.
    """

    __slots__ = ("_ceiling", "_commit", "_complete", "_lock", "last")

    def __init__(self, header: Header, *, strict: bool = True) -> None:
        self.last = 0
        self._commit = header.commit
        self._ceiling = header.commit if strict else (1 << 32) - 1
        self._lock = header.lock_pgno
        self._complete = header.is_snapshot

    def add(self, pgno: int) -> None:
        """Accept the next page.

        Raises:
            LtxError: it may not follow.
        """
        last = self.last
        if pgno != last + 1 or pgno > self._ceiling or pgno == self._lock:
            self._judge(pgno, last)
        self.last = pgno

    def add_all(self, pgnos: npt.NDArray[np.uint32]) -> None:
        """Accept many pages; errors as for :meth:`add`."""
        first, last = int(pgnos[0]), int(pgnos[-1])
        plain = first > self.last and last <= self._ceiling and bool((pgnos[1:] > pgnos[:-1]).all())
        gapless = first == self.last + 1 and last - first + 1 == len(pgnos)
        if plain and not first <= self._lock <= last and (gapless or not self._complete):
            self.last = last
            return
        for pgno in pgnos.tolist():
            self.add(pgno)

    def _judge(self, pgno: int, last: int) -> None:
        if pgno == 0:
            raise LtxError("page number 0")
        if pgno <= last:
            raise LtxError(f"page {pgno} after page {last}")
        if pgno == self._lock:
            raise LtxError(f"page {pgno} is the lock page, which is never stored")
        if pgno > self._ceiling:
            raise LtxError(f"page {pgno} above the database size of {self._commit} pages")
        if self._complete and pgno <= self._commit:
            self._require(pgno, last)

    def _require(self, pgno: int, last: int) -> None:
        missing = last + 2 if last + 1 == self._lock else last + 1
        if missing < pgno:
            raise LtxError(f"page {pgno} after page {last}: a snapshot must hold page {missing}")

    def finish(self) -> None:
        """Declare the end of the pages.

        Raises:
            LtxError: a snapshot that lacks pages.
        """
        if self._complete and self.last < self._commit:
            missing = self.last + 2 if self.last + 1 == self._lock else self.last + 1
            if missing <= self._commit:
                raise LtxError(f"snapshot ends at page {self.last} of {self._commit}")


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


def index_pieces(pgnos: array[int], sizes: array[int]) -> Iterator[bytes]:
    """The index entries of contiguous frames, in pieces of bounded size."""
    offset = HEADER_SIZE
    for start in range(0, len(pgnos), _PIECE):
        lengths = sizes[start : start + _PIECE]
        offsets = array("Q", accumulate(lengths, initial=offset))
        offset = offsets.pop()
        yield encode_entries(pgnos[start : start + _PIECE], offsets, lengths)


def encode(
    header: Header, pages: Iterable[tuple[int, bytes | bytearray | memoryview]], *, legacy: bool = False
) -> Iterator[bytes]:
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
    add = encoder.add_page
    for pgno, page in pages:
        add(pgno, page)
        if out:
            yield from out
            out.clear()
    encoder.finish()
    yield from out
