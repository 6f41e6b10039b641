"""TXIDs, file names and the lock page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsstream.errors import UsageError
from vfsstream.ltx import TXID, format_name, parse_name

TXIDS = st.integers(1, 2**64 - 1)


@given(TXIDS, TXIDS)
def test_names_round_trip(first: int, second: int) -> None:
    low, high = min(first, second), max(first, second)
    assert parse_name(format_name(low, high)) == (low, high)
    assert TXID.parse(str(TXID(low))) == low


@pytest.mark.parametrize(
    "name",
    [
        "",
        "0000000000000001-0000000000000002.ltx.tmp",
        "0000000000000001-0000000000000002.ltx\n",
        "000000000000000A-000000000000000B.ltx",
        "0000000000000002-0000000000000001.ltx",
        "0000000000000000-0000000000000001.ltx",
        "00000000000000001-0000000000000002.ltx",
        "0000000000000001_0000000000000002.ltx",
    ],
)
def test_foreign_names_are_not_ltx_files(name: str) -> None:
    assert parse_name(name) is None


@pytest.mark.parametrize("text", ["", "1", "0x00000000000001", " 000000000000001", "000000000000_001", "g" * 16])
def test_other_texts_are_not_txids(text: str) -> None:
    with pytest.raises(UsageError, match="16 hex digits"):
        TXID.parse(text)


def test_txids() -> None:
    assert TXID.parse("000000000000000A") == TXID(10)
    assert repr(TXID(10)) == "TXID(0xa)"
    assert f"{TXID(10)} {TXID(10):d} {TXID(10).next()}" == "000000000000000a 10 000000000000000b"
    for value in (-1, 2**64):
        with pytest.raises(UsageError, match="out of range"):
            TXID(value)
