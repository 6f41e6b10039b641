"""Many databases under one service, the real thing: real databases, real processes, the real Litestream."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pytest

from tests.conftest import ROOT
from tests.replicate.killed_service import fast
from vfsstream.errors import DatabaseError, DeadlineExceeded, StoreError, UsageError
from vfsstream.plan import restore_plan
from vfsstream.replica import Replica
from vfsstream.replicate.events import Event, Uploaded
from vfsstream.replicate.restore import restore
from vfsstream.replicate.service import Service
from vfsstream.replicate.servicestatus import ServiceSettings
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.timetable import Compacted, Retired, SnapshotTaken
from vfsstream.stores.file import FileStore
from vfsstream.stores.memory import MemoryStore


def connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(10_000)
    connection.execute("pragma journal_mode=wal").fetchall()
    connection.execute("create table if not exists t(id integer primary key, x)")
    return connection


def insert(connection: apsw.Connection, count: int = 1) -> None:
    for _ in range(count):
        connection.execute("insert into t(x) values (randomblob(?))", (random.randrange(2000),))


def rows(path: Path) -> list[object]:
    connection = apsw.Connection(str(path))
    try:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        return connection.execute("select id, x from t order by id").fetchall()
    finally:
        connection.close()


def eventually(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def service(events: list[Event]) -> Iterator[Service]:
    service = Service(ServiceSettings(maintenance=fast()), observer=events.append)
    service.start()
    yield service
    service.close(time.monotonic() + 10)


def url(root: Path, name: str) -> str:
    return f"file://{root}/replica/{name}"


# --- registering ---------------------------------------------------------------------------------------------


def test_register_and_unregister_at_run_time(service: Service, tmp_path: Path) -> None:
    connection = connect(tmp_path / "a.db")
    assert service.register(tmp_path / "a.db", url(tmp_path, "a"))
    assert not service.register(tmp_path / "a.db", url(tmp_path, "elsewhere"))
    insert(connection, 3)
    txid = service.sync(tmp_path / "a.db")
    assert txid >= 1
    assert service.paths == [str(tmp_path / "a.db")]
    insert(connection)
    result = service.unregister(tmp_path / "a.db")
    assert result is not None
    assert result.uploaded
    assert service.unregister(tmp_path / "a.db") is None
    assert service.paths == []
    restore(Replica.open(url(tmp_path, "a")), tmp_path / "out.db")
    assert len(rows(tmp_path / "out.db")) == 4
    with pytest.raises(UsageError, match="not registered"):
        service.sync(tmp_path / "a.db")
    connection.close()


def test_a_replica_belongs_to_one_database(service: Service, tmp_path: Path) -> None:
    for name in ("a.db", "b.db"):
        connect(tmp_path / name).close()
    service.register(tmp_path / "a.db", url(tmp_path, "same"))
    with pytest.raises(UsageError, match=r"is the replica of .*a\.db"):
        service.register(tmp_path / "b.db", url(tmp_path, "same"))
    assert service.paths == [str(tmp_path / "a.db")]
    assert service.register(tmp_path / "b.db", url(tmp_path, "other"))


def test_two_registrations_at_once_make_one(service: Service, tmp_path: Path) -> None:
    connect(tmp_path / "a.db").close()
    barrier, answers = threading.Barrier(8), []

    def attempt() -> None:
        barrier.wait()
        answers.append(service.register(tmp_path / "a.db", url(tmp_path, "a")))

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 7 + [True]


def test_an_impossible_database_is_refused_and_forgotten(service: Service, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError):
        service.register(tmp_path, url(tmp_path, "a"))
    with pytest.raises(UsageError):
        service.register(tmp_path / "b.db", "nonsense://")
    assert service.paths == []


def test_stop_and_start_again(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connection = connect(path)
    service.register(path, url(tmp_path, "a"))
    insert(connection)
    result = service.stop_database(path)
    assert result is not None
    assert result.uploaded
    assert service.stop_database(path) is None
    (status,) = service.status()
    assert (status.enabled, status.database.state) == (False, "stopped")
    with pytest.raises(DatabaseError, match="stopped"):
        service.sync(path)
    insert(connection, 5)
    assert service.start_database(path)
    assert not service.start_database(path)
    service.sync(path)
    restore(Replica.open(url(tmp_path, "a")), tmp_path / "out.db")
    assert len(rows(tmp_path / "out.db")) == 6
    connection.close()


def test_a_database_that_does_not_exist_yet(service: Service, tmp_path: Path) -> None:
    service.register(tmp_path / "later.db", url(tmp_path, "a"))
    time.sleep(0.3)
    connection = connect(tmp_path / "later.db")
    insert(connection, 2)
    eventually(lambda: (service.status()[0].database.replica_position or 0) >= 1, "not picked up")
    connection.close()


def test_an_observer_that_fails_harms_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def observer(event: Event) -> None:
        raise RuntimeError("observer")

    connection = connect(tmp_path / "a.db")
    with Service(ServiceSettings(maintenance=fast()), observer=observer) as service:
        service.register(tmp_path / "a.db", url(tmp_path, "a"))
        insert(connection)
        assert service.sync(tmp_path / "a.db") >= 1
    assert "observer failed" in caplog.text
    connection.close()


# --- running -------------------------------------------------------------------------------------------------


def test_levels_snapshots_and_retention_run_by_themselves(
    service: Service, events: list[Event], tmp_path: Path, litestream: str
) -> None:
    names = ["a.db", "b.db", "c.db"]
    connections = [connect(tmp_path / name) for name in names]
    for name in names:
        service.register(tmp_path / name, url(tmp_path, name))
    end = time.monotonic() + 6
    while time.monotonic() < end:
        for connection in connections:
            insert(connection)
        time.sleep(0.02)
    eventually(lambda: len({e.path for e in events if isinstance(e, Retired)}) == 3, "retention never ran")
    for kind in (Uploaded, Compacted, SnapshotTaken):
        assert len({event.path for event in events if isinstance(event, kind)}) == 3, kind
    assert all(not status.maintenance.errors for status in service.status())
    result = service.close()
    assert result.uploaded
    for name, connection in zip(names, connections, strict=True):
        files = Replica.open(url(tmp_path, name)).all_files()
        assert files[1]
        assert files[9]
        plan = restore_plan(files)
        points = [(), ("-txid", str(plan[len(plan) // 2].max_txid))]
        middle = files[1][len(files[1]) // 2].created_at
        assert middle is not None
        points.append(("-timestamp", middle.isoformat(timespec="milliseconds").replace("+00:00", "Z")))
        for number, options in enumerate(points):
            theirs, ours = tmp_path / f"{name}.{number}.theirs", tmp_path / f"{name}.{number}.ours"
            command = [litestream, "restore", "-o", str(theirs), *options, url(tmp_path, name)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            txid = int(options[1], 16) if options[:1] == ("-txid",) else None
            restore(
                Replica.open(url(tmp_path, name)),
                ours,
                txid=txid,
                timestamp=middle if options[:1] == ("-timestamp",) else None,
            )
            assert ours.read_bytes() == theirs.read_bytes()
        assert (
            rows(tmp_path / f"{name}.0.theirs") == connection.execute("select id, x from t order by id").fetchall()
        )
        connection.close()


def test_idle_databases_cost_no_requests_and_no_threads(tmp_path: Path) -> None:
    stores = [MemoryStore() for _ in range(20)]
    settings = ServiceSettings(maintenance=fast(), database=Settings(lease=False))
    with Service(settings) as service:
        before = threading.active_count()
        for number, store in enumerate(stores):
            path = tmp_path / f"{number}.db"
            connect(path).close()
            service.register(path, lambda store=store: _named(store))
        eventually(lambda: service.behind(timedelta(seconds=5)) == [], "not everything replicated")
        assert threading.active_count() <= before + 14  # the pools, whatever the number of databases
        time.sleep(6)  # a snapshot interval, and retention
        for store in stores:
            store.calls.clear()
        time.sleep(3)
        assert [store.calls for store in stores if store.calls] == []


def _named(store: MemoryStore) -> Replica:
    replica = Replica(store)
    replica.describe = lambda: f"memory:{id(store)}"  # type: ignore[method-assign]
    return replica


def test_a_slow_store_of_one_database_holds_up_no_other(tmp_path: Path) -> None:
    gate = threading.Event()
    slow = MemoryStore(fault=lambda operation, key: gate.wait(60) and None)
    quick = MemoryStore()
    with Service(ServiceSettings(maintenance=fast())) as service:
        connections = [connect(tmp_path / name) for name in ("slow.db", "quick.db")]
        service.register(tmp_path / "slow.db", lambda: _named(slow))
        service.register(tmp_path / "quick.db", lambda: _named(quick))
        for _ in range(5):
            for connection in connections:
                insert(connection)
            assert service.sync(tmp_path / "quick.db", timeout=20) >= 1
        assert service.behind(timedelta(seconds=0)) == [str(tmp_path / "slow.db")]
        gate.set()
        for connection in connections:
            connection.close()


# --- the end -------------------------------------------------------------------------------------------------


def test_closing_takes_one_deadline_for_all_and_tells_the_truth(tmp_path: Path) -> None:
    def away(operation: str, key: str) -> None:
        raise StoreError("away", retryable=True)

    service = Service(ServiceSettings(maintenance=fast()))
    service.start()
    names = [f"{n}.db" for n in range(12)]
    connections = [connect(tmp_path / name) for name in names]
    for number, name in enumerate(names):
        store = MemoryStore(fault=away if number % 2 else None)
        service.register(tmp_path / name, lambda store=store: _named(store))
        insert(connections[number])
    started = time.monotonic()
    result = service.close(started + 3)
    assert time.monotonic() - started < 15  # Litestream: one after the other, 18 s at the least
    assert not result.uploaded
    late = sorted(Path(path).name for path, one in result.databases.items() if not one.uploaded)
    assert late == sorted(names[1::2])
    assert all(one.error for one in result.databases.values() if not one.uploaded)
    assert service.close() is result
    with pytest.raises(UsageError, match="closed"):
        service.register(tmp_path / "more.db", url(tmp_path, "more"))
    with pytest.raises(UsageError, match="closed"):
        service.start()
    for connection in connections:
        connection.close()


def test_leaving_the_context_with_unreplicated_data_raises(tmp_path: Path) -> None:
    def away(operation: str, key: str) -> None:
        raise StoreError("away", retryable=True)

    connection = connect(tmp_path / "a.db")
    settings = ServiceSettings(shutdown_timeout=timedelta(seconds=1))

    def run() -> None:
        with Service(settings) as service:
            service.register(tmp_path / "a.db", lambda: _named(MemoryStore(fault=away)))
            insert(connection)

    with pytest.raises(DeadlineExceeded, match=r"1 databases, .*a\.db"):
        run()
    connection.close()


def test_no_thread_is_left(tmp_path: Path) -> None:
    connect(tmp_path / "a.db").close()
    with Service(ServiceSettings(maintenance=fast())) as service:
        service.register(tmp_path / "a.db", url(tmp_path, "a"))
        service.sync(tmp_path / "a.db")
    assert [t.name for t in threading.enumerate() if t.name.startswith("vfsstream")] == []


# --- killed, and handed over ---------------------------------------------------------------------------------


def kill_often(tmp_path: Path, kills: int) -> None:
    """SIGKILL at random moments of capture, upload, compaction, snapshots and retention; then everything is there."""
    database, replica_url = tmp_path / "a.db", url(tmp_path, "a")
    connection = connect(database)
    random.seed(kills)
    for _ in range(kills):
        command = [sys.executable, "-m", "tests.replicate.killed_service", str(database), replica_url]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        end = time.monotonic() + random.uniform(0.3, 1.8)
        while time.monotonic() < end:
            insert(connection)
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        files = Replica.open(replica_url).all_files()
        if any(files.values()):
            restore(Replica.open(replica_url), tmp_path / "check.db", force=True, integrity_check="full")
    with Service(ServiceSettings(maintenance=fast())) as service:
        service.register(database, replica_url)
        eventually(lambda: _synced(service, database), "the lease of the killed one is never given up", 90)
    restore(Replica.open(replica_url), tmp_path / "out.db", integrity_check="full")
    assert rows(tmp_path / "out.db") == connection.execute("select id, x from t order by id").fetchall()
    _every_point_restores(replica_url, tmp_path)
    connection.close()


def _synced(service: Service, database: Path) -> bool:
    try:
        service.sync(database, timeout=5)
    except Exception:
        return False
    return True


def _every_point_restores(replica_url: str, tmp_path: Path) -> None:
    """From the oldest snapshot on, the end of every file of level 1 and above is a moment to return to."""
    replica = Replica.open(replica_url)
    files = replica.all_files()
    oldest = files[9][0].max_txid
    points = {i.max_txid for level in (1, 2, 3, 9) for i in files[level] if i.max_txid >= oldest}
    for txid in sorted(points)[::7]:
        restore(replica, tmp_path / "point.db", txid=int(txid), force=True, integrity_check="full")
    for txid in points:
        assert restore_plan(files, txid=int(txid))[-1].max_txid == txid


@pytest.mark.slow
def test_killed_eight_times(tmp_path: Path) -> None:
    kill_often(tmp_path, 8)


@pytest.mark.soak
def test_killed_two_hundred_times(tmp_path: Path) -> None:
    kill_often(tmp_path, 200)


def _litestream_config(path: Path, database: Path, replica: Path) -> None:
    path.write_text(
        f"""
levels: [{{interval: 1s}}, {{interval: 3s}}]
snapshot: {{interval: 4s, retention: 60s}}
l0-retention: 2s
l0-retention-check-interval: 1s
dbs:
  - path: {database}
    monitor-interval: 100ms
    replica: {{type: file, path: {replica}, sync-interval: 100ms}}
"""
    )


@pytest.mark.interop
@pytest.mark.slow
def test_litestream_and_we_take_turns_with_compaction_and_retention(tmp_path: Path, litestream: str) -> None:
    database, root = tmp_path / "a.db", tmp_path / "replica" / "a"
    _litestream_config(tmp_path / "litestream.yml", database, root)
    connection = connect(database)
    log = (tmp_path / "litestream.log").open("w+")
    for turn in range(4):
        end = time.monotonic() + 3.5
        if turn % 2:
            command = [litestream, "replicate", "-config", str(tmp_path / "litestream.yml")]
            child = subprocess.Popen(command, stdout=log, stderr=log)
            while time.monotonic() < end:
                insert(connection)
                time.sleep(0.02)
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == 0
        else:
            with Service(ServiceSettings(maintenance=fast())) as service:
                service.register(database, f"file://{root}")
                while time.monotonic() < end:
                    insert(connection)
                    time.sleep(0.02)
                assert service.status()[0].maintenance.errors == {}
        expected = connection.execute("select id, x from t order by id").fetchall()
        for program in ("ours", "theirs"):
            out = tmp_path / f"{turn}.{program}.db"
            if program == "ours":
                restore(Replica(FileStore(root)), out, integrity_check="full")
            else:
                command = [litestream, "restore", "-o", str(out), f"file://{root}"]
                subprocess.run(command, check=True, capture_output=True, timeout=60)
            assert rows(out) == expected, (turn, program)
    connection.close()
    log.seek(0)
    text = log.read()
    log.close()
    assert "non-contiguous" not in text
    assert "compaction failed" not in text
    assert "level=ERROR" not in text, text[-3000:]


def test_times_are_utc(service: Service, events: list[Event], tmp_path: Path) -> None:
    connect(tmp_path / "a.db").close()
    service.register(tmp_path / "a.db", url(tmp_path, "a"))
    eventually(lambda: any(isinstance(event, SnapshotTaken) for event in events), "no snapshot")
    assert all(abs(event.at - datetime.now(UTC)) < timedelta(minutes=5) for event in events)
    assert os.path.isabs(events[0].path)
