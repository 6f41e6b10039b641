"""kill -9 at every step and at random under load: everything acknowledged is there, and replication goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.replicate.live import (
    connect,
    contents,
    newest_txid,
    restore_ours,
    restore_theirs,
    run_python,
    wait_until,
)
from vfsstream.replicate.database import Database

pytestmark = pytest.mark.interop

WRITER = """
import sys, time, random, signal, apsw
stopped = []
signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
connection = apsw.Connection(sys.argv[1])
connection.set_busy_timeout(20000)
connection.execute("PRAGMA journal_mode=wal")
connection.wal_autocheckpoint(int(sys.argv[2]))
connection.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)")
number = connection.execute("SELECT coalesce(max(id), 0) FROM t").fetchone()[0]
while not stopped:
    with connection:
        for _ in range(random.randrange(1, 5)):
            number += 1
            connection.execute("INSERT INTO t VALUES(?, randomblob(?))", (number, random.randrange(10, 2000)))
        connection.execute("UPDATE t SET x=randomblob(100) WHERE id=?", (random.randrange(1, number + 1),))
    print(number, flush=True)
    time.sleep(0.002)
"""

REPLICATOR = """
import os, sys, signal, time
from datetime import timedelta
from vfsstream.replicate.database import Database
from vfsstream.replicate.settings import Settings
point, times = sys.argv[3], int(sys.argv[4])
def at_point(name):
    global times
    if name == point:
        times -= 1
        if times == 0:
            os.kill(os.getpid(), signal.SIGKILL)
settings = Settings(min_checkpoint_pages=50, sync_interval=timedelta(milliseconds=20))
database = Database(sys.argv[1], "file://" + sys.argv[2], settings=settings, at_point=at_point)
database.open()
while True:
    if database.poll():
        database.step()
    time.sleep(0.002)
"""

POINTS = [
    "capture:encoded",
    "capture:published",
    "capture:recorded",
    "checkpoint:sealed",
    "checkpoint:released",
    "upload:before-put",
    "upload:after-put",
]


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a writer between two transactions.

    A writer killed after its last frame but before the wal-index knows leaves a transaction that nobody sees, until
    the last connection closes and the next one recovers it from the log.
    """
    process.terminate()
    process.wait(60)


def finish(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def judge(path: Path, replica: Path, target: Path, litestream: str) -> None:
    """One more turn of ours, then both restore to what is there."""
    with Database(path, f"file://{replica}") as database:
        database.sync_and_wait()
    writer = connect(path)
    wanted = contents(writer)
    writer.close()
    assert contents(restore_theirs(litestream, replica, target)) == wanted
    assert contents(restore_ours(replica, target)) == wanted


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_step(tmp_path: Path, litestream: str, point: str) -> None:
    path, replica = tmp_path / "app.db", tmp_path / "replica"
    writer = run_python(WRITER, path, 1000, stdout=subprocess.DEVNULL)
    try:
        wait_until(path.exists, "the writer begins")
        for times in (1, 4):
            before = newest_txid(replica)
            process = run_python(REPLICATOR, path, replica, point, times)
            assert process.wait(60) == -signal.SIGKILL
            assert newest_txid(replica) >= before
    finally:
        finish(writer)
    judge(path, replica, tmp_path / "restored.db", litestream)


def _kill_at_random(tmp_path: Path, litestream: str, kills: int, autocheckpoint: int) -> None:
    path, replica = tmp_path / "app.db", tmp_path / "replica"
    writer = run_python(WRITER, path, autocheckpoint, stdout=subprocess.DEVNULL)
    try:
        wait_until(path.exists, "the writer begins")
        for number in range(kills):
            before = newest_txid(replica)
            process = run_python(REPLICATOR, path, replica, "never", 0)
            try:
                wait_until(lambda before=before: newest_txid(replica) > before, "something is replicated")  # type: ignore[misc]
                time.sleep(random.random() * 0.3)
            finally:
                finish(process)
            if number % 10 == 9:
                restore_theirs(litestream, replica, tmp_path / "middle.db")
            time.sleep(random.random() * 0.2)  # the application goes on alone
    finally:
        finish(writer)
    judge(path, replica, tmp_path / "restored.db", litestream)


@pytest.mark.parametrize("autocheckpoint", [20, 1000])
def test_killed_at_random_under_load(tmp_path: Path, litestream: str, autocheckpoint: int) -> None:
    _kill_at_random(tmp_path, litestream, 6, autocheckpoint)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_killed_two_hundred_times(tmp_path: Path, litestream: str) -> None:
    _kill_at_random(tmp_path, litestream, int(os.environ.get("VFSSTREAM_SOAK_KILLS", "200")), 100)


def test_acknowledged_rows_survive_the_loss_of_the_source(tmp_path: Path, litestream: str) -> None:
    """After ``sync_and_wait`` the machine may vanish: what was committed before the call is in the replica."""
    path, replica = tmp_path / "app.db", tmp_path / "replica"
    writer = run_python(WRITER, path, 100, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    try:
        wait_until(path.exists, "the writer begins")
        with Database(path, f"file://{replica}") as database:
            for _ in range(5):
                seen = int(writer.stdout.readline())
                database.sync_and_wait()
                restored = connect(restore_theirs(litestream, replica, tmp_path / "restored.db"))
                (rows,) = restored.execute("SELECT max(id) FROM t").fetchone()  # type: ignore[misc]
                restored.close()
                assert rows >= seen
    finally:
        finish(writer)
