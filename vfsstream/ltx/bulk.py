"""Decompressing many page frames in one call.

The blocks of several page frames, each behind its frame head, are given to LZ4 as the blocks of one LZ4 frame: heads as
stored blocks, pages as compressed ones. What comes out is the very stream that the file checksum covers, made
without a call for each page and without the interpreter's lock.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from vfsstream.errors import LtxError
from vfsstream.ltx.frames import FRAME_HEAD, inflate, max_block_size

__all__ = ["block_size", "inflate_frames", "inflate_parts", "stored_head"]

block_size = struct.Struct("<I").pack
"""The word before each block of an LZ4 frame."""

stored_head = block_size(FRAME_HEAD.size | 1 << 31)
"""The word before a frame head that is passed through as it is."""

_END = bytes(4)


@lru_cache(maxsize=1024)
def _start(size: int, page_size: int) -> bytes:
    """The head of an LZ4 frame that announces ``size`` bytes, so that they are decompressed to their place."""
    import lz4.frame

    small = max_block_size(page_size) <= 1 << 16
    compressor = lz4.frame.LZ4FrameCompressor(
        block_size=lz4.frame.BLOCKSIZE_MAX64KB if small else lz4.frame.BLOCKSIZE_MAX256KB, block_linked=False
    )
    started: bytes = compressor.begin(size)
    return started


def inflate_frames(parts: Sequence[bytes | memoryview], page_size: int) -> bytes:
    """Decompress frames to heads and pages in turn.

    Args:
        parts: four for each frame: :data:`stored_head`, the frame's head, :func:`block_size` of its block, its block.
        page_size: of the file.

    Raises:
        LtxError: LZ4 refuses a block, or a page comes out short or long; ``offset`` is the place of the frame in
            ``parts``, counted in frames.
    """
    stride = FRAME_HEAD.size + page_size
    data = inflate_parts(parts, len(parts) // 4, page_size)
    # A short and a long page could make up for each other: the heads must lie where whole pages put them.
    heads = b"".join(parts[1::4])
    if data is None or any(
        data[place::stride] != heads[place :: FRAME_HEAD.size] for place in range(FRAME_HEAD.size)
    ):
        return _one_by_one(parts, page_size)
    return data


def inflate_parts(parts: Sequence[bytes | memoryview], count: int, page_size: int) -> bytes | None:
    """What :func:`inflate_frames` does, for parts cut anywhere; whether each page is whole is for the caller to see.

    Returns:
        ``None`` when LZ4 refuses a block or ``count`` pages and heads are not what comes out.
    """
    import lz4.frame

    size = count * (FRAME_HEAD.size + page_size)
    try:
        data: bytes = lz4.frame.decompress(b"".join((_start(size, page_size), *parts, _END)))
    except (RuntimeError, EOFError):
        return None
    return data if len(data) == size else None


def _one_by_one(parts: Sequence[bytes | memoryview], page_size: int) -> bytes:
    """The slow way, which says which frame is wrong."""
    out: list[bytes | memoryview] = []
    for place in range(0, len(parts), 4):
        try:
            out += (parts[place + 1], inflate(parts[place + 3], page_size))
        except LtxError as error:
            error.offset = place // 4
            raise
    return b"".join(out)
