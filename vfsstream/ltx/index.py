"""The page index at the end of an LTX file: where each page's frame lies."""

from __future__ import annotations

import struct
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from vfsstream.errors import LtxError
from vfsstream.ltx.frames import END_MARKER, max_frame_size
from vfsstream.ltx.header import HEADER_SIZE, Header

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "MIN_FILE_SIZE",
    "TAIL_SIZE",
    "TRAILER_SIZE",
    "PageIndex",
    "decode_entries",
    "encode_entries",
    "index_start",
]

TRAILER_SIZE = 16
TAIL_SIZE = 8 + TRAILER_SIZE
"""The size field of the index and the trailer: what must be read first."""

MIN_FILE_SIZE = HEADER_SIZE + len(END_MARKER) + 1 + TAIL_SIZE
"""A file without pages."""

_Columns = tuple[Sequence[int], Sequence[int], Sequence[int]]

_U64 = struct.Struct(">Q")
_MIN_FRAME = 7
_LARGE = 1024
"""From so many entries on numpy is faster than a loop."""

_WORTH_AN_IMPORT = 50_000
"""From so many entries on numpy is worth its import too."""


_SLICE = 1 << 16
"""Bytes decoded between two calls of ``pause``: less than a millisecond's work."""


def _is_large(entries: int) -> bool:
    return entries >= (_LARGE if "numpy" in sys.modules else _WORTH_AN_IMPORT)


def index_start(tail: bytes | memoryview, file_size: int, name: str | None = None) -> int:
    """The offset of the page index, from the end of the file.

    Args:
        tail: the last bytes of the file, at least 24.
        file_size: bytes of the whole file.
        name: key or path of the file, for messages.

    Raises:
        LtxError: the file is too short, or the stated size of the index is impossible.
    """
    if file_size < MIN_FILE_SIZE or len(tail) < TAIL_SIZE:
        short = min(file_size, len(tail))
        raise LtxError(f"LTX file truncated: {short} bytes, expected at least {MIN_FILE_SIZE}", name=name)
    (size,) = _U64.unpack_from(tail, len(tail) - TAIL_SIZE)
    largest = file_size - HEADER_SIZE - len(END_MARKER) - TAIL_SIZE
    if not 1 <= size <= largest:
        at = file_size - TAIL_SIZE
        raise LtxError(f"page index of {size} bytes, expected 1 to {largest}", name=name, offset=at)
    return int(file_size - TAIL_SIZE - size)


def _nothing() -> None:
    pass


class PageIndex:
    """Which page lies where: ascending page numbers, contiguous frames.

    Args:
        pgnos: page numbers.
        offsets: of the frames in the file.
        sizes: of the frames, bytes.
    """

    __slots__ = ("_arrays", "_columns")

    def __init__(self, pgnos: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> None:
        self._columns: _Columns = (pgnos, offsets, sizes)
        self._arrays: tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int32]] | None = None

    @classmethod
    def decode(
        cls,
        data: bytes | memoryview,
        header: Header,
        file_size: int,
        name: str | None = None,
        pause: Callable[[], None] = _nothing,
    ) -> PageIndex:
        """Read and check an index.

        Args:
            data: the bytes from ``index_start`` to the end of the file.
            header: of the file.
            file_size: bytes of the whole file.
            name: key or path of the file, for messages.
            pause: called now and then during long work, to let other threads run.

        Raises:
            LtxError: any rule of the format broken; no entry of such an index can be trusted.
        """
        start = file_size - len(data)
        if index_start(data, file_size, name) != start:
            raise LtxError("page index does not end where its size says", name=name, offset=start)
        body = data[:-TAIL_SIZE]
        try:
            if _is_large(len(body) // 6):
                columns: _Columns = decode_entries(body, pause)  # type: ignore[assignment]
            else:
                columns = _decode_small(body)
            index = cls(*columns)
            index._check(header, start)
        except LtxError as error:
            raise LtxError(f"page index: {error.message}", name=name, offset=start) from error
        return index

    def _check(self, header: Header, start: int) -> None:
        pgnos, offsets, sizes = self._columns
        if len(pgnos) == 0:
            first_free = HEADER_SIZE
        else:
            first_free = _check_entries(pgnos, offsets, sizes, header)
        if first_free != start - len(END_MARKER):
            raise LtxError(f"frames end at byte {first_free}, expected {start - len(END_MARKER)}")
        if header.is_snapshot:
            wanted = header.commit - (header.lock_pgno <= header.commit)
            if len(pgnos) != wanted:
                raise LtxError(f"snapshot holds {len(pgnos)} of {wanted} pages")

    def encode(self) -> bytes:
        """The entries as stored, with the zero byte that ends them."""
        pgnos, offsets, sizes = self._columns
        return encode_entries(pgnos, offsets, sizes) + b"\0"

    @property
    def pgno(self) -> npt.NDArray[np.uint32]:
        """Page numbers, ascending."""
        return self._as_arrays()[0]

    @property
    def offset(self) -> npt.NDArray[np.int64]:
        """Offsets of the frames in the file."""
        return self._as_arrays()[1]

    @property
    def size(self) -> npt.NDArray[np.int32]:
        """Sizes of the frames, page headers included."""
        return self._as_arrays()[2]

    def _as_arrays(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        if self._arrays is None:
            import numpy as np

            pgnos, offsets, sizes = self._columns
            self._arrays = (
                np.asarray(pgnos, dtype=np.uint32),
                np.asarray(offsets, dtype=np.int64),
                np.asarray(sizes, dtype=np.int32),
            )
            if not isinstance(pgnos, list):
                self._columns = self._arrays  # type: ignore[assignment]  # one copy is enough
        return self._arrays

    def find(self, pgno: int) -> tuple[int, int] | None:
        """``(offset, size)`` of the frame of a page, or ``None`` when the file does not hold it."""
        pgnos, offsets, sizes = self._columns
        if isinstance(pgnos, list):
            place = bisect_left(pgnos, pgno)
        else:
            place = int(self._as_arrays()[0].searchsorted(pgno))
        if place == len(pgnos) or pgnos[place] != pgno:
            return None
        return int(offsets[place]), int(sizes[place])

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """``(pgno, offset, size)`` of every frame."""
        pgnos, offsets, sizes = (
            column if isinstance(column, list) else column.tolist()  # type: ignore[attr-defined]
            for column in self._columns
        )
        return zip(pgnos, offsets, sizes, strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PageIndex) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<PageIndex {len(self)} pages>"


def _check_entries(pgnos: Sequence[int], offsets: Sequence[int], sizes: Sequence[int], header: Header) -> int:
    """Check the entries against each other; returns where the last frame ends."""
    lock = header.lock_pgno
    if not isinstance(pgnos, list):
        return _check_arrays(pgnos, offsets, sizes, header)
    largest = max_frame_size(header.page_size)
    last, expected = 0, HEADER_SIZE
    for pgno, offset, size in zip(pgnos, offsets, sizes, strict=True):
        if pgno <= last:
            raise LtxError(f"page {pgno} after page {last}")
        if pgno == lock:
            raise LtxError(f"page {pgno} is the lock page")
        if offset != expected or not _MIN_FRAME <= size <= largest:
            raise LtxError(f"page {pgno}: frame of {size} bytes at {offset}, expected at {expected}")
        last, expected = pgno, offset + size
    if last > header.commit:
        raise LtxError(f"page {last} above the database size of {header.commit} pages")
    return expected


def _check_arrays(pgnos: Sequence[int], offsets: Sequence[int], sizes: Sequence[int], header: Header) -> int:
    import numpy as np

    numbers = np.asarray(pgnos, dtype=np.int64)
    starts = np.asarray(offsets, dtype=np.int64)
    lengths = np.asarray(sizes, dtype=np.int64)
    if numbers[0] < 1 or (np.diff(numbers) <= 0).any():
        raise LtxError("page numbers do not ascend")
    if numbers[-1] > header.commit:
        raise LtxError(f"page {numbers[-1]} above the database size of {header.commit} pages")
    if (numbers == header.lock_pgno).any():
        raise LtxError(f"page {header.lock_pgno} is the lock page")
    if lengths.min() < _MIN_FRAME or lengths.max() > max_frame_size(header.page_size):
        raise LtxError(f"frames of {lengths.min()} to {lengths.max()} bytes")
    if starts[0] != HEADER_SIZE or (starts[:-1] + lengths[:-1] != starts[1:]).any():
        raise LtxError("frames are not contiguous")
    return int(starts[-1] + lengths[-1])


def _decode_small(data: bytes | memoryview) -> _Columns:
    values: list[int] = []
    value = shift = 0
    for byte in bytes(data):
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            continue
        if shift and not byte:
            raise LtxError("number not in its shortest form")
        values.append(value)
        value = shift = 0
    if shift or len(values) % 3 != 1 or values[-1]:
        raise LtxError("entries do not end in a zero byte")
    if max(values) >> 63:
        raise LtxError("number too large")
    return values[0:-1:3], values[1::3], values[2::3]


def decode_entries(
    data: bytes | memoryview, pause: Callable[[], None] = _nothing
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Page numbers, offsets and sizes of entries as stored, the zero byte behind them included.

    Slice by slice: what is worked on stays in the processor's cache, and memory is that of the result.

    Raises:
        LtxError: these are no entries.
    """
    import numpy as np

    raw = np.frombuffer(data, dtype=np.uint8)
    count = sum(int(np.count_nonzero(raw[at : at + _SLICE] < 0x80)) for at in range(0, len(raw), _SLICE))
    if count % 3 != 1 or raw[-1]:
        raise LtxError("entries do not end in a zero byte")
    if len(raw) > 1 and raw[-2] >= 0x80:
        raise LtxError("number not in its shortest form")
    body, count = raw[:-1], count // 3
    if count == 0:
        raise LtxError("entries do not end in a zero byte")
    pgnos = np.empty(count, np.uint32)
    offsets = np.empty(count, np.int64)
    sizes = np.empty(count, np.int32)
    at = done = 0
    while done < count:
        values, used = _decode_slice(body[at : at + _SLICE])
        entries = slice(done, done + len(values) // 3)
        if values[0::3].max() >> 32 or values[2::3].max() >> 31:
            raise LtxError("number too large")
        pgnos[entries], offsets[entries], sizes[entries] = values[0::3], values[1::3], values[2::3]
        at, done = at + used, entries.stop
        pause()
    return pgnos, offsets, sizes


def _decode_slice(raw: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], int]:
    """The numbers of the whole entries at the start of some bytes, and how many bytes those took."""
    import numpy as np

    ends = np.flatnonzero(raw < 0x80)
    ends = ends[: len(ends) // 3 * 3]
    if not len(ends):
        raise LtxError("number too large")
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts
    if ((raw[ends] == 0) & (lengths > 0)).any():
        raise LtxError("number not in its shortest form")
    if lengths.max() > 8:
        raise LtxError("number too large")
    values = np.zeros(len(ends), dtype=np.int64)
    for place in range(int(lengths.max()) + 1):
        some = np.flatnonzero(lengths >= place)
        values[some] |= (raw[starts[some] + place].astype(np.int64) & 0x7F) << (7 * place)
    return values, int(ends[-1]) + 1


def encode_entries(pgnos: Sequence[int], offsets: Iterable[int], sizes: Sequence[int]) -> bytes:
    """Entries as stored, without the zero byte that ends the index."""
    if len(pgnos) >= _LARGE and "numpy" in sys.modules:
        return _encode_large(pgnos, offsets, sizes)
    low = _low_halves() if len(pgnos) >= _LARGE else ()
    lengths: dict[int, bytes] = {}
    out: list[bytes] = []
    page_high = place_high = -1
    page_end = place_end = b""
    for pgno, offset, size in zip(pgnos, offsets, sizes, strict=True):
        if not low or pgno < 1 << 14 or offset < 1 << 14:
            out += (_varint(pgno), _varint(offset))
        else:  # neighbours share all but the lowest bits
            if pgno >> 14 != page_high:
                page_high = pgno >> 14
                page_end = _varint(page_high)
            if offset >> 14 != place_high:
                place_high = offset >> 14
                place_end = _varint(place_high)
            out += (low[pgno & 0x3FFF], page_end, low[offset & 0x3FFF], place_end)
        if size not in lengths:
            lengths[size] = _varint(size)
        out.append(lengths[size])
    return b"".join(out)


def _varint(value: int) -> bytes:
    if value < 1 << 7:
        return bytes((value,))
    if value < 1 << 14:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 1 << 21:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80)) + _varint(value >> 21)


@lru_cache(maxsize=1)
def _low_halves() -> tuple[bytes, ...]:
    """The first two bytes of every longer number, by its lowest 14 bits."""
    return tuple(bytes((low | 0x80, high | 0x80)) for high in range(128) for low in range(128))


def _encode_large(pgnos: Sequence[int], offsets: Iterable[int], sizes: Sequence[int]) -> bytes:
    import numpy as np

    values = np.empty(len(pgnos) * 3, dtype=np.uint64)
    values[0::3] = np.asarray(pgnos, dtype=np.uint64)
    values[1::3] = np.asarray(offsets, dtype=np.uint64)
    values[2::3] = np.asarray(sizes, dtype=np.uint64)
    lengths = np.ones(len(values), dtype=np.int64)
    rest = values >> np.uint64(7)
    while rest.any():
        lengths += rest != 0
        rest >>= np.uint64(7)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    out = np.empty(int(ends[-1]), dtype=np.uint8)
    for place in range(int(lengths.max())):
        some = np.flatnonzero(lengths > place)
        septets = (values[some] >> np.uint64(7 * place)) & np.uint64(0x7F)
        more = (lengths[some] > place + 1).astype(np.uint64) << np.uint64(7)
        out[starts[some] + place] = (septets | more).astype(np.uint8)
    return out.tobytes()
