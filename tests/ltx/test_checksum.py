"""The checksums, against published vectors and an independent computation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.ltx.helpers import slow_crc64
from vfsstream.ltx import FLAG, crc64, page_checksum, rolling_checksum


def test_vectors() -> None:
    assert crc64(b"") == 0
    assert crc64(b"123456789") == 0xB90956C775A41001
    assert crc64(bytes(4096)) == 0x492FC33C906FFF90
    assert page_checksum(1, bytes(4096)) == 0xD9328F592D9E733D
    assert page_checksum(2, bytes(512)) == 0xEF63E89FECD99000


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_it_continues_where_it_stopped(first: bytes, second: bytes) -> None:
    assert crc64(second, crc64(first)) == crc64(first + second) == slow_crc64(first + second)


@given(st.lists(st.tuples(st.integers(1, 9), st.binary(min_size=1, max_size=8)), max_size=6))
def test_the_order_of_pages_does_not_matter_and_adding_twice_removes(pages: list[tuple[int, bytes]]) -> None:
    total = FLAG
    for pgno, data in pages + pages[::-1]:
        total = rolling_checksum(total, page_checksum(pgno, data))
    assert total == FLAG
