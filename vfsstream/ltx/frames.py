"""Page frames: one compressed database page each.

Two encodings share the six-byte page header. Flag 1 is today's: a size and one raw LZ4 block. Flag 0 is that of
Litestream 0.5.0 to 0.5.15: a complete LZ4 frame.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import lz4.block

from vfsstream.errors import LtxError

__all__ = [
    "BLOCK",
    "END_MARKER",
    "FRAME_HEAD",
    "PAGE_HEAD",
    "as_block_frame",
    "compress",
    "decode_frame",
    "encode_frame",
    "encode_legacy_frame",
    "legacy_frame_end",
    "legacy_page",
    "max_block_size",
    "max_frame_size",
]

PAGE_HEAD = struct.Struct(">IH")
"""Page number and flags."""

FRAME_HEAD = struct.Struct(">IHI")
"""Page number, flags, and the size of the block that follows when the flags are ``BLOCK``."""

BLOCK = 1
"""Page flag: a size and a raw LZ4 block follow."""

END_MARKER = bytes(6)
"""Stands in place of a page header after the last page."""

_LZ4_MAGIC = 0x184D2204
# Version 1, independent blocks, content checksum, no content size, blocks of at most 64 KiB.
_COMMON_DESCRIPTOR = b"\x04\x22\x4d\x18\x64\x40\xa7"
_BLOCK_LIMITS = {4: 1 << 16, 5: 1 << 18, 6: 1 << 20, 7: 1 << 22}
_STORED = 1 << 31

compress = lz4.block.compress
_decompress = lz4.block.decompress
_pack = FRAME_HEAD.pack


@lru_cache(maxsize=16)
def max_block_size(page_size: int) -> int:
    """The largest LZ4 block that a sane compressor makes of one page; more is refused unread."""
    return page_size + page_size // 255 + 16


def max_frame_size(page_size: int) -> int:
    """The largest frame of either encoding, page header included."""
    # The descriptor may carry a content size (8) and a checksum of each block (4).
    return PAGE_HEAD.size + 7 + 8 + 4 + max_block_size(page_size) + 4 + 8


def encode_frame(pgno: int, page: bytes | bytearray | memoryview) -> bytes:
    """Compress one page. The caller answers for page number and length."""
    block: bytes = compress(page, store_size=False)
    return _pack(pgno, BLOCK, len(block)) + block


def encode_legacy_frame(pgno: int, page: bytes | bytearray | memoryview) -> bytes:
    """Compress one page as Litestream 0.5.0 to 0.5.15 wrote it, for readers of that age."""
    import lz4.frame

    data: bytes = lz4.frame.compress(
        page,
        block_size=lz4.frame.BLOCKSIZE_MAX64KB,
        block_linked=False,
        content_checksum=True,
        store_size=False,
    )
    return PAGE_HEAD.pack(pgno, 0) + data


def decode_frame(
    frame: bytes | bytearray | memoryview,
    page_size: int,
    pgno: int | None = None,
    name: str | None = None,
    offset: int | None = None,
) -> bytes:
    """The page of exactly one frame.

    Args:
        frame: the frame, as long as the page index says.
        page_size: of the file.
        pgno: the page wanted; any when ``None``.
        name: key or path of the file, for messages.
        offset: of the frame in the file, for messages.

    Raises:
        LtxError: another page, unknown flags, wrong lengths, data that LZ4 refuses.
    """
    if len(frame) < PAGE_HEAD.size + 1:
        raise LtxError(f"page frame truncated: {len(frame)} bytes", name=name, offset=offset)
    found, flags = PAGE_HEAD.unpack_from(frame)
    if found == 0 or (pgno is not None and found != pgno):
        wanted = "a page" if pgno is None else f"page {pgno}"
        raise LtxError(f"page frame of page {found} where {wanted} was expected", name=name, offset=offset)
    try:
        if flags == BLOCK:
            return _decode_block(frame, page_size)
        if flags == 0:
            end = legacy_frame_end(frame, PAGE_HEAD.size, page_size)
            if end != len(frame):
                raise LtxError(f"page frame of {len(frame)} bytes where its own parts end at {end}")
            return legacy_page(frame[PAGE_HEAD.size :], page_size)
        raise LtxError(f"unknown page flags {flags:#x}")
    except LtxError as error:
        raise LtxError(f"page {found}: {error.message}", name=name, offset=offset) from error


def _decode_block(frame: bytes | bytearray | memoryview, page_size: int) -> bytes:
    if len(frame) < FRAME_HEAD.size:
        raise LtxError(f"page frame truncated: {len(frame)} bytes")
    size = FRAME_HEAD.unpack_from(frame)[2]
    if size > max_block_size(page_size) or FRAME_HEAD.size + size != len(frame):
        raise LtxError(f"block of {size} bytes in a frame of {len(frame)}")
    return inflate(frame[FRAME_HEAD.size :], page_size)


def inflate(block: bytes | bytearray | memoryview, page_size: int) -> bytes:
    """Decompress one LZ4 block to exactly one page.

    Raises:
        LtxError: LZ4 refuses the data, or the page comes out short or long.
    """
    try:
        page: bytes = _decompress(block, uncompressed_size=page_size)
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise LtxError(f"LZ4 block is corrupt: {error}") from error
    if len(page) != page_size:  # LZ4 itself does not mind a short page
        raise LtxError(f"LZ4 block holds {len(page)} bytes, expected {page_size}")
    return page


def legacy_frame_end(data: bytes | bytearray | memoryview, start: int, page_size: int) -> int | None:
    """Where the LZ4 frame that begins at ``start`` ends, or ``None`` when ``data`` ends before it does.

    Follows the frame's own structure, never the end of the input.

    Raises:
        LtxError: not an LZ4 frame, or one that cannot hold a single page.
    """
    position, footer, overhead = _legacy_descriptor(data, start)
    limit = start + max_frame_size(page_size)
    while position is not None:
        if position + 4 > len(data):
            return None
        word = int.from_bytes(data[position : position + 4], "little")
        if word == 0:
            end = position + 4 + footer
            return end if end <= len(data) else None
        position += 4 + (word & ~_STORED) + overhead
        if position > limit:
            raise LtxError(f"LZ4 frame longer than a page of {page_size} bytes can be")
    return None


def _legacy_descriptor(data: bytes | bytearray | memoryview, start: int) -> tuple[int | None, int, int]:
    """``(offset of the first block, size of the footer, checksum bytes after each block)``."""
    if len(data) < start + 7:
        return None, 0, 0
    if int.from_bytes(data[start : start + 4], "little") != _LZ4_MAGIC:
        raise LtxError("not an LZ4 frame")
    flags, blocks = data[start + 4], data[start + 5]
    if flags >> 6 != 1 or flags & 0x03 or blocks & 0x8F or blocks >> 4 not in _BLOCK_LIMITS:
        raise LtxError(f"LZ4 frame descriptor {flags:02x} {blocks:02x} not understood")
    size = 7 + (8 if flags & 0x08 else 0)
    return start + size, 4 if flags & 0x04 else 0, 4 if flags & 0x10 else 0


def legacy_page(data: bytes | bytearray | memoryview, page_size: int) -> bytes:
    """Decompress one complete LZ4 frame to exactly one page.

    Raises:
        LtxError: LZ4 refuses the data, or the page comes out short or long.
    """
    payload = _single_block(data)
    if payload is not None:
        stored, block = payload
        if not stored:
            return inflate(block, page_size)
        page = bytes(block)
    else:
        page = _general_frame(data, page_size)
    if len(page) != page_size:
        raise LtxError(f"LZ4 frame holds {len(page)} bytes, expected {page_size}")
    return page


def _general_frame(data: bytes | bytearray | memoryview, page_size: int) -> bytes:
    import lz4.frame

    decompressor = lz4.frame.LZ4FrameDecompressor()
    try:
        page: bytes = decompressor.decompress(bytes(data), max_length=page_size + 1)
    except RuntimeError as error:
        raise LtxError(f"LZ4 frame is corrupt: {error}") from error
    return page


def _single_block(
    data: bytes | bytearray | memoryview,
) -> tuple[bool, bytes | bytearray | memoryview] | None:
    """``(stored uncompressed, payload)`` of the one block in a frame of the shape that Litestream wrote."""
    if bytes(data[:7]) != _COMMON_DESCRIPTOR:
        return None
    word = int.from_bytes(data[7:11], "little")
    size = word & ~_STORED
    # One block, the end mark and the content checksum, which the file checksum makes redundant.
    return (bool(word & _STORED), data[11 : 11 + size]) if 11 + size + 8 == len(data) else None


def as_block_frame(frame: bytes | bytearray | memoryview, page: bytes) -> bytes:
    """A legacy frame as a frame of today, its compressed bytes taken over where the frame's shape allows."""
    pgno, _ = PAGE_HEAD.unpack_from(frame)
    payload = _single_block(frame[PAGE_HEAD.size :])
    if payload is None or payload[0]:
        return encode_frame(pgno, page)
    return _pack(pgno, BLOCK, len(payload[1])) + payload[1]
