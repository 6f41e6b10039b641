"""Checksums put together from those of the pieces."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vfsstream.ltx.checksum import crc64
from vfsstream.ltx.crcjoin import join_checksums


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=20),
    st.integers(0, 70),
    st.sampled_from([1, 10, 522, 4106]),
    st.randoms(use_true_random=False),
)
def test_is_the_checksum_of_all(before: bytes, count: int, size: int, source) -> None:  # type: ignore[no-untyped-def]
    pieces = [source.randbytes(size) for _ in range(count)]
    checksums = np.array([crc64(piece) for piece in pieces], np.uint64)
    assert join_checksums(crc64(before), checksums, size) == crc64(before + b"".join(pieces))


def test_two_steps_are_one() -> None:
    checksums = np.arange(1, 20_000, dtype=np.uint64)
    halfway = join_checksums(7, checksums[:12_345], 4106)
    assert join_checksums(halfway, checksums[12_345:], 4106) == join_checksums(7, checksums, 4106)
