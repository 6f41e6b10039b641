"""Exact request ceilings over S3, on databases of 24,000 pages of 4 KiB, counted by the server from the open on."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

import vfsstream
from bench.objects import Stored
from bench.server import S3Server
from tests.vfs.live import wait_until
from vfsstream.ltx import Header, encode
from vfsstream.vfs.registry import registry

pytestmark = pytest.mark.xdist_group("ceilings")

PAGES = 24_000
ROWS = 212_000
LATENCY = 0.002

TABLE = """
CREATE TABLE t (id INTEGER PRIMARY KEY, k INTEGER, v TEXT);
INSERT INTO t SELECT value, value * 7919 % 212000, hex(randomblob(200)) FROM generate_series(1, 212000);
CREATE INDEX t_k ON t (k);
"""
SCATTERED = """
CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT) WITHOUT ROWID;
INSERT INTO t SELECT value, hex(randomblob(190)) FROM generate_series(1, 212000) ORDER BY random();
"""


def image(path: Path, statements: str) -> list[bytes]:
    numbers = "WITH RECURSIVE n(value) AS (VALUES (1) UNION ALL SELECT value + 1 FROM n LIMIT 212000)"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA page_size=4096; PRAGMA journal_mode=off; PRAGMA synchronous=off;")
        db.executescript(
            statements.replace("SELECT value", f"{numbers} SELECT value").replace(
                "generate_series(1, 212000)", "n"
            )
        )
    data = path.read_bytes()
    return [data[start : start + 4096] for start in range(0, len(data), 4096)]


def ltx(pages: dict[int, bytes], commit: int, low: int, high: int) -> bytes:
    return b"".join(encode(Header(4096, commit, low, high, 1_700_000_000_000 + high), sorted(pages.items())))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Two replicas: ``ordered``, of a snapshot and two transactions, and ``scattered``, of a snapshot."""
    path = tmp_path_factory.mktemp("db")
    with S3Server(LATENCY, 0) as found:
        for name, statements in (("ordered", TABLE), ("scattered", SCATTERED)):
            pages = image(path / name, statements)
            assert PAGES <= len(pages) <= 1.2 * PAGES
            whole = dict(enumerate(pages, 1))
            put(found, f"{name}/0009/0000000000000001-0000000000000001.ltx", ltx(whole, len(pages), 1, 1))
            if name == "ordered":
                for txid in (2, 3):
                    key = f"{name}/0000/{txid:016x}-{txid:016x}.ltx"
                    put(found, key, ltx({1: pages[0]}, len(pages), txid, txid))
        yield found


def put(server: S3Server, key: str, data: bytes) -> None:
    server.bucket("bench").put(key, Stored(data))


Open = Callable[..., apsw.Connection]


@pytest.fixture
def opened(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens a replica; the server counts from there on."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    connections: list[apsw.Connection] = []

    def open_one(name: str, **options: str) -> apsw.Connection:
        registry.close_idle()
        server.reset()
        connections.append(vfsstream.connect(server.url("bench", name), **options))
        return connections[-1]

    yield open_one
    for connection in connections:
        connection.close()
    registry.close_idle()


def gets(server: S3Server) -> int:
    """Reads of objects that are there: a look for the next transaction costs one small answer a second."""
    there = server.bucket("bench").objects
    return sum(1 for request in list(server.log) if request.kind == "GET" and request.key in there)


def stats(db: apsw.Connection) -> dict[str, float]:
    found: dict[str, float] = json.loads(db.execute("PRAGMA litestream_stats").get)["pages_source"]
    return found


def quiet(server: S3Server) -> None:
    """Wait until nothing is under way."""
    last = -1

    def stands() -> bool:
        nonlocal last
        before, last = last, gets(server)
        return last == before and not server.active

    wait_until(stands, what="the end of the reads ahead")


def test_an_open_takes_ten_listings_at_once_and_two_reads_a_file(server: S3Server, opened: Open) -> None:
    server.latency = 0.1
    try:
        db = opened("ordered")
        assert db.execute("SELECT count(*) FROM sqlite_schema").get == 2
        # Head and tail of the snapshot, the two small files whole: page 1 and its neighbours came along.
        assert server.counts["LIST"] <= 10
        assert server.peak >= 8
        assert gets(server) <= 2 * 3
        page_one = [r for r in list(server.log) if r.kind == "GET" and r.range.startswith("bytes=100-")]
        assert not page_one
    finally:
        server.latency = LATENCY


def test_a_full_scan(server: S3Server, opened: Open) -> None:
    db = opened("ordered")
    assert db.execute("SELECT count(*), sum(length(v)) FROM t").get == (ROWS, ROWS * 400)
    quiet(server)
    assert gets(server) <= 200
    found = stats(db)
    assert found["guessed_pages"] - found["used_ahead"] <= PAGES // 20


def test_consecutive_rows(server: S3Server, opened: Open) -> None:
    db = opened("ordered")
    before = gets(server)
    assert len(db.execute("SELECT * FROM t WHERE id BETWEEN 100000 AND 101000").fetchall()) == 1001
    quiet(server)
    assert gets(server) - before <= 12


def test_random_lookups(server: S3Server, opened: Open) -> None:
    db = opened("ordered", cache_size="200MB")
    chance = random.Random(3)
    for rowid in chance.sample(range(1, ROWS), 30):  # as many as it takes to know the interior pages
        db.execute("SELECT v FROM t WHERE id = ?", (rowid,)).fetchall()
    quiet(server)
    before, bytes_before = gets(server), stats(db)["bytes"]
    worst = 0
    for rowid in chance.sample(range(1, ROWS), 1000):
        here = gets(server)
        assert db.execute("SELECT id FROM t WHERE id = ?", (rowid,)).get == rowid
        worst = max(worst, gets(server) - here)
    assert worst <= 1
    assert gets(server) - before <= 1000
    assert stats(db)["bytes"] - bytes_before <= 3 * 1000 * 4096


def test_lookups_cost_no_more_than_one_page_at_a_time_would(server: S3Server, opened: Open) -> None:
    db = opened("ordered")
    for rowid in random.Random(4).sample(range(1, ROWS), 200):
        db.execute("SELECT v FROM t WHERE id = ?", (rowid,)).fetchall()
    quiet(server)
    assert gets(server) <= 200 + 100  # one a row, and the level of interior pages once


def test_rows_by_an_index(server: S3Server, opened: Open) -> None:
    """Each of 500 rows lies in a page of its own: these, and not the whole database."""
    server.latency = 0.02
    try:
        db = opened("ordered")
        before, bytes_before = gets(server), stats(db)["bytes"]
        found = db.execute("SELECT v FROM t WHERE k BETWEEN 100000 AND 100499").fetchall()
        assert len(found) == 500
        quiet(server)
        assert stats(db)["streams"] == 0
        assert stats(db)["waits"] <= 200  # one a row without the index
        assert gets(server) - before <= 900
        assert stats(db)["bytes"] - bytes_before <= 4e6  # 500 rows of 3.5 kB, 70 interior pages, one step beyond
    finally:
        server.latency = LATENCY


def test_a_scattered_range(server: S3Server, opened: Open) -> None:
    db = opened("scattered")
    waits = stats(db)["waits"]
    assert len(db.execute("SELECT * FROM t WHERE id BETWEEN 90000 AND 91110").fetchall()) == 1111
    quiet(server)
    found = stats(db)
    assert found["waits"] - waits <= 40  # at 20 ms: 0.8 s
    assert gets(server) <= 350  # 170 pages each in a place of its own, and a last step beyond the end
    assert found["bytes"] <= 16e6


def test_a_scattered_scan_is_streamed(server: S3Server, opened: Open) -> None:
    server.latency = 0.02
    try:
        db = opened("scattered")
        assert db.execute("SELECT count(*), sum(length(v)) FROM t").get == (ROWS, ROWS * 380)
        quiet(server)
        assert stats(db)["streams"] == 1
        assert gets(server) <= 900
    finally:
        server.latency = LATENCY
