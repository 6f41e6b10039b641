"""The locks of an application in the same process outlive whatever the replicator does to the same files.

Closing any descriptor of a file, a duplicate below a mapping included, drops all POSIX locks that the process has on
it (https://sqlite.org/howtocorrupt.html, 2.2). Without the lock on its wal-index the next process that opens the
database cuts the index to nothing under the application: it dies of SIGBUS at its next look.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from tests.replicate.live import connect, contents, newest_txid, restore_ours, running_litestream
from vfsstream.errors import DatabaseError
from vfsstream.replica import Replica
from vfsstream.replicate import sharedfiles
from vfsstream.replicate.database import Database
from vfsstream.replicate.directory import is_database, scan
from vfsstream.replicate.maintenance import Maintenance, MaintenanceSettings
from vfsstream.replicate.restore import restore
from vfsstream.replicate.service import Service
from vfsstream.stores.memory import MemoryStore

ONLOOKER = """
import fcntl, json, os, struct, sys

def held(path, places):
    descriptor = os.open(path, os.O_RDWR)
    answer = []
    for at in places:
        question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
        kind = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, question))[0]
        if kind != fcntl.F_UNLCK:
            answer.append(at)
    os.close(descriptor)
    return answer

for line in sys.stdin:
    path = json.loads(line)
    print(json.dumps([held(path, [0x40000002, 0x40000003]), held(path + "-shm", range(120, 129))]), flush=True)
"""
MAKE = """
import apsw, sys
apsw.Connection(sys.argv[1]).execute("PRAGMA journal_mode = wal; CREATE TABLE t(x)")
"""
DMS = 128  # the byte of the wal-index that says: somebody uses it


class Onlooker:
    """Another process, which sees the locks that this one holds."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ONLOOKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def locks(self, path: Path) -> tuple[set[int], set[int]]:
        """Locked bytes of the database and of its wal-index."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(str(path)) + "\n")
        self.process.stdin.flush()
        database, index = json.loads(self.process.stdout.readline())
        return set(database), set(index)


@pytest.fixture
def onlooker() -> Iterator[Onlooker]:
    made = Onlooker()
    with made.process:
        yield made
        assert made.process.stdin is not None
        made.process.stdin.close()


class Application:
    """A connection with an open read transaction, and what another process must see of it."""

    def __init__(self, root: Path, onlooker: Onlooker) -> None:
        self.path, self.onlooker = root / "app.db", onlooker
        self.writer = connect(self.path)
        self.writer.execute("CREATE TABLE t(x)")
        self.write()
        self.reader = connect(self.path)
        self.reader.execute("BEGIN")
        self.reader.execute("SELECT count(*) FROM t").fetchall()
        self.expected = onlooker.locks(self.path)
        assert self.expected[0]
        assert DMS in self.expected[1]
        assert len(self.expected[1]) == 2, "the read mark too"

    def write(self) -> None:
        for _ in range(20):
            self.writer.execute("INSERT INTO t VALUES(randomblob(1500))")

    def check(self, step: str) -> None:
        database, index = self.onlooker.locks(self.path)
        assert self.expected[0] <= database, f"{step}: locks of the database are gone"
        assert self.expected[1] <= index, f"{step}: locks of the wal-index are gone"

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@pytest.fixture
def application(tmp_path: Path, onlooker: Onlooker) -> Iterator[Application]:
    made = Application(tmp_path, onlooker)
    yield made
    made.close()


def test_nothing_that_a_replicated_database_does_drops_them(application: Application, tmp_path: Path) -> None:
    replica = Replica(MemoryStore())
    check = application.check
    for turn in ("first", "again"):
        points: list[str] = []
        database = Database(application.path, replica, at_point=points.append)
        database.open()
        check(f"{turn} open")
        for name, step in _steps(database, application):
            step()
            check(f"{turn} {name}")
        database.close()
        check(f"{turn} close")
        assert {"capture:published", "upload:after-put"} <= set(points)
    restore(replica, tmp_path / "restored.db")
    check("restore beside it")
    assert contents(tmp_path / "restored.db") == contents(application.writer)


def _steps(database: Database, application: Application) -> list[tuple[str, Callable[[], object]]]:
    maintenance = Maintenance(database, MaintenanceSettings())

    def dropped_by_a_failed_checkpoint() -> None:
        with database._capture_lock:
            database._drop_source()

    def snapshot() -> None:
        with database.snapshot_pages() as (_, pages):
            assert sum(1 for _ in pages) > 0

    def full_image() -> None:
        database._rebase(database.position, "a test wants all pages", None)
        database.sync()

    return [
        ("first sync", database.sync),
        ("upload", database.upload),
        ("write", application.write),
        ("increment", database.sync_and_wait),
        ("passive checkpoint", database.checkpoint),
        ("write after it", application.write),
        ("step", database.step),
        ("snapshot", snapshot),
        ("the reader moved on", _advance(database)),
        ("truncating checkpoint", lambda: database.checkpoint(wait_for_readers=True)),
        ("maintenance", maintenance.run),
        ("restart of the source", dropped_by_a_failed_checkpoint),
        ("sync after it", database.sync),
        ("full image", full_image),
        ("status", database.status),
    ]


def _advance(database: Database) -> Callable[[], None]:
    def advance() -> None:
        assert database._source is not None
        database._source.advance_read()

    return advance


def test_nor_does_the_service(application: Application, tmp_path: Path) -> None:
    for turn in range(2):
        application.write()
        with Service() as service:
            service.register(application.path, f"file://{tmp_path}/replica")
            service.start()
            service.sync(application.path)
            application.check(f"turn {turn}: replicated")
            service.maintain(application.path)
            service.stop_database(application.path)
            application.check(f"turn {turn}: stopped")
            service.start_database(application.path)
            service.sync(application.path)
            service.unregister(application.path)
            application.check(f"turn {turn}: unregistered")
    application.check("closed")
    assert contents(restore_ours(tmp_path / "replica", tmp_path / "restored.db")) == contents(application.writer)


def test_nor_does_a_look_at_files(application: Application, tmp_path: Path) -> None:
    assert is_database(application.path)
    application.check("is it a database?")
    assert application.path in scan(tmp_path, "*.db")
    application.check("scan")


@pytest.mark.parametrize("others", [0, 40])
def test_nor_does_a_look_while_the_application_opens_it(
    tmp_path: Path, onlooker: Onlooker, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """Whatever is looked at before, the application opens and locks the file between that and the close."""
    path, opened = tmp_path / "app.db", []
    first = connect(path)
    first.execute("PRAGMA journal_mode = delete")
    first.execute("CREATE TABLE t(x)")
    first.close()
    looked = sharedfiles._open_files

    def late() -> object:
        found = looked()
        if not opened:
            opened.append(connect(path))
            opened[0].execute("BEGIN EXCLUSIVE")
        return found

    for number in range(others):
        other = tmp_path / f"{number}.db"
        other.write_bytes(path.read_bytes())
        assert is_database(other)
    monkeypatch.setattr(sharedfiles, "_open_files", late)
    assert is_database(path)
    late()
    assert onlooker.locks(path)[0]
    opened[0].close()


def test_where_only_we_open_databases_nothing_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    subprocess.run([sys.executable, "-c", MAKE, path], check=True)
    sharedfiles.be_alone()
    try:
        assert is_database(path)
        with sharedfiles.opening():
            assert is_database(path)
            assert len(open_below(tmp_path)) == 1, "a connection may have it by now"
        assert open_below(tmp_path) == []
        with Database(path, Replica(MemoryStore())) as database:
            database.sync_and_wait()
        assert open_below(tmp_path) == []
    finally:
        sharedfiles.be_alone(False)


def test_what_was_deleted_takes_no_space_for_long(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    subprocess.run([sys.executable, "-c", MAKE, path], check=True)
    assert is_database(path)
    assert len(open_below(tmp_path)) == 1
    path.unlink()
    sharedfiles.close_parked()
    assert open_below(tmp_path) == []


def test_few_descriptors_are_kept_and_one_of_each_file(tmp_path: Path) -> None:
    make = connect(tmp_path / "0.db")
    make.execute("CREATE TABLE t(x)")
    make.close()
    content = (tmp_path / "0.db").read_bytes()
    for number in range(300):
        path = tmp_path / f"{number}.db"
        path.write_bytes(content)
        assert is_database(path)
        assert is_database(path)
    assert len(open_below(tmp_path)) <= 65
    for path in tmp_path.glob("*.db"):
        path.unlink()
    is_database(tmp_path / "vfsstream.none")
    (tmp_path / "last.db").write_bytes(content)
    assert is_database(tmp_path / "last.db")
    assert len(open_below(tmp_path)) <= 1


def test_a_restore_over_a_database_open_in_this_process_is_refused(
    application: Application, tmp_path: Path
) -> None:
    replica = Replica(MemoryStore())
    with Database(application.path, replica) as database:
        database.sync_and_wait()
    with pytest.raises(DatabaseError, match="has this database open"):
        restore(replica, application.path, force=True)
    application.check("restore refused")


def test_the_write_lock_of_an_application_survives_a_close(tmp_path: Path, onlooker: Onlooker) -> None:
    path = tmp_path / "app.db"
    writer = connect(path)
    writer.execute("CREATE TABLE t(x)")
    with Database(path, Replica(MemoryStore())) as database:
        database.sync_and_wait()
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO t VALUES(1)")
        assert 120 in onlooker.locks(path)[1]
    assert 120 in onlooker.locks(path)[1], "the lock of the one writer"
    writer.execute("COMMIT")
    writer.close()


@pytest.mark.interop
def test_an_application_beside_a_closed_replicator_survives_litestream(tmp_path: Path, litestream: str) -> None:
    """What the lost lock does: the real program takes itself for the first user and empties the wal-index."""
    path = tmp_path / "app.db"
    writer = connect(path)
    writer.execute("CREATE TABLE t(x)")
    with Database(path, f"file://{tmp_path}/replica") as database:
        database.sync_and_wait()
    index = Path(f"{path}-shm")
    shortest = index.stat().st_size
    with running_litestream(litestream, path, tmp_path / "replica"):
        before = newest_txid(tmp_path / "replica")
        number = 0
        while newest_txid(tmp_path / "replica") == before:
            writer.execute("INSERT INTO t VALUES(?)", (number := number + 1,))
            shortest = min(shortest, index.stat().st_size)
            assert number < 100_000
    assert shortest >= 32768
    writer.close()


def test_one_descriptor_of_the_wal_index_is_kept_until_the_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    writer = connect(path)
    writer.execute("CREATE TABLE t(x)")
    writer.close()
    for _ in range(4):
        with Database(path, Replica(MemoryStore())) as database:
            database.sync_and_wait()
        assert open_below(tmp_path) == ["app.db-shm", "app.db-shm"], "itself, and the duplicate below its mapping"
    connect(path).close()  # the last one out removes the file
    assert not is_database(tmp_path)
    assert open_below(tmp_path) == []


def open_below(folder: Path) -> list[str]:
    """What this process has open there, the lock of a replicator aside."""
    targets = (_target(name) for name in os.listdir("/proc/self/fd"))
    return sorted(Path(t).name for t in targets if t.startswith(f"{folder}/") and "-litestream/" not in t)


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""


def test_the_onlooker_sees_a_dropped_lock(application: Application) -> None:
    """That the other tests can fail."""
    with open(f"{application.path}-shm", "rb"):
        pass
    with pytest.raises(AssertionError, match="wal-index are gone"):
        application.check("a careless look")
    assert isinstance(application.reader, apsw.Connection)
