"""Encoder and decoder: round trips, the rules of order, and every kind of damage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ltx.helpers import header, make, page, slow_crc64
from vfsstream.errors import LtxError
from vfsstream.ltx import (
    FLAG,
    PAGE_SIZES,
    TXID,
    Decoder,
    Encoder,
    Header,
    crc64,
    encode,
    encode_frame,
    index_start,
    lock_pgno,
    page_checksum,
    rolling_checksum,
)

DELTA: dict[str, Any] = {"min_txid": TXID(2), "max_txid": TXID(2), "commit": 100}


def decode(data: bytes, **options: Any) -> dict[int, bytes]:
    return dict(Decoder([data], "k", **options))


def sealed(data: bytes | bytearray) -> bytes:
    """The file with a checksum that is right for three uncompressed views: recomputed over its parts."""
    start = index_start(data[-24:], len(data))
    head = Header.unpack(data)
    crc = crc64(data[:100])
    at = 100
    while data[at : at + 4] != bytes(4):
        size = int.from_bytes(data[at + 6 : at + 10], "big")
        import lz4.block

        content = lz4.block.decompress(bytes(data[at + 10 : at + 10 + size]), uncompressed_size=head.page_size)
        crc = crc64(content, crc64(data[at : at + 10], crc))
        at += 10 + size
    assert at + 6 == start
    return bytes(data[:-8]) + (FLAG | crc64(data[at:-8], crc)).to_bytes(8, "big")


@settings(max_examples=60)
@given(
    st.sampled_from(PAGE_SIZES[:4]),
    st.sets(st.integers(1, 300), max_size=40),
    st.integers(1, 400),
    st.booleans(),
)
def test_round_trip_in_chunks_of_any_size(size: int, pgnos: set[int], chunk: int, legacy: bool) -> None:
    head = header(page_size=size, min_txid=TXID(5), max_txid=TXID(9), commit=300)
    pages = {pgno: page(pgno, size) for pgno in sorted(pgnos)}
    data = b"".join(encode(head, pages.items(), legacy=legacy))
    decoder = Decoder((data[at : at + chunk] for at in range(0, len(data), chunk)), "k")
    assert decoder.header == head
    assert decoder.trailer is None
    assert dict(decoder) == pages
    assert decoder.trailer is not None
    assert decoder.trailer.size == len(data)
    assert [pgno for pgno, _, _ in decoder.index] == sorted(pgnos)


def test_the_file_checksum_by_hand() -> None:
    data = make()
    at, parts = 100, [data[:100]]
    for pgno in (1, 2, 3):
        size = int.from_bytes(data[at + 6 : at + 10], "big")
        parts += [data[at : at + 10], page(pgno)]
        at += 10 + size
    parts.append(data[at:-8])
    assert int.from_bytes(data[-8:], "big") == FLAG | slow_crc64(b"".join(parts))


def test_batches_are_bounded_and_carry_frames() -> None:
    data = make(range(1, 301), page_size=65536, commit=300)
    batches = list(Decoder([data]).batches(frames=True))
    assert all(len(batch.pages) <= 16 for batch in batches)
    assert b"".join(frame for batch in batches for frame in batch.frames) == data[100 : 100 + sum_of(data)]
    assert len(list(Decoder([data]).batches(1))) == 300


def sum_of(data: bytes) -> int:
    return index_start(data[-24:], len(data)) - 6 - 100


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_at_every_byte(legacy: bool) -> None:
    data = make(legacy=legacy)
    for cut in range(len(data)):
        with pytest.raises(LtxError, match="truncated") as caught:
            decode(data[:cut])
        assert caught.value.offset == cut


@pytest.mark.parametrize("legacy", [False, True])
def test_any_flipped_bit_is_found(legacy: bool) -> None:
    data = make(legacy=legacy)
    for at in range(len(data)):
        for bit in (1, 0x80):
            damaged = bytearray(data)
            damaged[at] ^= bit
            try:
                pages = decode(bytes(damaged))
            except LtxError:
                continue
            # LZ4 may say the same page in other words; a legacy frame's own checksum is redundant.
            assert pages == decode(data)
            assert 110 <= at < index_start(data[-24:], len(data))


def test_bytes_after_the_trailer() -> None:
    with pytest.raises(LtxError, match="bytes after the trailer"):
        decode(make() + b"\0")


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (-24, b"\0\0\0\0\0\0\0\1", "its size field says 1"),
        (-16, b"\x80\0\0\0\0\0\0\0", "in a file that tracks none"),
        (-8, bytes(8), "invalid file checksum 0000000000000000"),
        (-8, b"\x80\0\0\0\0\0\0\0", "but the content gives"),
        (104, b"\0\2", "unknown flags 0x2"),
        (100, bytes(4), "page number 0"),
        (106, b"\xff\xff\xff\xff", "LZ4 block of 4294967295 bytes"),
        (100, b"\0\0\0\2", "a snapshot must hold page 1"),
    ],
)
def test_fields_that_lie(at: int, value: bytes, message: str) -> None:
    data = bytearray(make())
    data[at : len(data) + at + len(value) if at < 0 else at + len(value)] = value
    with pytest.raises(LtxError, match=message) as caught:
        decode(bytes(data))
    assert caught.value.name == "k"
    assert caught.value.offset is not None


def test_an_index_that_lies_under_a_right_checksum() -> None:
    data = bytearray(make())
    start = index_start(data[-24:], len(data))
    assert decode(sealed(data)) == decode(make())
    data[start] = 9
    with pytest.raises(LtxError, match="page index differs"):
        decode(sealed(data))
    data = bytearray(make())
    data[-25] = 1
    with pytest.raises(LtxError, match="page index differs"):
        decode(sealed(data))


def test_order_and_range_when_reading() -> None:
    data = make([1, 2, 3], **DELTA)
    lower = bytearray(data)
    at = 100 + int.from_bytes(data[106:110], "big") + 10
    lower[at : at + 4] = b"\0\0\0\1"
    with pytest.raises(LtxError, match="page 1 after page 1"):
        decode(bytes(lower))
    above = bytearray(make([5, 100], **DELTA))
    above[12:16] = (99).to_bytes(4, "big")
    with pytest.raises(LtxError, match="page 100 above the database size of 99 pages"):
        decode(bytes(above))
    assert set(decode(sealed(above), strict=False)) == {5, 100}


def test_a_snapshot_that_ends_early() -> None:
    data = bytearray(make())
    data[12:16] = (4).to_bytes(4, "big")
    with pytest.raises(LtxError, match="snapshot ends at page 3 of 4"):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("pages", "fields", "message"),
    [
        ([2], {}, "a snapshot must hold page 1"),
        ([1, 3], {}, "a snapshot must hold page 2"),
        ([1, 2], {}, "snapshot ends at page 2 of 3"),
        ([], {}, "snapshot ends at page 0 of 3"),
        ([1, 2, 3, 4], {}, "above the database size"),
        ([3, 2], DELTA, "page 2 after page 3"),
        ([3, 3], DELTA, "page 3 after page 3"),
        ([0], DELTA, "page number 0"),
        ([101], DELTA, "above the database size"),
        ([], {"commit": 0}, "a database of no pages"),
    ],
)
def test_what_must_not_be_written(pages: list[int], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(LtxError, match=message):
        make(pages, **fields)


def test_a_page_of_the_wrong_length_is_not_written() -> None:
    with pytest.raises(LtxError, match="page 1 of 511 bytes, expected 512"):
        list(encode(header(), [(1, bytes(511))]))


def test_a_broken_header_is_not_written() -> None:
    with pytest.raises(LtxError, match="page size"):
        Encoder(header(page_size=1000), print)


def test_the_lock_page_is_skipped_and_never_stored() -> None:
    lock = lock_pgno(65536)
    head = replace(header(), page_size=65536, commit=lock, min_txid=TXID(1))
    zero, frame = bytes(65536), encode_frame(1, bytes(65536))

    def snapshot(head: Header, last: int, *, with_lock: bool = False) -> bytes:
        out: list[bytes] = []
        encoder = Encoder(head, out.append)
        for pgno in range(1, last + 1):
            if pgno != lock or with_lock:
                encoder.add_frame(pgno, pgno.to_bytes(4, "big") + frame[4:], zero)
        encoder.finish()
        return b"".join(out)

    for commit in (lock, lock + 1):
        data = snapshot(replace(head, commit=commit), commit)
        assert sum(1 for _ in Decoder([data])) == commit - 1
    with pytest.raises(LtxError, match="is the lock page"):
        snapshot(head, lock, with_lock=True)
    with pytest.raises(LtxError, match=f"snapshot ends at page {lock - 1} of {lock + 1}"):
        snapshot(replace(head, commit=lock + 1), lock)


def checksum_of(pages: dict[int, bytes]) -> int:
    total = FLAG
    for pgno, content in pages.items():
        total = rolling_checksum(total, page_checksum(pgno, content))
    return total


def tracked(post: int | None, **fields: Any) -> bytes:
    out: list[bytes] = []
    encoder = Encoder(header(flags=0, **fields), out.append)
    for pgno in (1, 2, 3):
        encoder.add_page(pgno, page(pgno))
    encoder.finish(post)
    return b"".join(out)


def test_snapshots_that_track_the_database_checksum() -> None:
    right = checksum_of({pgno: page(pgno) for pgno in (1, 2, 3)})
    decoder = Decoder([tracked(None)])
    assert len(list(decoder)) == 3
    assert decoder.trailer is not None
    assert decoder.trailer.post_apply_checksum == right
    assert tracked(right) == tracked(None)
    with pytest.raises(LtxError, match="but the pages give"):
        tracked(right ^ 1)
    lying = bytearray(tracked(None))
    lying[-9] ^= 1
    with pytest.raises(LtxError, match="but the pages give"):
        decode(sealed(lying))


def test_increments_that_track_the_database_checksum() -> None:
    fields = {**DELTA, "pre_apply_checksum": FLAG | 5}
    data = tracked(FLAG | 77, **fields)
    decoder = Decoder([data])
    assert len(list(decoder)) == 3
    assert decoder.trailer is not None
    assert decoder.trailer.post_apply_checksum == FLAG | 77
    with pytest.raises(LtxError, match="invalid database checksum"):
        tracked(77, **fields)
    lying = bytearray(data)
    lying[-16] = 0
    with pytest.raises(LtxError, match="invalid database checksum"):
        decode(sealed(lying))


def test_a_file_is_finished_once() -> None:
    encoder = Encoder(header(**DELTA), lambda chunk: None)
    encoder.finish()
    with pytest.raises(LtxError, match="finished already"):
        encoder.finish()


def test_large_files_come_in_chunks() -> None:
    import random

    noise = random.Random(1)
    head = header(page_size=65536, commit=60)
    pages = {pgno: noise.randbytes(65536) for pgno in range(1, 61)}
    chunks = list(encode(head, pages.items()))
    assert len(chunks) > 2
    assert all(len(chunk) < (1 << 20) + 70_000 for chunk in chunks)
    assert dict(Decoder(chunks)) == pages


def test_a_large_index_is_written_in_chunks() -> None:
    count = 150_000
    head = header(**{**DELTA, "commit": 2**31})
    frame, content = encode_frame(1, page(1)), page(1)
    out: list[bytes] = []
    encoder = Encoder(head, out.append)
    for pgno in range(2**30, 2**30 + count):
        encoder.add_frame(pgno, pgno.to_bytes(4, "big") + frame[4:], content)
    encoder.finish()
    assert sum(len(batch.pgnos) for batch in Decoder(out).batches()) == count


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("tracked", [False, True])
def test_pages_in_batches_make_the_same_file_as_pages_one_by_one(page_size: int, tracked: bool) -> None:
    count = 300 if page_size < 65536 else 7
    head = header(page_size=page_size, commit=count, flags=0 if tracked else 2)
    pages = [(pgno, page(pgno, page_size)) for pgno in range(1, count + 1)]
    single: list[bytes] = []
    encoder = Encoder(head, single.append)
    for pgno, content in pages:
        encoder.add_page(pgno, content)
    encoder.finish()
    assert b"".join(encode(head, pages)) == b"".join(single)


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ([(1, page(1)), (2, page(2)[:-1])], "page 2 of 511 bytes"),
        ([(1, page(1)), (3, page(3))], "a snapshot must hold page 2"),
        ([(2, page(2)), (1, page(1))], "a snapshot must hold page 1"),
        ([(1, page(1)), (2, page(2)), (2, page(2)), (3, page(3))], "page 2 after page 2"),
        ([(1, page(1)), (3, page(3)), (2, page(2)), (4, page(3))], "a snapshot must hold page 2"),
        ([(1, page(1)), (2, page(2)), (3, page(3)), (4, page(4))], "above the database size"),
    ],
)
def test_a_batch_is_held_to_every_rule(pages: list[tuple[int, bytes]], message: str) -> None:
    with pytest.raises(LtxError, match=message):
        Encoder(header(), lambda chunk: None).add_pages(pages)
