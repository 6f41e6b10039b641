"""Four ways in which commits get lost without a word: shown wrong with the real Litestream, right with ours.

Each scenario is played once per replicator, with the same application. ``turn`` lets the replicator run until it has
caught up and stops it cleanly; between two turns the application is alone.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from tests.replicate.live import connect, contents, newest_txid, restore_theirs, running_litestream, wait_until
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Event, FullImage, Synced
from vfsstream.replicate.wal import WAL_HEADER_SIZE, WalHeader, frame_size

pytestmark = pytest.mark.interop


class Stage:
    def __init__(self, root: Path, litestream: str) -> None:
        self.path, self.replica, self.target = root / "app.db", root / "replica", root / "restored.db"
        self.log = root / "app.db-wal"
        self.litestream = litestream
        self.events: list[Event] = []
        self.writer = connect(self.path)
        self.writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        self.fill(50)

    def fill(self, rows: int, size: int = 2000) -> None:
        for _ in range(rows):
            self.writer.execute("INSERT INTO t(x) VALUES(randomblob(?))", (size,))

    def turn_ours(self) -> None:
        with Database(self.path, f"file://{self.replica}", observer=self.events.append) as database:
            database.sync_and_wait()

    def turn_theirs(self) -> None:
        before = newest_txid(self.replica)
        with running_litestream(self.litestream, self.path, self.replica):
            if before == 0:
                wait_until(lambda: newest_txid(self.replica) > before, "litestream writes its first file")
            time.sleep(1.0)  # more than a dozen of its monitor intervals

    def restored(self) -> str:
        return contents(restore_theirs(self.litestream, self.replica, self.target))

    def header(self) -> WalHeader:
        header = WalHeader.unpack(self.log.read_bytes()[:WAL_HEADER_SIZE])
        assert header is not None
        return header

    def reasons(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, FullImage)]


@pytest.fixture(params=["litestream", "vfsstream"])
def replicator(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stage(tmp_path: Path, litestream: str) -> Iterator[Stage]:
    made = Stage(tmp_path, litestream)
    yield made
    made.writer.close()


def play(stage: Stage, replicator: str) -> Callable[[], None]:
    return stage.turn_ours if replicator == "vfsstream" else stage.turn_theirs


def judge(stage: Stage, replicator: str) -> None:
    """Ours restores to the source. Theirs does not: otherwise the scenario no longer shows the defect."""
    same = stage.restored() == contents(stage.writer)
    assert same is (replicator == "vfsstream")


def test_a_the_end_of_the_old_lap_after_one_restart(stage: Stage, replicator: str) -> None:
    turn = play(stage, replicator)
    stage.fill(200)
    turn()
    lap = stage.header().salts
    stage.writer.execute("UPDATE t SET x='updated while nobody watched' WHERE id=1")
    stage.fill(120)
    assert stage.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0] == 0  # type: ignore[index]
    stage.fill(3)  # a new lap, much shorter than the old one
    assert stage.header().salts != lap
    turn()
    judge(stage, replicator)
    if replicator == "vfsstream":
        assert stage.reasons() == ["first capture"], "the rest of the old lap was still there and is enough"


def test_b_two_restarts_look_like_one(stage: Stage, replicator: str) -> None:
    turn = play(stage, replicator)
    stage.fill(300)
    turn()
    stage.writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
    stage.writer.execute("UPDATE t SET x='in the lap that vanishes' WHERE id=150")
    stage.writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
    stage.fill(20)  # covers every frame of the lap before
    turn()
    judge(stage, replicator)


def test_c_a_tail_of_the_log_lost_by_the_power(stage: Stage, replicator: str, tmp_path: Path) -> None:
    turn = play(stage, replicator)
    turn()
    stage.writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
    stage.fill(30)
    stage.writer.execute("UPDATE t SET x='early in this lap' WHERE id<5")
    before_tail = stage.log.stat().st_size
    stage.fill(5)
    turn()
    end = stage.log.stat().st_size
    # The power fails: what was not yet synced to the disk, the end of the log, is gone.
    saved = tmp_path / "saved.db"
    shutil.copyfile(stage.log, f"{saved}-wal")
    shutil.copyfile(stage.path, saved)
    # Undo any checkpoint that the closing replicator made: the database file is as old as the lap.
    stage.writer.close()
    header = WalHeader.unpack(Path(f"{saved}-wal").read_bytes()[:32])
    assert header is not None
    size = frame_size(header.page_size)
    used = _frames_of_lap(Path(f"{saved}-wal"), header, size)
    with open(f"{saved}-wal", "r+b") as file:
        file.truncate(32 + (used - 4) * size)
    assert before_tail <= end
    for suffix in ("-wal", "-shm"):
        Path(f"{stage.path}{suffix}").unlink(missing_ok=True)
    os.replace(f"{saved}-wal", stage.log)
    with open(saved, "rb") as source, open(stage.path, "r+b") as target:  # in place: the same inode
        target.truncate()
        target.write(_stale(source.read(), stage.log.read_bytes(), header.page_size))
    stage.writer = connect(stage.path)
    stage.writer.execute("DELETE FROM t WHERE id % 3 = 0")
    stage.fill(20)
    turn()
    judge(stage, replicator)


def _frames_of_lap(log: Path, header: WalHeader, size: int) -> int:
    data, count = log.read_bytes(), 0
    while data[32 + count * size + 8 : 32 + count * size + 16] == header.salts:
        count += 1
    return count


def _stale(database: bytes, log: bytes, page_size: int) -> bytes:
    """The database as it was before the pages of this log were copied into it: those pages are rubbish."""
    pages = bytearray(database)
    size = frame_size(page_size)
    for offset in range(32, len(log) - size + 1, size):
        pgno = int.from_bytes(log[offset : offset + 4], "big")
        if pgno > 1 and pgno * page_size <= len(pages):
            pages[(pgno - 1) * page_size : pgno * page_size] = bytes(page_size)
    return bytes(pages)


def test_d_the_database_file_is_replaced_under_a_running_replicator(
    stage: Stage, replicator: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    maker = connect(other)
    maker.execute("CREATE TABLE quite(different)")
    for number in range(300):
        maker.execute("INSERT INTO quite VALUES(?)", (f"row {number} " * 50,))
    maker.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    maker.close()

    def swap() -> None:
        stage.writer.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{stage.path}{suffix}").unlink(missing_ok=True)
        os.replace(other, stage.path)
        stage.writer = connect(stage.path)
        stage.writer.execute("INSERT INTO quite VALUES('after the swap')")

    if replicator == "vfsstream":
        with Database(stage.path, f"file://{stage.replica}", observer=stage.events.append) as database:
            database.sync_and_wait()
            swap()
            database.sync_and_wait()
            stage.writer.execute("INSERT INTO quite VALUES('and more')")
            database.sync_and_wait()
    else:
        with running_litestream(stage.litestream, stage.path, stage.replica):
            wait_until(lambda: newest_txid(stage.replica) > 0, "first file")
            time.sleep(0.5)
            swap()
            time.sleep(1.5)
            stage.writer.execute("INSERT INTO quite VALUES('and more')")
            time.sleep(1.0)
    if replicator == "vfsstream":
        judge(stage, replicator)
        assert not [event for event in stage.events if isinstance(event, Synced) and event.commit == 0]
        return
    try:
        same = stage.restored() == contents(stage.writer)
    except (AssertionError, apsw.Error):
        same = False
    assert not same
