"""Many connections, threads, processes and replicas at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

import vfsstream
from tests.vfs.live import wait_until
from tests.vfs.recorder import Recorder, recorder
from tests.vfs.test_defects import filled, same_as_primary
from vfsstream.errors import ReplicaEmpty
from vfsstream.stores.file import FileStore
from vfsstream.vfs.registry import registry
from vfsstream.vfs.vfs import file_of

pytestmark = pytest.mark.modes


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Recorder]:
    yield from recorder(tmp_path)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_hundred_connections_in_sixteen_threads(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(primary)
    calls: list[str] = []
    fetch, listing = FileStore.fetch, FileStore.list
    warm = vfsstream.connect(primary.url)
    warm.execute("SELECT sum(length(body)) FROM t").fetchall()
    before = resident()
    connections: list[apsw.Connection] = []

    def work() -> None:
        for _ in range(7):
            db = vfsstream.connect(primary.url)
            connections.append(db)
            # A point query: what SQLite itself caches of a scan is not ours to count.
            assert db.execute("SELECT length(body) FROM t WHERE id = 77").get == 600

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(connections) == 112
    per_connection = (resident() - before) / len(connections)
    assert per_connection < 200_000, per_connection
    databases = {id(file.database) for file in map(file_of, connections) if file is not None}
    assert len(databases) == 1
    monkeypatch.setattr(FileStore, "fetch", lambda self, *a: calls.append("get") or fetch(self, *a))
    monkeypatch.setattr(FileStore, "list", lambda self, *a: calls.append("list") or listing(self, *a))
    time.sleep(2)  # what was fetched ahead for the connections above has come
    calls.clear()
    started = time.monotonic()
    time.sleep(5)
    assert len(calls) <= 1.1 * (time.monotonic() - started) + 2  # one poll and one listing may just have been due
    for db in [warm, *connections]:
        db.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_process_reads_and_follows(primary: Recorder) -> None:
    filled(primary, 400)
    db = vfsstream.connect(primary.url, poll_interval="100ms")
    db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert db.execute("SELECT sum(length(body)) FROM t").get == 240000
            primary.commit("UPDATE t SET v = 3")
            db.pragma("litestream_refresh")
            assert db.execute("SELECT sum(v) FROM t").get == 1200
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + 30
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.02)
    assert status == 0
    assert db.execute("SELECT sum(length(body)) FROM t").get == 240000
    db.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_waits_for_what_a_new_thread_imports(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that a thread of the parent was just importing could never be imported in the child."""
    filled(primary, 4)
    begun, release, done = threading.Event(), threading.Event(), threading.Event()

    def watch(*_: object) -> Callable[[], None]:
        begun.set()
        release.wait(30)
        done.set()
        return lambda: None

    monkeypatch.setattr(FileStore, "watch", watch)
    db = vfsstream.connect(primary.url)
    assert begun.wait(30)
    threading.Timer(0.2, release.set).start()
    child = os.fork()
    if child == 0:
        os._exit(not done.is_set())
    assert os.waitpid(child, 0)[1] == 0
    db.close()


def test_two_moments_in_one_connection(primary: Recorder) -> None:
    filled(primary)
    before = primary.txid
    primary.commit("UPDATE t SET v = 8 WHERE id IN (3, 5)")
    db = vfsstream.connect(primary.url)
    db.execute(f"ATTACH 'file:old?vfs=litestream&replica_url={primary.url}&txid={before}' AS old")
    changed = db.execute("SELECT new.id FROM main.t new JOIN old.t USING(id) WHERE new.v <> old.t.v").fetchall()
    assert changed == [(3,), (5,)]
    assert db.execute("PRAGMA old.litestream_txid").get == f"{before:016x}"
    with pytest.raises(apsw.SQLError, match="never moves"):
        db.execute("PRAGMA old.litestream_time='LATEST'")
    db.close()


def test_a_fixed_view_never_moves_and_asks_nothing(primary: Recorder) -> None:
    filled(primary)
    db = vfsstream.connect(primary.url, txid=primary.txid)
    assert db.execute("SELECT sum(v) FROM t").get == 0
    primary.commit("UPDATE t SET v = 1")
    db.pragma("litestream_refresh")
    assert db.execute("SELECT sum(v) FROM t").get == 0
    assert db.execute("SELECT litestream_lag()").get == -1
    db.close()


def test_an_empty_replica(primary: Recorder) -> None:
    started = time.monotonic()
    with pytest.raises(ReplicaEmpty, match="no LTX files"):
        vfsstream.connect(primary.url)
    assert time.monotonic() - started < 5
    writer = threading.Timer(0.5, _late_writer, (primary.path.parent,))
    writer.start()
    db = vfsstream.connect(primary.url, wait="20s", poll_interval="50ms")
    wait_until(lambda: db.execute("SELECT a FROM late").get == 4)
    writer.join()
    db.close()


def _late_writer(directory: Path) -> None:
    (directory / "primary.db").unlink()
    late = Recorder(directory)
    late.commit("CREATE TABLE late(a)")
    late.commit("INSERT INTO late VALUES(4)")
    late.close()


def test_a_replica_made_anew_is_another_database(primary: Recorder, tmp_path: Path) -> None:
    filled(primary)
    for value in range(5):
        primary.commit(f"UPDATE t SET v = {value}")
    db = vfsstream.connect(primary.url, poll_interval="1h")
    assert db.execute("SELECT DISTINCT v FROM t").get == 4
    for level in (0, 9):
        primary.delete(level)
    other = tmp_path / "other"
    other.mkdir()
    again = Recorder(other)
    again.root, again.url, again.replica = primary.root, primary.url, primary.replica
    again.commit("CREATE TABLE fresh(a)")
    again.commit("INSERT INTO fresh VALUES(1)")
    file = file_of(db)
    assert file is not None
    assert file.database.follower is not None
    for _ in range(2):  # a listing is believed when it says so twice
        file.database.follower.refresh(file.check, full=True)
    assert db.execute("SELECT a FROM fresh").get == 1
    assert db.pragma("litestream_txid") == f"{again.txid:016x}"
    db.close()
    again.db.close()


def test_a_closed_database_is_read_again_when_it_is_opened_again(primary: Recorder) -> None:
    filled(primary)
    vfsstream.connect(primary.url, poll_interval="1h").close()
    assert registry.open_databases()
    primary.commit("UPDATE t SET v = 2")
    db = vfsstream.connect(primary.url, poll_interval="1h")
    same_as_primary(db, primary)
    db.close()
    registry.close_idle()
    assert not registry.open_databases()


def test_backup_blobs_and_big_sorts(primary: Recorder) -> None:
    filled(primary, 400)
    db = vfsstream.connect(primary.url)
    copy = apsw.Connection(":memory:")
    with copy.backup("main", db, "main") as backup:
        while not backup.done:
            backup.step(7)
    assert copy.pragma("integrity_check") == "ok"
    assert copy.execute("SELECT count(*) FROM t").get == 400
    with db.blob_open("main", "t", "body", 7, False) as blob:
        assert blob.read() == b"x" * 600
    db.pragma("cache_size", -64)
    rows = db.execute("SELECT a.id, b.id FROM t a, t b ORDER BY a.body || b.body, b.id DESC LIMIT 3").fetchall()
    assert rows[0][1] == 400
    with pytest.raises(apsw.ReadOnlyError):
        db.execute("CREATE TABLE x(a)")
    with pytest.raises(apsw.ReadOnlyError):
        db.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES(9999, 1, 1)")
    copy.close()
    db.close(True)


def test_staleness_is_an_error_when_asked_for(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(primary)
    db = vfsstream.connect(primary.url, poll_interval="1h", max_lag="50ms")
    time.sleep(0.1)
    with pytest.raises(apsw.IOError, match="max_lag"):
        db.execute("SELECT * FROM t").fetchall()
    db.close()
    fresh = vfsstream.connect(primary.url, poll_interval="1h", max_staleness="10ms")
    primary.commit("UPDATE t SET v = 6")
    time.sleep(0.05)
    assert fresh.execute("SELECT DISTINCT v FROM t").get == 6
    fresh.close()
