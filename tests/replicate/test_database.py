"""One live database into a folder: every restore, theirs and ours, equals the source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from tests.replicate.live import connect, contents, restore_ours, restore_theirs
from vfsstream.errors import DatabaseError, StoreError
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Event, FullImage, Synced, Uploaded
from vfsstream.replicate.settings import Settings


class World:
    """A database, its replica, and what happened."""

    def __init__(self, root: Path, litestream: str) -> None:
        self.path, self.replica, self.target = root / "app.db", root / "replica", root / "restored.db"
        self.litestream = litestream
        self.events: list[Event] = []
        self.writer = connect(self.path)
        self.database: Database | None = None

    def open(self, **settings: object) -> Database:
        self.database = Database(
            self.path,
            f"file://{self.replica}",
            settings=Settings(**settings),  # type: ignore[arg-type]
            observer=self.events.append,
        )
        self.database.open()
        return self.database

    def images(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, FullImage)]

    def files(self) -> list[Synced]:
        return [event for event in self.events if isinstance(event, Synced)]

    def same(self) -> None:
        assert self.database is not None
        self.database.sync_and_wait()
        wanted = contents(self.writer)
        assert contents(restore_theirs(self.litestream, self.replica, self.target)) == wanted
        assert contents(restore_ours(self.replica, self.target)) == wanted

    def close(self) -> None:
        if self.database is not None:
            self.database.close()
        self.writer.close()


@pytest.fixture
def world(tmp_path: Path, litestream: str) -> Iterator[World]:
    made = World(tmp_path, litestream)
    yield made
    made.close()


def fill(writer: apsw.Connection, rows: int = 40, size: int = 3000) -> None:
    writer.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)")
    with writer:
        for _ in range(rows):
            writer.execute("INSERT INTO t(x) VALUES(randomblob(?))", (size,))


@pytest.mark.interop
@pytest.mark.parametrize("page_size", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536])
def test_every_page_size_through_checkpoints_vacuum_and_restarts(
    tmp_path: Path, litestream: str, page_size: int
) -> None:
    world = World(tmp_path, litestream)
    world.writer.close()
    world.path.unlink()
    world.writer = connect(world.path, page_size=page_size)
    fill(world.writer)
    database = world.open()
    world.same()
    fill(world.writer)
    world.same()
    assert database.checkpoint().complete
    world.writer.execute("UPDATE t SET x='short' WHERE id % 2")
    world.same()
    assert database.checkpoint(wait_for_readers=True).truncated
    world.writer.execute("DELETE FROM t WHERE id > 10")
    world.writer.execute("VACUUM")
    world.same()
    assert database.close().uploaded
    fill(world.writer)
    world.open()
    world.same()
    assert world.images() == ["first capture"]
    world.close()


def test_a_restart_of_an_unchanged_database_writes_nothing(world: World) -> None:
    fill(world.writer)
    world.open().sync_and_wait()
    assert world.database is not None
    world.database.close()
    before = len(world.files())
    database = world.open()
    database.sync_and_wait()
    assert len(world.files()) == before
    database.close()
    world.writer.close()  # the last to close: SQLite deletes the log
    assert not world.path.with_name("app.db-wal").exists()
    database = world.open()
    database.sync_and_wait()
    assert len(world.files()) == before, "compared page by page, nothing differs"
    world.writer = connect(world.path)


@pytest.mark.interop
def test_without_a_log_only_the_changed_pages_are_written(world: World) -> None:
    fill(world.writer, rows=400)
    world.open().sync_and_wait()
    assert world.database is not None
    world.database.close()
    world.writer.execute("UPDATE t SET x='changed' WHERE id=77")
    world.writer.close()
    world.writer = connect(world.path)
    world.open()
    world.same()
    last = world.files()[-1]
    assert last.pages <= 3 < last.commit
    assert not last.full


@pytest.mark.interop
def test_without_fingerprints_the_same_takes_all_pages(world: World) -> None:
    fill(world.writer, rows=100)
    world.open(fingerprints=False).sync_and_wait()
    assert world.database is not None
    world.database.close()
    world.writer.close()
    world.writer = connect(world.path)
    world.writer.execute("UPDATE t SET x='changed' WHERE id=7")
    world.open(fingerprints=False)
    world.same()
    assert world.files()[-1].full is False or world.files()[-1].pages == world.files()[-1].commit


def test_the_database_gets_no_tables_of_ours(world: World) -> None:
    fill(world.writer)
    world.open().sync_and_wait()
    assert world.database is not None
    world.database.checkpoint(wait_for_readers=True)
    assert [row[0] for row in world.writer.execute("SELECT name FROM sqlite_schema")] == ["t"]


@pytest.mark.interop
def test_a_rollback_journal_database_is_converted(tmp_path: Path, litestream: str) -> None:
    world = World(tmp_path, litestream)
    fill(world.writer)
    world.writer.execute("PRAGMA journal_mode=delete")
    world.writer.close()
    world.writer = apsw.Connection(str(world.path))
    world.open()
    world.same()
    assert world.writer.pragma("journal_mode") == "wal"
    world.close()


@pytest.mark.interop
def test_an_empty_file_becomes_a_database(tmp_path: Path, litestream: str) -> None:
    world = World(tmp_path, litestream)
    world.writer.close()
    for path in tmp_path.glob("app.db*"):
        path.unlink()
    world.path.touch()
    database = world.open()
    database.sync_and_wait()
    world.writer = connect(world.path)
    fill(world.writer)
    world.same()
    world.close()


def test_a_database_may_appear_later(tmp_path: Path) -> None:
    database = Database(tmp_path / "later.db", f"file://{tmp_path}/replica")
    database.open()
    assert database.sync() == 0
    assert database.status().state == "waiting"
    writer = connect(tmp_path / "later.db")
    fill(writer)
    assert database.sync_and_wait() == 1
    assert database.close().uploaded
    writer.close()


def test_a_second_instance_is_refused_and_the_first_named(world: World) -> None:
    fill(world.writer)
    world.open()
    second = Database(world.path, f"file://{world.replica}")
    with pytest.raises(DatabaseError, match=f"process {os.getpid()}"):
        second.open()


def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("this is a text of more than a hundred bytes " * 10)
    before = path.read_bytes()
    with (
        Database(path, f"file://{tmp_path}/replica") as database,
        pytest.raises(DatabaseError, match="not a database"),
    ):
        database.sync()
    assert path.read_bytes() == before
    with pytest.raises(DatabaseError, match="is a directory"):
        Database(tmp_path, f"file://{tmp_path}/replica").open()


@pytest.mark.interop
def test_a_snapshot_is_the_state_at_its_txid_while_writers_and_checkpoints_go_on(
    world: World, golden: Callable[[str], Path]
) -> None:
    from vfsstream.ltx import encode

    fill(world.writer, rows=100)
    database = world.open()
    database.sync_and_wait()
    wanted = contents(world.writer)
    with database.snapshot_pages() as (header, pages):
        iterator = encode(header, pages)
        chunks = [next(iterator)]
        fill(world.writer, rows=50)
        world.writer.execute("UPDATE t SET x='later'")
        database.sync()
        with pytest.raises(DatabaseError, match="snapshot"):
            database.checkpoint()
        world.writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        chunks.extend(iterator)
    assert header.max_txid == 1
    database.replica.write(9, 1, header.max_txid, chunks, timestamp=header.timestamp)
    restored = restore_theirs(world.litestream, world.replica, world.target, "-txid", "0000000000000001")
    assert contents(restored) == wanted
    world.same()


@pytest.mark.interop
@pytest.mark.parametrize("limit", [1, 40_000, 0])
def test_the_byte_limit_splits_at_commits_and_the_sync_takes_everything(world: World, limit: int) -> None:
    fill(world.writer, rows=5)
    world.open(max_sync_wal_bytes=limit)
    assert world.database is not None
    world.database.sync()
    for _ in range(5):
        fill(world.writer, rows=3)
    world.database.sync()
    files = len(world.files()) - 1
    assert files == {1: 5, 0: 1}.get(limit, files)
    assert limit != 40_000 or 1 < files < 5
    world.same()


@pytest.mark.interop
def test_growth_shrinking_and_growth_again_in_one_range(world: World) -> None:
    fill(world.writer, rows=60)
    world.open().sync_and_wait()
    fill(world.writer, rows=60)
    world.writer.execute("DELETE FROM t WHERE id > 20")
    world.writer.execute("PRAGMA incremental_vacuum")
    world.writer.execute("VACUUM")
    fill(world.writer, rows=90)
    world.same()


@pytest.mark.interop
def test_a_rolled_back_transaction_that_spilled_contributes_nothing(world: World) -> None:
    fill(world.writer, rows=10)
    database = world.open()
    database.sync_and_wait()
    world.writer.execute("PRAGMA cache_size=10")
    world.writer.execute("BEGIN")
    for _ in range(300):
        world.writer.execute("INSERT INTO t(x) VALUES(randomblob(4000))")
    world.writer.execute("ROLLBACK")
    assert database.sync() == 1
    world.same()


def test_idle_syncs_write_nothing(world: World) -> None:
    fill(world.writer)
    database = world.open()
    database.sync()
    assert database.checkpoint().complete
    for _ in range(20):
        database.step()
    assert database.position == 1
    assert not database.poll_capture()


def test_an_upload_of_what_was_just_written_lists_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = apsw.Connection(str(tmp_path / "listed.db"))
    writer.execute("pragma journal_mode=wal").fetchall()
    writer.execute("create table t(x)")
    database = Database(tmp_path / "listed.db", f"file://{tmp_path}/listed")
    database.open()
    database.sync()
    database.upload()
    listings: list[object] = []
    real = database.local.txids
    monkeypatch.setattr(database.local, "txids", lambda: listings.append(1) or real())
    for _ in range(3):
        writer.execute("insert into t values (1)")
        assert database.upload() < database.sync() == database.upload()
    assert listings == []
    writer.execute("insert into t values (2)")
    txid = database.sync()
    database.local.path(txid).unlink()
    with pytest.raises(StoreError, match="vanished"):
        database.upload()
    writer.execute("insert into t values (3)")
    database.sync()
    database.upload()
    assert database.needs_snapshot, "the lost file was noticed and the replica gets a new base"
    database.close()
    writer.close()


def test_an_increment_that_holds_every_page_is_known_without_reading_it(tmp_path: Path) -> None:
    events: list[Event] = []
    writer = apsw.Connection(str(tmp_path / "vacuumed.db"))
    writer.execute("pragma journal_mode=wal").fetchall()
    writer.execute("create table t(x); insert into t values (randomblob(20000)); delete from t")
    database = Database(tmp_path / "vacuumed.db", f"file://{tmp_path}/vacuumed", observer=events.append)
    database.open()
    for statement in ("", "insert into t values (1)", "vacuum", "insert into t values (2)"):
        writer.execute(statement)
        database.step()
    assert [event.full for event in events if isinstance(event, Uploaded)] == [True, False, True, False]
    database.close()
    writer.close()
