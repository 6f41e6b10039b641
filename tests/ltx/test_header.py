"""The header: stored form and every rule."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ltx.helpers import header
from vfsstream.errors import LtxError
from vfsstream.ltx import FLAG, HEADER_SIZE, NO_CHECKSUM, PAGE_SIZES, TXID, Header


def stored(**fields: Any) -> bytes:
    """A header as bytes, packed without any check."""
    head = header(**fields)
    return struct.pack(
        ">4sIIIQQqQqqIIQ20s",
        b"LTX1",
        head.flags,
        head.page_size,
        head.commit,
        head.min_txid,
        head.max_txid,
        head.timestamp,
        head.pre_apply_checksum,
        head.wal_offset,
        head.wal_size,
        head.wal_salt1,
        head.wal_salt2,
        head.node_id,
        b"",
    )


BROKEN: list[tuple[dict[str, Any], str, int]] = [
    ({"flags": 1}, "unknown header flags 0x1", 4),
    ({"flags": 6}, "unknown header flags 0x6", 4),
    *(({"page_size": size}, f"invalid page size {size}", 8) for size in (0, 1, 256, 513, 4095, 131072)),
    ({"min_txid": 0}, "first TXID is 0", 16),
    ({"min_txid": 1, "max_txid": 0}, "last TXID is 0", 24),
    ({"min_txid": 5, "max_txid": 4}, "run backwards", 16),
    ({"wal_offset": -1}, "negative WAL offset", 48),
    ({"wal_offset": 32, "wal_size": -1}, "negative WAL size", 56),
    ({"wal_salt1": 1}, "WAL salt without", 64),
    ({"wal_salt2": 1}, "WAL salt without", 64),
    ({"wal_size": 536}, "WAL size without", 56),
    ({"pre_apply_checksum": FLAG | 1, "flags": 0}, "a snapshot states", 40),
    ({"min_txid": 2, "max_txid": 2, "pre_apply_checksum": FLAG}, "in a file that tracks none", 40),
    ({"min_txid": 2, "max_txid": 2, "flags": 0}, "invalid database checksum", 40),
    ({"min_txid": 2, "max_txid": 2, "flags": 0, "pre_apply_checksum": 5}, "invalid database checksum", 40),
]


@pytest.mark.parametrize(("fields", "message", "offset"), BROKEN)
def test_a_broken_rule_is_refused_when_read_and_when_written(
    fields: dict[str, Any], message: str, offset: int
) -> None:
    with pytest.raises(LtxError, match=message) as caught:
        Header.unpack(stored(**fields), name="k")
    assert caught.value.offset == offset
    assert str(caught.value).startswith("k: ")
    with pytest.raises(LtxError, match=message):
        header(**fields).pack()


def test_short_and_foreign_files() -> None:
    with pytest.raises(LtxError, match="truncated: 99 of 100"):
        Header.unpack(bytes(99))
    with pytest.raises(LtxError, match="not an LTX file"):
        Header.unpack(b"SQLite format 3\0" + bytes(100))


def test_what_the_format_leaves_free_is_accepted() -> None:
    data = bytearray(stored(commit=0, timestamp=-1, node_id=7))
    data[80:100] = b"x" * 20
    assert Header.unpack(data) == header(commit=0, timestamp=-1, node_id=7)


@given(
    st.sampled_from(PAGE_SIZES),
    st.integers(0, 2**32 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(32, 2**63 - 1),
    st.integers(0, 2**32 - 1),
)
def test_round_trip(size: int, commit: int, txid: int, timestamp: int, offset: int, salt: int) -> None:
    head = Header(size, commit, TXID(1), TXID(txid), timestamp, offset, 24 + size, salt, salt ^ 1)
    packed = head.pack()
    assert len(packed) == HEADER_SIZE
    assert Header.unpack(packed) == head
    assert head.is_snapshot
    assert not head.tracks_checksums
    assert head.flags == NO_CHECKSUM


def test_a_header_must_state_the_span_of_its_name() -> None:
    head = header(min_txid=TXID(3), max_txid=TXID(5))
    head.check_span(3, 5, "a.ltx")
    for span in ((2, 5), (3, 6)):
        with pytest.raises(LtxError, match=r"the header states TXIDs 0{15}3 to 0{15}5, the name 0{15}") as caught:
            head.check_span(*span, "a.ltx")
        assert (caught.value.name, caught.value.offset) == ("a.ltx", 16)
