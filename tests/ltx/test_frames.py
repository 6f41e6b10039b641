"""Page frames of both encodings."""

from __future__ import annotations

import lz4.block
import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ltx.helpers import page
from vfsstream.errors import LtxError
from vfsstream.ltx import PAGE_SIZES, decode_frame, encode_frame, encode_legacy_frame, max_frame_size
from vfsstream.ltx.frames import FRAME_HEAD, PAGE_HEAD, as_block_frame, legacy_frame_end

PAGE = page(7)


def block(data: bytes, pgno: int = 7, flags: int = 1) -> bytes:
    return FRAME_HEAD.pack(pgno, flags, len(data)) + data


def legacy(data: bytes = PAGE, pgno: int = 7, flags: int = 0, **options: object) -> bytes:
    return PAGE_HEAD.pack(pgno, flags) + lz4.frame.compress(data, **options)


@given(st.sampled_from(PAGE_SIZES), st.integers(1, 2**32 - 1), st.randoms(use_true_random=False), st.booleans())
def test_round_trip(size: int, pgno: int, random: object, noise: bool) -> None:
    content = random.randbytes(size) if noise else page(pgno, size)  # type: ignore[attr-defined]
    for frame in (encode_frame(pgno, content), encode_legacy_frame(pgno, content)):
        assert decode_frame(frame, size, pgno) == content
        assert len(frame) <= max_frame_size(size)
        assert decode_frame(as_block_frame(frame, content), size, pgno) == content if frame[5] == 0 else True


def test_a_block_of_literals_needs_no_compressor() -> None:
    literals = b"\xf0" + b"\xff" * ((512 - 15) // 255) + bytes([(512 - 15) % 255]) + PAGE
    assert decode_frame(block(literals), 512) == PAGE


def test_legacy_frames_are_what_old_litestream_wrote() -> None:
    frame = encode_legacy_frame(2, bytes(4096))
    assert frame[:13].hex() == "000000020000" + "04224d186440a7"
    assert frame[-8:-4] == bytes(4)


@pytest.mark.parametrize(
    "options",
    [
        {"block_linked": True},
        {"store_size": True},
        {"block_checksum": True},
        {"content_checksum": True},
        {"block_size": lz4.frame.BLOCKSIZE_MAX4MB},
        {"content_checksum": False, "store_size": False},
    ],
)
def test_lz4_frames_of_other_shapes(options: dict[str, object]) -> None:
    for content in (PAGE, bytes(range(256)) * 2):
        frame = legacy(content, **options)
        assert decode_frame(frame, 512, 7) == content
        assert legacy_frame_end(frame + b"rest", 6, 512) == len(frame)
        assert decode_frame(as_block_frame(frame, content), 512, 7) == content
        for cut in range(6, len(frame)):
            assert legacy_frame_end(frame[:cut], 6, 512) is None


SHORT, LONG = lz4.block.compress(PAGE[:-1], store_size=False), lz4.block.compress(PAGE + b"x", store_size=False)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"", "truncated"),
        (bytes(6), "truncated"),
        (block(b"abc", pgno=0), "page 0 where page 7"),
        (encode_frame(8, PAGE), "page 8 where page 7"),
        (block(b"abc", flags=2), "unknown page flags 0x2"),
        (block(b"abc", flags=3), "unknown page flags 0x3"),
        (PAGE_HEAD.pack(7, 1) + b"abc", "truncated"),
        (encode_frame(7, PAGE)[:-1], "in a frame of"),
        (encode_frame(7, PAGE) + b"x", "in a frame of"),
        (FRAME_HEAD.pack(7, 1, 2**32 - 1) + b"x", "block of 4294967295 bytes"),
        (block(b"\xff" * 40), "corrupt"),
        (block(b""), "corrupt"),
        (block(SHORT), "holds 511 bytes"),
        (block(LONG), "corrupt"),
        (legacy(PAGE[:-1]), "holds 511 bytes"),
        (legacy(PAGE + b"x"), "513 bytes"),
        (PAGE_HEAD.pack(7, 0) + b"not an LZ4 frame", "not an LZ4 frame"),
        (PAGE_HEAD.pack(7, 0) + b"\x04\x22\x4d\x18\x00\x40\xa7", "not understood"),
        (PAGE_HEAD.pack(7, 0) + b"\x04\x22\x4d\x18\x64\x30\xa7", "not understood"),
        (legacy()[:-1], "its own parts end at None"),
        (legacy() + b"x", "its own parts end at"),
        (legacy(bytes(100_000), block_size=lz4.frame.BLOCKSIZE_MAX4MB), "512"),
        (PAGE_HEAD.pack(7, 0) + b"\x04\x22\x4d\x18\x64\x40\xa7" + b"\xff" * 8, "longer than a page"),
    ],
)
def test_damage_is_refused(frame: bytes, message: str) -> None:
    with pytest.raises(LtxError, match=message) as caught:
        decode_frame(frame, 512, 7, name="k", offset=100)
    assert (caught.value.name, caught.value.offset) == ("k", 100)


def test_a_corrupt_general_frame() -> None:
    frame = bytearray(legacy(content_checksum=True, block_linked=True))
    frame[20] ^= 0xFF
    with pytest.raises(LtxError, match="LZ4 frame"):
        decode_frame(bytes(frame), 512)


def test_a_stored_page_of_the_wrong_length() -> None:
    noise = bytes(range(256)) + bytes(range(200))
    frame = PAGE_HEAD.pack(7, 0) + lz4.frame.compress(
        noise, block_linked=False, content_checksum=True, store_size=False
    )
    with pytest.raises(LtxError, match="holds 456 bytes"):
        decode_frame(frame, 512)
