"""A misbehaving server, over HTTP: right answers if it behaves now and then, clear errors if it never does."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

import vfsstream
from bench.objects import Stored
from bench.server import Fault, Request, S3Server
from tests.vfs.live import wait_until
from tests.vfs.modes import Mode
from tests.vfs.recorder import Recorder, recorder
from vfsstream.errors import CorruptError, StoreError, VfsstreamError
from vfsstream.vfs.registry import registry

pytestmark = pytest.mark.modes

ROWS = 2000
QUERIES = [
    "SELECT count(*), sum(n), sum(length(body)) FROM t",
    "SELECT id, n FROM t WHERE id IN (7, 1999, 321, 42, 1718, 1414)",
    "SELECT body FROM t WHERE id BETWEEN 1200 AND 1300 ORDER BY id DESC",
    "SELECT id FROM t WHERE k BETWEEN 100 AND 160 ORDER BY k",
    "PRAGMA integrity_check",
]

FAULTS: dict[str, Callable[[random.Random], Fault]] = {
    "slow": lambda dice: Fault(delay=dice.uniform(0.02, 0.2)),
    "cut": lambda dice: Fault(cut_after=dice.choice([0, 1, 100, 5000, 40_000])),
    "short": lambda dice: Fault(shorten=dice.choice([1, 7, 90, 3000])),
    "wrong": lambda dice: Fault(shift=dice.choice([1, 5, 500, 5000])),
    "broken": lambda dice: Fault(status=dice.choice([500, 503, 502])),
}


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Recorder]:
    (tmp_path / "primary").mkdir()
    for made in recorder(tmp_path / "primary"):
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, k INTEGER, body TEXT)",
            "CREATE INDEX t_k ON t (k)",
            *(
                ("INSERT INTO t VALUES (?, 0, ?, hex(randomblob(150)))", (n, n * 7919 % ROWS))
                for n in range(1, ROWS + 1)
            ),
        )
        made.snapshot()
        made.commit("UPDATE t SET n = 1 WHERE id % 100 = 1")
        yield made


def upload(server: S3Server, primary: Recorder) -> None:
    """What is in the folder, under the keys of S3."""
    for path in (primary.root / "ltx").rglob("*.ltx"):
        server.bucket("b").put(f"db/{int(path.parent.name):04x}/{path.name}", Stored(path.read_bytes()))


@pytest.fixture
def server(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    with S3Server() as found:
        upload(found, primary)
        yield found
        registry.close_idle()


class Sometimes:
    """Every so many reads of objects that are there, one goes wrong."""

    def __init__(self, server: S3Server, kind: str, every: int) -> None:
        self.server, self.kind, self.every = server, kind, every
        self.reads = self.struck = 0
        self.dice = random.Random(kind)

    def __call__(self, request: Request) -> Fault | None:
        if request.kind != "GET" or request.key not in self.server.bucket("b").objects:
            return None
        self.reads += 1
        if self.reads % self.every:
            return None
        self.struck += 1
        return FAULTS[self.kind](self.dice)


def same(db: apsw.Connection, primary: Recorder) -> None:
    for query in QUERIES:
        assert db.execute(query).fetchall() == primary.db.execute(query).fetchall(), query


@pytest.mark.parametrize("kind", FAULTS)
def test_a_server_that_misbehaves_now_and_then(server: S3Server, primary: Recorder, kind: str, mode: Mode) -> None:
    every = 40 if mode.tiny else 5 if kind == "wrong" else 3  # with little memory there are many more reads
    strike = Sometimes(server, kind, every)
    server.faults.append(strike)
    db = vfsstream.connect(server.url("b", "db"), poll_interval="30ms", relist_interval="500ms")
    db.pragma("cache_size", 10)
    same(db, primary)
    for value in range(2, 4):
        primary.commit(f"UPDATE t SET n = {value} WHERE id % 3 = 1", f"DELETE FROM t WHERE id % 50 = {value}")
        upload(server, primary)
        wait_until(lambda: db.pragma("litestream_txid") == f"{primary.txid:016x}", what="the update")
        same(db, primary)
    assert strike.struck >= 3
    db.close()


LASTING = {
    "slow": (Fault(delay=600), StoreError, "no answer|deadline|timed out"),
    "cut": (Fault(cut_after=50), StoreError, "cut short|ended|incomplete|closed|broken|bytes of"),
    "short": (Fault(shorten=5), StoreError, "cut short|bytes of|bytes came"),
    "wrong": (Fault(shift=3), CorruptError, "page"),
    "broken": (Fault(status=503), StoreError, "503"),
}


@pytest.mark.remote("what is here already needs no server")
@pytest.mark.parametrize("kind", LASTING)
def test_a_server_that_only_misbehaves(server: S3Server, primary: Recorder, kind: str) -> None:
    fault, error, text = LASTING[kind]
    db = vfsstream.connect(server.url("b", "db"), poll_interval="1h", relist_interval="24h", deadline="1s")
    db.pragma("cache_size", 10)
    assert db.execute("SELECT count(*) FROM sqlite_schema").get == 2
    time.sleep(0.3)  # what is fetched ahead has come
    server.faults.append(lambda request: fault if request.kind == "GET" else None)
    started = time.monotonic()
    with pytest.raises((VfsstreamError, apsw.Error)) as failure:
        same(db, primary)
    assert time.monotonic() - started < 30
    assert isinstance(failure.value, error)
    assert ".ltx" in str(failure.value)
    failure.match(text)
    server.faults.clear()
    end = time.monotonic() + 60
    while True:  # a connection that was cut or silent may still be in the pool
        try:
            same(db, primary)
            break
        except (StoreError, sqlite3.Error):
            assert time.monotonic() < end
    db.close()
