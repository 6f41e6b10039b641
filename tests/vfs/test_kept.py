"""What a process leaves for the next one: opening without the store, and what is removed again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

import vfsstream
from bench.objects import Stored
from bench.server import Fault, S3Server
from tests.vfs.live import wait_until
from tests.vfs.recorder import Recorder, recorder
from vfsstream.errors import OptionError, StoreError
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.vfs import indexcache
from vfsstream.vfs.indexcache import IndexCache
from vfsstream.vfs.registry import registry

ROWS = 3000


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Recorder]:
    (tmp_path / "primary").mkdir()
    for made in recorder(tmp_path / "primary"):
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, body TEXT)",
            *(("INSERT INTO t VALUES (?, 0, hex(randomblob(300)))", (n,)) for n in range(1, ROWS + 1)),
        )
        made.snapshot()
        made.commit("UPDATE t SET n = 1 WHERE id = 1")
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


Open = Callable[..., apsw.Connection]


@pytest.fixture
def opened(server: S3Server, tmp_path: Path) -> Iterator[Open]:
    """Each time as a new process would: nothing is in memory."""
    connections: list[apsw.Connection] = []

    def open_one(**options: str) -> apsw.Connection:
        registry.close_idle()
        more = {"cache_dir": str(tmp_path / "cache"), "poll_interval": "50ms", "deadline": "1s", **options}
        connections.append(vfsstream.connect(server.url("b", "db"), **more))
        return connections[-1]

    yield open_one
    for connection in connections:
        connection.close()
    registry.close_idle()


EVERYTHING = "SELECT count(*), sum(n), sum(length(body)) FROM t"


def test_a_store_that_is_down_stops_nobody_who_takes_an_older_state(
    server: S3Server, opened: Open, primary: Recorder
) -> None:
    db = opened()
    expected = db.execute(EVERYTHING).fetchall()
    primary.commit("UPDATE t SET n = 1 WHERE id = 2")
    upload(server, primary)
    wait_until(lambda: db.execute("SELECT sum(n) FROM t").get == 2, what="the update")
    db.close()
    server.faults.append(lambda request: Fault(status=503))
    server.reset()
    db = opened(stale_ok="1")
    assert db.execute(EVERYTHING).fetchall() == [(expected[0][0], 2, expected[0][2])]
    assert db.execute("PRAGMA litestream_txid").get == f"{primary.txid:016x}"
    # When the store is back, so are the news.
    primary.commit("UPDATE t SET n = 5 WHERE id = 3")
    server.faults.clear()
    upload(server, primary)
    wait_until(lambda: db.execute("SELECT sum(n) FROM t").get == 7, what="the news")


def test_the_open_itself_asks_nothing_and_its_age_is_told(server: S3Server, opened: Open, tmp_path: Path) -> None:
    opened().close()
    registry.close_idle()
    (plan,) = (tmp_path / "cache").rglob("plan.json")
    found = json.loads(plan.read_text())
    plan.write_text(json.dumps({**found, "as_of": time.time() - 1000}))
    server.faults.append(lambda request: Fault(status=503))
    db = opened(stale_ok="1")
    assert int(db.execute("PRAGMA litestream_lag").get) >= 1000
    with pytest.raises(StoreError, match="max_lag"):
        opened(stale_ok="1", max_lag="60s").execute("SELECT 1 FROM t").fetchall()
    db.close()
    registry.close_idle()
    assert json.loads(plan.read_text())["as_of"] <= time.time() - 999  # nobody made it any newer


@pytest.mark.parametrize("harm", ["nothing kept", "garbage", "index lost"])
def test_without_a_usable_cache_the_store_is_asked(
    server: S3Server, opened: Open, tmp_path: Path, harm: str
) -> None:
    if harm != "nothing kept":
        opened().close()
        registry.close_idle()
        (plan,) = (tmp_path / "cache").rglob("plan.json")
        if harm == "garbage":
            plan.write_text('{"as_of": 0, "files": [[1, "x"]]}')
        else:
            for path in plan.parent.iterdir():
                if path != plan:
                    path.unlink()
    server.reset()
    assert opened(stale_ok="1").execute("SELECT count(*) FROM t").get == ROWS
    assert server.counts["LIST"] >= 10


def test_it_needs_a_cache(server: S3Server) -> None:
    with pytest.raises(OptionError, match="stale_ok"):
        vfsstream.connect(server.url("b", "db"), stale_ok="1")


def test_kept_indexes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexcache, "MOST", 20)
    cache = IndexCache(tmp_path)
    infos = [FileInfo(TXID(n), TXID(n), 0, 500) for n in range(1, 40)]
    for number, info in enumerate(infos):
        cache.save(info, bytes(100), b"index")
        os.utime(cache._path(info), (time.time() - 1000 + number,) * 2)
    old = infos[0]
    os.utime(cache._path(infos[-1]), (1, 1))
    cache.prune([old])
    assert cache.load(old) is not None  # in use
    assert cache.load(infos[-1]) is None  # untouched for a week
    assert cache.load(infos[-2]) is not None
    assert len(list(cache.directory.iterdir())) == 20


def test_closing_removes_what_nobody_needs(server: S3Server, opened: Open, tmp_path: Path) -> None:
    db = opened()
    db.execute("SELECT 1 FROM t").fetchall()
    (plan,) = (tmp_path / "cache").rglob("plan.json")
    stray = plan.parent / ("0" * 32)
    stray.write_bytes(b"old")
    os.utime(stray, (1, 1))
    db.close()
    registry.close_idle()
    assert not stray.exists()
    assert plan.exists()
