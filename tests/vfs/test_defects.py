"""The defects D1 to D25 of Litestream's VFS: none of them here.

===== =============================================================== ========================================
      what happens there                                              the test that fails if it did here
===== =============================================================== ========================================
D1    other SQLite connections of the process cannot be opened        test_d1_other_connections_open_as_ever
D2    the environment is read at the start of the process only        test_d2_the_environment_counts_at_each_open
D3    a failed open kills the first connection                        test_d3_a_failed_open_harms_nobody
D4    an older compacted file overrides newer pages                   test_d4_an_older_compacted_file_never_wins
D5    a reader without a level-1 file in its plan freezes             test_d5_compactions_do_not_stop_the_reader
D6    a shrinking transaction replaces the whole index                test_d6_d7_a_shrinking_database
D7    the size is that of the highest page ever seen                  test_d6_d7_a_shrinking_database
D8    updates during hydration are lost                               test_d8_an_update_during_hydration_stays
D9    the hydrated file changes under readers                         test_d9_a_hydrated_reader_sees_one_state
D10   all hydrations share a file; progress above 100 %               test_d10_hydrations_have_files_of_their_own
D11   a writer loses its own synced pages                             test_d11_nothing_can_be_written_and_so_lost
D12   a random change counter empties SQLite's cache                  test_d12_the_cache_of_sqlite_lives
D13   asking for the size walks all pages                             test_d13_the_size_is_known
D14   each connection has an index, a cache and a poller of its own   test_d14_connections_share_everything
D15   a removed file means BUSY for ever                              test_d15_removed_files
D16   a remote read has no deadline                                   test_d16_a_read_ends_in_time
D17   poll_interval=0s aborts the process                             test_d17_d24_a_bad_value_is_named
D18   setter PRAGMAs raise MemoryError in Python                      test_d18_setters_answer_sqlite3_too
D19   the TXID runs ahead of the view, the time stands still          test_d19_the_txid_is_that_of_the_view
D20   the temporary directory is left behind                          test_d10_d20_nothing_temporary_is_left
D21   a failed load crashes at exit                                   test_d21_a_failed_open_leaves_a_clean_exit
D22   every poll lists whole levels                                   test_d22_d23_what_polling_costs
D23   each new file is fetched two or three times                     test_d22_d23_what_polling_costs
D24   causes of errors are lost                                       test_d24_causes_reach_the_user
D25   plain ATTACH and VACUUM INTO reach the replica                  test_d25_plain_files_stay_plain
===== =============================================================== ========================================
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

import vfsstream
import vfsstream.sqlite3
from tests.conftest import ROOT
from tests.vfs.live import wait_until
from tests.vfs.modes import Mode
from tests.vfs.recorder import Recorder, recorder
from vfsstream.errors import DeadlineExceeded, OptionError, StoreError, VfsstreamError, ViewExpired
from vfsstream.stores.base import Fetched
from vfsstream.stores.file import FileStore
from vfsstream.vfs.registry import registry
from vfsstream.vfs.vfs import file_of

BODY = "x" * 600

pytestmark = pytest.mark.modes


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Recorder]:
    yield from recorder(tmp_path)


@pytest.fixture
def opened(primary: Recorder) -> Iterator[Callable[..., apsw.Connection]]:
    """Open the primary's replica; polled only when a test asks, unless it says otherwise."""
    connections = []

    def open_it(**options: str) -> apsw.Connection:
        settings = {"poll_interval": "1h", "relist_interval": "24h", **options}
        connection = vfsstream.connect(primary.url, **settings)
        connections.append(connection)
        return connection

    yield open_it
    for connection in connections:
        connection.close(True)


def filled(primary: Recorder, rows: int = 200) -> None:
    primary.commit("CREATE TABLE t(id INTEGER PRIMARY KEY, v, body)")
    primary.commit(
        (
            "INSERT INTO t SELECT value, 0, ? FROM (WITH RECURSIVE c(value) AS (SELECT 1 UNION ALL SELECT value+1"
            f" FROM c WHERE value<{rows}) SELECT value FROM c)",
            (BODY,),
        )
    )


def same_as_primary(db: apsw.Connection, primary: Recorder) -> None:
    assert db.pragma("integrity_check") == "ok"
    assert db.pragma("page_count") == len(primary.pages)
    query = "SELECT id, v, body FROM t ORDER BY id"
    assert db.execute(query).fetchall() == primary.db.execute(query).fetchall()


def test_d1_other_connections_open_as_ever(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary)
    opened()
    other = apsw.Connection(":memory:")
    assert other.execute("SELECT 1").get == 1
    with pytest.raises(apsw.SQLError, match="no such function"):
        other.execute("SELECT litestream_txid()")
    other.close()


def test_d2_the_environment_counts_at_each_open(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(primary)
    monkeypatch.setenv("LITESTREAM_REPLICA_URL", primary.url)
    db = apsw.Connection("file:anything.db?vfs=litestream")
    assert db.execute("SELECT count(*) FROM t").get == 200
    assert not os.path.exists("anything.db")
    db.close()


def test_d3_a_failed_open_harms_nobody(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary)
    first = opened()
    for _ in range(3):
        with pytest.raises(VfsstreamError):
            vfsstream.connect(primary.url + "-nowhere")
    assert first.execute("SELECT count(*) FROM t").get == 200


def test_d4_an_older_compacted_file_never_wins(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary)
    db = opened()
    for value in range(1, 5):
        primary.commit(f"UPDATE t SET v = {value}")
    db.pragma("litestream_refresh")
    primary.compact(1, 1, 4)  # older than what was read
    file = file_of(db)
    assert file is not None
    assert file.database.follower is not None
    file.database.follower.refresh(file.check, full=True)
    file.database.follower._list_compacted(1)
    assert db.execute("SELECT DISTINCT v FROM t").fetchall() == [(4,)]
    same_as_primary(db, primary)


def test_d5_compactions_do_not_stop_the_reader(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary)
    primary.snapshot()
    db = opened()
    for round_ in range(4):
        first = primary.txid + 1
        for _ in range(3):
            primary.commit(f"UPDATE t SET v = {round_} WHERE id % 7 = {round_}")
        primary.compact(1, first, primary.txid)
        primary.delete(0)  # only the compacted file tells of these transactions
        file = file_of(db)
        assert file is not None
        assert file.database.follower is not None
        file.database.follower.refresh(file.check, full=True)
        assert db.pragma("litestream_txid") == f"{primary.txid:016x}"
        same_as_primary(db, primary)


@pytest.mark.parametrize("auto_vacuum", [0, 1, 2])
def test_d6_d7_a_shrinking_database(tmp_path: Path, auto_vacuum: int) -> None:
    for primary in recorder(tmp_path, auto_vacuum=auto_vacuum):
        filled(primary, 400)
        db = vfsstream.connect(primary.url, poll_interval="1h")
        db.pragma("cache_size", 10)
        same_as_primary(db, primary)
        primary.commit("DELETE FROM t WHERE id > 50")
        primary.commit("VACUUM" if auto_vacuum != 2 else "PRAGMA incremental_vacuum")
        db.pragma("litestream_refresh")
        same_as_primary(db, primary)
        primary.commit(("INSERT INTO t SELECT id + 1000, 5, ? FROM t", (BODY + "y",)))
        db.pragma("litestream_refresh")
        same_as_primary(db, primary)
        fresh = vfsstream.connect(primary.url)
        same_as_primary(fresh, primary)
        fresh.close()
        db.close()


def test_d9_a_transaction_sees_one_state(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary, 400)
    db = opened()
    db.pragma("cache_size", 10)
    with db:
        assert db.execute("SELECT sum(v) FROM t").get == 0
        primary.commit("UPDATE t SET v = 1")
        db.pragma("litestream_refresh")
        assert db.execute("SELECT sum(v) FROM t").get == 0
        assert db.pragma("litestream_txid") == f"{primary.txid - 1:016x}"  # and D19: what is said is what is seen
        assert db.execute("SELECT litestream_txid()").get == f"{primary.txid - 1:016x}"
    assert db.execute("SELECT sum(v) FROM t").get == 400


def test_d12_the_cache_of_sqlite_lives(
    opened: Callable[..., apsw.Connection], primary: Recorder, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    filled(primary)
    db = opened()
    query = "SELECT v FROM t WHERE id = 100"
    db.execute(query).fetchall()
    version = db.pragma("data_version")
    file = file_of(db)
    assert file is not None
    reads = []
    inner = type(file).xRead
    monkeypatch.setattr(type(file), "xRead", lambda self, *a: reads.append(a) or inner(self, *a))
    for _ in range(5):
        db.execute(query).fetchall()
    assert reads == ([] if mode.copy == "native" else [(16, 24)] * 5)
    assert db.pragma("data_version") == version
    primary.commit("UPDATE t SET v = 9")
    db.pragma("litestream_refresh")
    assert db.pragma("data_version") != version
    assert db.execute(query).get == 9


def test_d13_the_size_is_known(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary)
    file = file_of(opened())
    assert file is not None
    view = file.moment.view
    assert file.xFileSize() == view.commit * view.page_size == len(primary.images[primary.txid])


def test_d14_connections_share_everything(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary)
    files = [file_of(opened()) for _ in range(20)]
    assert len({id(file.database) for file in files if file is not None}) == 1
    followers = [thread for thread in threading.enumerate() if thread.name == "vfsstream-follower"]
    assert len(followers) == len(registry.open_databases())


def test_d15_removed_files(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary, 400)
    for value in range(1, 4):
        primary.commit(f"UPDATE t SET v = {value} WHERE id <= 10")
    db = opened(cache_size="0")
    db.pragma("cache_size", 0)
    assert db.execute("SELECT v FROM t WHERE id = 1").get == 3
    primary.compact(1, 1, primary.txid)
    primary.delete(0)
    same_as_primary(db, primary)


@pytest.mark.remote("what is kept locally is read on, and rightly so")
def test_d15_an_expired_view_says_so_at_once(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary, 400)
    db = opened(cache_size="0", window_budget="0")
    db.pragma("cache_size", 0)
    db.set_busy_timeout(5000)
    db.execute("BEGIN")
    assert db.execute("SELECT v FROM t WHERE id = 1").get == 0
    primary.commit("UPDATE t SET v = 1")
    primary.snapshot()
    primary.delete(0)
    started = time.monotonic()
    with pytest.raises(ViewExpired, match="is gone"):
        db.execute("SELECT sum(v) FROM t").fetchall()
    assert time.monotonic() - started < 4
    db.execute("ROLLBACK")
    assert db.execute("SELECT sum(v) FROM t").get == 400


@pytest.mark.remote("the wait to be ended is for the store")
def test_d16_a_read_ends_in_time(
    opened: Callable[..., apsw.Connection], primary: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(primary, 400)
    db = opened(deadline="400ms", cache_size="0", window_budget="0")
    assert db.execute("SELECT count(*) FROM sqlite_schema").get == 1
    patient = opened(deadline="60s", cache_size="0", window_budget="0")
    assert patient.execute("SELECT count(*) FROM sqlite_schema").get == 1
    release = threading.Event()

    def hang(self: FileStore, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        release.wait(30)
        raise StoreError("the server is gone", retryable=True)

    monkeypatch.setattr(FileStore, "fetch", hang)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as failure:
        db.execute("SELECT sum(v) FROM t").fetchall()
    assert isinstance(failure.value, apsw.IOError)
    assert time.monotonic() - started < 5
    timer = threading.Timer(0.3, patient.interrupt)
    timer.start()
    started = time.monotonic()
    with pytest.raises(apsw.InterruptError):
        patient.execute("SELECT sum(v) FROM t").fetchall()
    assert time.monotonic() - started < 5
    timer.join()
    release.set()
    monkeypatch.undo()
    wait = time.monotonic() + 20
    while True:  # the server is back
        try:
            assert db.execute("SELECT sum(v) FROM t").get == 0
            break
        except StoreError:
            assert time.monotonic() < wait


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("poll_interval", "0s"),
        ("poll_interval", "soon"),
        ("cache_size", "abc"),
        ("cache_size", "-1"),
        ("txid", "zz"),
        ("txid", "0"),
        ("time", "no time at all"),
        ("prefetch", "maybe"),
        ("write_enabled", "true"),
        ("hydration_enabled", "perhaps"),
        ("poll_intervall", "1s"),
    ],
)
def test_d17_d24_a_bad_value_is_named(primary: Recorder, key: str, value: str) -> None:
    filled(primary)
    uri = f"file:x?vfs=litestream&replica_url={primary.url}&{key}={value}"
    with pytest.raises(OptionError) as failure:
        apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    assert key in str(failure.value)


def test_d18_setters_answer(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary)
    db = opened()
    for setter in ("litestream_time='LATEST'", "litestream_time='1 hour ago'", "litestream_write_enabled=0"):
        try:
            rows = db.execute(f"PRAGMA {setter}").fetchall()
        except VfsstreamError:
            continue  # nothing is that old
        assert len(rows) == 1
        assert rows[0][0]


def test_d19_time_moves_with_the_view(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary)
    db = opened()
    before = db.pragma("litestream_time")
    primary.commit("UPDATE t SET v = 1")
    db.pragma("litestream_refresh")
    assert db.pragma("litestream_time") > before


def test_d10_d20_nothing_temporary_is_left(primary: Recorder, tmp_path: Path) -> None:
    filled(primary)
    temp = tmp_path / "temporary"
    temp.mkdir()
    script = f"""
import vfsstream
db = vfsstream.connect({primary.url!r}, hydration_enabled=True)
db2 = vfsstream.connect({primary.url!r}, hydration_enabled=True, cache_size="1MB")
db.execute("CREATE TEMP TABLE big AS SELECT a.body || b.body AS x FROM t a, t b LIMIT 5000")
print(db.execute("SELECT count(*) FROM (SELECT x FROM big ORDER BY x DESC)").get)
print(float(db.pragma("litestream_hydration_progress")) <= 100)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(temp),
            "SQLITE_TMPDIR": str(temp),
            "VFSSTREAM_HYDRATION_PATH": "",
        },
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "5000\nTrue\n", "")
    assert list(temp.iterdir()) == []


def test_d21_a_failed_open_leaves_a_clean_exit(tmp_path: Path) -> None:
    script = "import vfsstream\ntry: vfsstream.connect('file:///nowhere/at/all')\nexcept Exception as e: print(e)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "AWS_CA_BUNDLE": str(tmp_path / "none.pem")},
    )
    assert done.returncode == 0
    assert "no LTX files" in done.stdout


def test_d22_d23_what_polling_costs(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(primary)
    calls: list[str] = []
    fetch, listing = FileStore.fetch, FileStore.list
    monkeypatch.setattr(FileStore, "fetch", lambda self, *a: calls.append(f"get {a[0]}") or fetch(self, *a))
    monkeypatch.setattr(FileStore, "list", lambda self, *a: calls.append(f"list {a[0]}") or listing(self, *a))
    monkeypatch.setattr(FileStore, "watch", lambda *_: lambda: None)  # its looks would be counted too
    connections = [vfsstream.connect(primary.url, poll_interval="1h", relist_interval="24h") for _ in range(5)]
    db = connections[0]
    db.execute("SELECT sum(v) FROM t").fetchall()
    calls.clear()
    for _ in range(10):
        db.pragma("litestream_refresh")
    assert len(calls) <= 11  # one small request each, one look ahead, no listing
    assert not [call for call in calls if call.startswith("list")]
    calls.clear()
    primary.commit("UPDATE t SET v = 1 WHERE id = 1")
    mine = list(calls)
    db.pragma("litestream_refresh")
    assert len(calls) - len(mine) <= 2
    assert db.execute("SELECT v FROM t WHERE id = 1").get == 1
    for connection in connections:
        connection.close()


@pytest.mark.remote("pages that were kept before the damage are right")
def test_d24_causes_reach_the_user(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary, 400)
    db = opened(cache_size="0", window_budget="0")
    db.pragma("cache_size", 0)
    for info in primary.replica.files(0):
        path = primary.root / "ltx" / "0" / info.name
        data = bytearray(path.read_bytes())
        if len(data) > 2000:
            data[106 : len(data) // 2] = bytes(len(data) // 2 - 106)
            path.write_bytes(data)
    with pytest.raises(apsw.CorruptError, match="page"):
        db.execute("SELECT sum(length(body)) FROM t").fetchall()


def test_d25_plain_files_stay_plain(
    opened: Callable[..., apsw.Connection], primary: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(primary)
    monkeypatch.setenv("LITESTREAM_REPLICA_URL", primary.url)
    db = vfsstream.connect(primary.url)
    copy = tmp_path / "copy.db"
    db.execute("VACUUM INTO ?", (str(copy),))
    plain = tmp_path / "plain.db"
    apsw.Connection(str(plain)).execute("CREATE TABLE p(a); INSERT INTO p VALUES(7)")
    db.execute("ATTACH ? AS plain", (str(plain),))
    db.execute("ATTACH ? AS copied", (str(copy),))
    assert db.execute("SELECT (SELECT a FROM plain.p), (SELECT count(*) FROM copied.t)").get == (7, 200)
    db.close()


def test_stats_are_json(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary)
    stats = json.loads(opened().pragma("litestream_stats"))
    assert stats["txid"] == f"{primary.txid:016x}"
    assert stats["follower"]["last_error"] is None


@pytest.mark.remote("what is kept locally is read on, and rightly so")
def test_d15_a_pinned_view_outlives_a_compaction_beyond_it(
    opened: Callable[..., apsw.Connection], primary: Recorder
) -> None:
    """Pages that did not change since are found in a file that reaches past the view; changed ones never are."""
    filled(primary, 400)
    db = opened(cache_size="0", window_budget="0")
    db.pragma("cache_size", 0)
    db.execute("BEGIN")
    assert db.execute("SELECT v FROM t WHERE id = 1").get == 0
    pinned = primary.txid
    primary.commit("UPDATE t SET v = 1 WHERE id = 1")
    db.pragma("litestream_refresh")  # a transaction seen by itself tells which pages it did not change
    primary.compact(1, 1, primary.txid)
    primary.delete(0)
    assert db.execute("SELECT v FROM t WHERE id = 400").get == 0
    assert db.pragma("litestream_txid") == f"{pinned:016x}"
    with pytest.raises(ViewExpired):
        db.execute("SELECT v FROM t WHERE id = 1").fetchall()
    db.execute("ROLLBACK")
    same_as_primary(db, primary)


@pytest.mark.remote("the wait to be ended is for the store")
def test_d16_an_attached_replica_is_interrupted_too(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(primary, 400)
    db = apsw.Connection(":memory:")
    options = "poll_interval=1h&cache_size=0&window_budget=0&prefetch=off"
    db.execute(f"ATTACH 'file:x?vfs=litestream&replica_url={primary.url}&{options}' AS r")
    assert db.execute("SELECT count(*) FROM r.sqlite_schema").get == 1
    release = threading.Event()
    fetch = FileStore.fetch

    def hang(self: FileStore, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        release.wait(30)
        return fetch(self, key, offset, size)

    monkeypatch.setattr(FileStore, "fetch", hang)
    timer = threading.Timer(0.3, db.interrupt)
    timer.start()
    started = time.monotonic()
    with pytest.raises(apsw.InterruptError):
        db.execute("SELECT sum(v) FROM r.t").fetchall()
    assert time.monotonic() - started < 5
    release.set()
    timer.join()
    db.close()


def test_every_defect_has_its_test() -> None:
    rows = [line.split() for line in (__doc__ or "").splitlines() if re.match(r"D\d+ ", line)]
    assert [row[0] for row in rows] == [f"D{number}" for number in range(1, 26)]
    missing = [row[-1] for row in rows if not callable(globals().get(row[-1]))]
    assert not missing


def hydrated(db: apsw.Connection) -> bool:
    return bool(db.pragma("litestream_hydration_progress") == "100")


@pytest.mark.default_mode("its store stands still, which a reader survives by what it has in memory")
def test_d8_an_update_during_hydration_stays(
    primary: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(primary, 400)
    fetch, gate = FileStore.fetch, threading.Event()

    def slow(self: FileStore, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        if threading.current_thread().name.startswith("vfsstream-fetch"):
            gate.wait(30)
        return fetch(self, key, offset, size)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "fetch", slow)
        db = vfsstream.connect(
            primary.url, hydration_enabled=True, hydration_path=str(tmp_path / "h.db"), poll_interval="1h"
        )
        primary.commit("UPDATE t SET v = 5")
        follower = file_of(db).database.follower  # type: ignore[union-attr]
        assert follower is not None
        follower.refresh(lambda: None)
        assert not hydrated(db)
        gate.set()
    wait_until(lambda: hydrated(db), what="hydration")
    for _ in range(5):
        assert db.execute("SELECT count(*), min(v), max(v) FROM t").fetchall() == [(400, 5, 5)]
        time.sleep(0.02)
    same_as_primary(db, primary)
    db.close()


def test_d9_a_hydrated_reader_sees_one_state(primary: Recorder, tmp_path: Path) -> None:
    filled(primary, 400)
    db = vfsstream.connect(
        primary.url, hydration_enabled=True, hydration_path=str(tmp_path / "h.db"), poll_interval="10ms"
    )
    db.pragma("cache_size", 10)
    wait_until(lambda: hydrated(db), what="hydration")
    db.execute("BEGIN")
    assert db.execute("SELECT v FROM t WHERE id = 1").get == 0
    for value in range(1, 4):
        primary.commit(f"UPDATE t SET v = {value}")
    wait_until(lambda: file_of(db).database.current.view.txid == primary.txid)  # type: ignore[union-attr]
    assert db.execute("SELECT count(*), min(v), max(v) FROM t").fetchall() == [(400, 0, 0)]
    db.execute("COMMIT")
    assert db.execute("SELECT count(*), min(v), max(v) FROM t").fetchall() == [(400, 3, 3)]
    db.close()


def test_d10_hydrations_have_files_of_their_own(tmp_path: Path) -> None:
    connections, primaries = [], []
    for number in range(3):
        home = tmp_path / str(number)
        home.mkdir()
        made = Recorder(home)
        filled(made, 100 + number)
        primaries.append(made)
        connections.append(vfsstream.connect(made.url, hydration_enabled=True, poll_interval="1h"))
    for number, db in enumerate(connections):
        wait_until(lambda db=db: hydrated(db), what="hydration")  # type: ignore[misc]
        assert db.execute("SELECT count(*) FROM t").get == 100 + number
    for db in connections:
        assert float(db.pragma("litestream_hydration_progress")) <= 100
        db.close()
    for made in primaries:
        made.close()
    registry.close_idle()


@pytest.mark.parametrize("write", ["INSERT INTO t(v) VALUES(1)", "CREATE TABLE x(a)", "DELETE FROM t"])
def test_d11_nothing_can_be_written_and_so_lost(
    opened: Callable[..., apsw.Connection], primary: Recorder, write: str
) -> None:
    filled(primary)
    db = opened()
    with pytest.raises(apsw.ReadOnlyError):
        db.execute(write)
    with pytest.raises(OptionError, match="never writes"):
        opened(write_enabled="true")
    with pytest.raises(apsw.SQLError, match="never writes"):
        db.execute("PRAGMA litestream_write_enabled=1")
    assert db.execute("SELECT count(*) FROM t").get == 200


def test_d18_setters_answer_sqlite3_too(primary: Recorder) -> None:
    filled(primary)
    db = vfsstream.sqlite3.connect(primary.url, poll_interval="1h")
    for setter, answer in (
        ("litestream_time='LATEST'", "latest"),
        ("litestream_write_enabled=0", "0"),
        ("litestream_time='2030-01-01T00:00:00Z'", "2030-01-01T00:00:00Z"),
    ):
        assert db.execute(f"PRAGMA {setter}").fetchall() == [(answer,)]
    db.close()


def test_d19_the_txid_is_that_of_the_view(opened: Callable[..., apsw.Connection], primary: Recorder) -> None:
    filled(primary)
    db = opened()
    db.execute("BEGIN")
    assert db.execute("SELECT sum(v) FROM t").get == 0
    before = f"{primary.txid:016x}"
    primary.commit("UPDATE t SET v = 1")
    file = file_of(db)
    assert file is not None
    assert file.database.follower is not None
    file.database.follower.refresh(lambda: None)
    assert db.pragma("litestream_txid") == before == db.execute("SELECT litestream_txid()").get
    db.execute("COMMIT")
    db.execute("SELECT sum(v) FROM t").fetchall()
    assert db.pragma("litestream_txid") == f"{primary.txid:016x}"
