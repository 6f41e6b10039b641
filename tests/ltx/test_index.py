"""The page index: stored form, lookups and every rule."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.ltx.helpers import header, make
from vfsstream.errors import LtxError
from vfsstream.ltx import HEADER_SIZE, TXID, Header, PageIndex, index_start, lock_pgno
from vfsstream.ltx.index import encode_entries

DELTA = replace(header(), page_size=4096, commit=2**32 - 1, min_txid=TXID(2), max_txid=TXID(2))


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def index_of(entries: list[tuple[int, int]]) -> PageIndex:
    """An index of contiguous frames from ``(pgno, size)``."""
    offset, offsets = HEADER_SIZE, []
    for _, size in entries:
        offsets.append(offset)
        offset += size
    return PageIndex([pgno for pgno, _ in entries], offsets, [size for _, size in entries])


def stored(body: bytes, end_of_frames: int) -> tuple[bytes, int]:
    """``(index with its trailer, size of the file)``."""
    data = body + len(body).to_bytes(8, "big") + bytes(16)
    return data, end_of_frames + 6 + len(data)


def read(body: bytes, end_of_frames: int, head: Header = DELTA) -> PageIndex:
    data, size = stored(body, end_of_frames)
    return PageIndex.decode(data, head, size, name="k")


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (1, "01"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (16384, "808001"),
        (2**32 - 1, "ffffffff0f"),
    ],
)
def test_varint_vectors(value: int, form: str) -> None:
    assert encode_entries([value], [value], [value]).hex() == form * 3


@given(
    st.sets(st.integers(1, 2**32 - 2).filter(lambda pgno: pgno != lock_pgno(4096)), max_size=60),
    st.integers(7, 4096),
    st.sampled_from([1, 40]),
)
def test_round_trip_small_and_large(pgnos: set[int], size: int, copies: int) -> None:
    numbers = sorted(pgnos)
    if copies > 1 and numbers:
        start = 300_000
        numbers = list(range(start, start + copies * 60))
    index = index_of([(pgno, 7 + (size + pgno) % 4000) for pgno in numbers])
    entries = list(index)
    end = entries[-1][1] + entries[-1][2] if entries else HEADER_SIZE
    decoded = read(index.encode(), end)
    assert decoded == index
    assert len(decoded) == len(numbers)
    assert decoded.pgno.tolist() == numbers
    assert decoded.offset.tolist() == [offset for _, offset, _ in entries]
    assert decoded.size.tolist() == [length for _, _, length in entries]
    for pgno, offset, length in entries[:50]:
        assert decoded.find(pgno) == (offset, length) == index.find(pgno)
    assert decoded.find(2**32 - 1) is None
    assert decoded.find(0) is None


@pytest.mark.parametrize("count", [3, 3000])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("duplicate", r"after page|do not ascend"),
        ("zero", r"after page|do not ascend"),
        ("above", "above the database size"),
        ("lock", "lock page"),
        ("tiny", "frame"),
        ("huge", "frame"),
        ("hole", r"expected at|not contiguous"),
        ("early", r"expected at|not contiguous"),
        ("end", "frames end at"),
        ("long varint", "shortest form"),
        ("no zero", "zero byte"),
        ("entry cut", "zero byte"),
        ("open varint", "zero byte"),
        ("giant", "too large"),
    ],
)
def test_broken_rules(count: int, change: str, message: str) -> None:
    lock = lock_pgno(4096)
    entries = [[lock + 10 + place, 0, 50] for place in range(count)]
    if change == "duplicate":
        entries[1][0] = entries[0][0]
    if change == "lock":
        entries[0][0] = lock
    if change == "zero":
        entries[0][0] = 0
    if change == "tiny":
        entries[1][2] = 6
    if change == "huge":
        entries[1][2] = 5000
    end = HEADER_SIZE
    for entry in entries:
        entry[1] = end
        end += entry[2]
    if change == "hole":
        entries[1][1] += 1
    if change == "early":
        entries[0][1] -= 1
    head = replace(DELTA, commit=lock + count) if change == "above" else DELTA
    body = b"".join(varint(value) for entry in entries for value in entry)
    ends = {"long varint": b"\x80\x00", "no zero": b"", "entry cut": b"\x01\x00", "open varint": b"\x80"}
    body += ends.get(change, b"\0")
    if change == "giant":
        body = b"\xff" * 9 + b"\x01" + body[3:]
    with pytest.raises(LtxError, match=message) as caught:
        read(body, end + (change == "end"), head)
    assert caught.value.name == "k"


def test_a_giant_page_number_in_a_large_index() -> None:
    numbers = [*range(1, 3000), 2**33]
    index = index_of([(pgno, 50) for pgno in numbers])
    with pytest.raises(LtxError, match="too large"):
        read(b"".join(varint(v) for entry in index for v in entry) + b"\0", HEADER_SIZE + 150_000)


@pytest.mark.parametrize("commit", [2, 3000])
def test_a_snapshot_must_be_complete(commit: int) -> None:
    head = replace(DELTA, min_txid=TXID(1), commit=commit)
    whole = index_of([(pgno, 50) for pgno in range(1, commit + 1)])
    assert len(read(whole.encode(), HEADER_SIZE + 50 * commit, head)) == commit
    short = index_of([(pgno, 50) for pgno in range(1, commit)])
    with pytest.raises(LtxError, match=f"snapshot holds {commit - 1} of {commit}"):
        read(short.encode(), HEADER_SIZE + 50 * (commit - 1), head)


def test_the_lock_page_is_not_missing_from_a_snapshot() -> None:
    lock = lock_pgno(65536)
    head = replace(DELTA, page_size=65536, min_txid=TXID(1), commit=lock + 1)
    index = index_of([(pgno, 300) for pgno in range(1, lock + 2) if pgno != lock])
    assert len(read(index.encode(), HEADER_SIZE + 300 * lock, head)) == lock


def test_where_the_index_starts() -> None:
    data = make()
    start = index_start(data[-24:], len(data))
    head = Header.unpack(data)
    index = PageIndex.decode(data[start:], head, len(data))
    assert [pgno for pgno, _, _ in index] == [1, 2, 3]
    assert index_start(data, len(data)) == start
    with pytest.raises(LtxError, match="does not end where its size says"):
        PageIndex.decode(data[start + 1 :], head, len(data))
    with pytest.raises(LtxError, match="truncated"):
        index_start(data[-23:], len(data))
    with pytest.raises(LtxError, match="truncated"):
        index_start(data[:130], 130)
    for size in (0, len(data), 2**64 - 1):
        with pytest.raises(LtxError, match=f"page index of {size} bytes"):
            index_start(size.to_bytes(8, "big") + bytes(16), len(data))


def test_equality_and_looks() -> None:
    index = index_of([(1, 50)])
    assert index != index_of([(2, 50)])
    assert index != "index"
    assert repr(index) == "<PageIndex 1 pages>"


def test_numpy_is_not_imported_for_less_than_it_costs() -> None:
    code = (
        "import sys; from vfsstream.ltx.index import encode_entries;"
        "n = list(range(1, 5001)); a = encode_entries(n, n, n); assert 'numpy' not in sys.modules;"
        "import numpy; assert encode_entries(n, n, n) == a"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert np.__name__ in sys.modules, "the large cases of this module are about numpy"
