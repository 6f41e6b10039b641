"""The log as bytes, against logs that SQLite itself wrote."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import apsw
import pytest

from vfsstream.replicate.wal import (
    Frame,
    PageMap,
    WalHeader,
    frame_end,
    frame_size,
    frames_in,
    iter_frames,
    next_salt1,
    valid_frames,
)
from vfsstream.replicate.walindex import WalIndex, parse_index


def write_log(path: Path, page_size: int = 4096, rows: int = 50) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA page_size={page_size}")
    connection.execute("PRAGMA journal_mode=wal")
    connection.wal_autocheckpoint(0)
    connection.execute("CREATE TABLE t(x)")
    for _ in range(rows):
        connection.execute("INSERT INTO t VALUES(randomblob(?))", (random.randrange(10, 3 * page_size),))
    return connection


@pytest.mark.parametrize("page_size", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536])
@pytest.mark.parametrize("rows", [3, 90])
def test_sqlite_s_own_chain_is_valid_to_the_last_frame(tmp_path: Path, page_size: int, rows: int) -> None:
    connection = write_log(tmp_path / "db", page_size, rows)
    data = (tmp_path / "db-wal").read_bytes()
    header = WalHeader.unpack(data)
    assert header is not None
    assert header.page_size == page_size
    frames = data[32:]
    count, last = valid_frames(frames, page_size, header.salts, header.checksum, big_endian=header.big_endian)
    assert count == len(frames) // frame_size(page_size)
    index = WalIndex(tmp_path / "db-shm")
    facts = index.read()
    assert facts is not None
    assert (facts.max_frame, facts.frame_checksum, facts.salts) == (count, last, header.salts)
    assert (facts.page_size, facts.backfilled) == (page_size, 0)
    assert facts.commit == connection.pragma("page_count")
    connection.close()
    index.close()


@pytest.mark.parametrize("rows", [3, 90])
def test_one_flipped_bit_ends_the_chain_at_its_frame(tmp_path: Path, rows: int) -> None:
    connection = write_log(tmp_path / "db", 4096, rows)
    data = bytearray((tmp_path / "db-wal").read_bytes())
    connection.close()
    header = WalHeader.unpack(bytes(data[:32]))
    assert header is not None
    size, total = frame_size(4096), (len(data) - 32) // frame_size(4096)
    for number in {1, 2, total // 2, total}:
        for place in (0, 4, 8, 15, 16, 23, 24, size - 1):
            damaged = bytearray(data[32:])
            damaged[(number - 1) * size + place] ^= 1
            count, _ = valid_frames(damaged, 4096, header.salts, header.checksum, big_endian=header.big_endian)
            assert count == number - 1, (number, place)


def test_a_cut_frame_is_not_valid(tmp_path: Path) -> None:
    connection = write_log(tmp_path / "db", 4096, 5)
    data = (tmp_path / "db-wal").read_bytes()
    connection.close()
    header = WalHeader.unpack(data)
    assert header is not None
    whole = (len(data) - 32) // frame_size(4096)
    count, _ = valid_frames(data[32:-1], 4096, header.salts, header.checksum, big_endian=header.big_endian)
    assert count == whole - 1
    assert valid_frames(b"", 4096, header.salts, header.checksum, big_endian=False) == (0, header.checksum)


def test_damaged_headers_are_no_headers(tmp_path: Path) -> None:
    connection = write_log(tmp_path / "db", 4096, 1)
    data = (tmp_path / "db-wal").read_bytes()[:32]
    connection.close()
    assert WalHeader.unpack(data) is not None
    assert WalHeader.unpack(data[:31]) is None
    for place in range(32):
        damaged = bytearray(data)
        damaged[place] ^= 0x40
        assert WalHeader.unpack(bytes(damaged)) is None, place


def test_a_restart_adds_one_to_the_first_salt(tmp_path: Path) -> None:
    connection = write_log(tmp_path / "db")
    before = WalHeader.unpack((tmp_path / "db-wal").read_bytes())
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    connection.execute("INSERT INTO t VALUES(1)")
    after = WalHeader.unpack((tmp_path / "db-wal").read_bytes())
    connection.close()
    assert before is not None
    assert after is not None
    assert after.salts[:4] == next_salt1(before.salts)
    assert after.salts[4:] != before.salts[4:]
    assert next_salt1(b"\xff" * 8) == bytes(4)


def test_offsets_and_frames() -> None:
    assert frame_end(0, 4096) == 32
    assert frame_end(3, 512) == 32 + 3 * 536
    assert frames_in(frame_end(7, 65536), 65536) == 7
    assert frames_in(33, 4096) is None
    assert frames_in(31, 4096) is None
    assert frames_in(0, 4096) is None


@pytest.mark.parametrize("repeat", [1, 900])
def test_the_page_map_keeps_the_newest_committed_frame_of_each_page(repeat: int) -> None:
    frames = [Frame(pgno, 0, b"", b"") for pgno in (1, 2, 9, 3, 2)] * repeat
    frames += [Frame(4, 5, b"", b"chksum-4"), Frame(1, 0, b"", b"")]
    pages = PageMap(11)
    for frame in frames:
        pages.add(frame)
    base = 11 + 5 * (repeat - 1)
    expected = [(1, base), (2, base + 4), (3, base + 3), (4, base + 5)]
    assert [tuple(map(int, row)) for row in pages.pages()] == expected
    assert (pages.commit, pages.last_frame, len(pages), pages.last_pgno) == (5, base + 5, 5 * repeat + 1, 4)
    assert pages.last_checksum == b"chksum-4"


@pytest.mark.parametrize("cut", [0, 1, 3, 7])
def test_frames_taken_at_once_are_frames_taken_one_by_one(cut: int) -> None:
    salts = b"saltsalt"
    frames = [(5, 0), (1, 3), (2, 0), (2, 4), (7, 0), (3, 0), (9, 0)]
    packed = [
        struct.pack(">II8s8s", pgno, commit, salts, bytes([at] * 8)) + bytes(512)
        for at, (pgno, commit) in enumerate(frames)
    ]
    one_by_one, at_once = PageMap(4), PageMap(4)
    for frame in iter_frames(b"".join(packed), 512):
        one_by_one.add(frame)
    assert at_once.extend(b"".join(packed[:cut]), 512, salts)
    assert at_once.extend(b"".join(packed[cut:]), 512, salts)
    for name in ("commit", "last_frame", "last_checksum", "last_pgno"):
        assert getattr(at_once, name) == getattr(one_by_one, name)
    assert at_once.pages() == one_by_one.pages() == [(1, 5), (2, 7)]


@pytest.mark.parametrize(("pgno", "salts"), [(1, b"otherlap"), (0, b"saltsalt")])
def test_a_frame_of_another_lap_is_not_taken_and_neither_are_its_neighbours(pgno: int, salts: bytes) -> None:
    good = struct.pack(">II8s8s", 1, 1, b"saltsalt", bytes(8)) + bytes(512)
    bad = struct.pack(">II8s8s", pgno, 1, salts, bytes(8)) + bytes(512)
    pages = PageMap(1)
    assert not pages.extend(good + bad, 512, b"saltsalt")
    assert (len(pages), pages.pages()) == (0, [])


def test_a_map_without_commit_is_empty() -> None:
    pages = PageMap(1)
    pages.add(Frame(1, 0, b"", b""))
    assert (len(pages), pages.commit, pages.last_frame, pages.pages()) == (0, 0, 0, [])


def test_iter_frames_skips_a_cut_end(tmp_path: Path) -> None:
    data = bytes(frame_size(512) * 2 + 10)
    assert len(list(iter_frames(data, 512))) == 2


def test_a_torn_wal_index_is_no_answer(tmp_path: Path) -> None:
    connection = write_log(tmp_path / "db", 4096, 3)
    with open(tmp_path / "db-shm", "rb") as file:
        data = file.read(136)
    connection.close()
    assert parse_index(data) is not None
    assert parse_index(data[:100]) is None
    for place in range(96):
        damaged = bytearray(data)
        damaged[place] ^= 1
        assert parse_index(bytes(damaged)) is None, place
    both = bytearray(data)
    both[16] ^= 1
    both[64] ^= 1
    assert parse_index(bytes(both)) is None, "equal copies with a wrong checksum"
