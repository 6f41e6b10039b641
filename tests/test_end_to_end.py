"""Both halves together, as users run them: a writer, our daemon killed again and again, readers, both restores."""

from __future__ import annotations

import hashlib
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path

import pytest

import vfsstream
from tests.conftest import ROOT
from vfsstream.errors import VfsstreamError, ViewExpired
from vfsstream.replica import Replica
from vfsstream.replicate.restore import restore
from vfsstream.replicate.verify import verify

CONFIG = """
levels: [{{interval: 1s}}, {{interval: 4s}}]
snapshot: {{interval: 6s, retention: 30s}}
l0-retention: 3s
l0-retention-check-interval: 1s
dbs:
  - path: {database}
    min-checkpoint-page-count: 50
    replica: {{url: "{url}"}}
"""


class Daemon:
    """``vfsstream replicate`` in a process of its own."""

    def __init__(self, config: Path, log: Path) -> None:
        self._command = [sys.executable, "-m", "vfsstream", "replicate", "-config", str(config)]
        self._path = log
        self._log = log.open("ab")
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=ROOT, stdout=self._log, stderr=self._log)

    def wait_until_running(self) -> None:
        """A signal before the program has set its handlers just ends it."""
        deadline = time.monotonic() + 60
        while (
            f"pid={self.process.pid}" not in (text := self._path.read_text())
            or "replicating db=" not in (text.rpartition(f"pid={self.process.pid}")[2])
        ):
            assert time.monotonic() < deadline, self._path.read_text()[-2000:]
            time.sleep(0.05)

    def kill_and_restart(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self.process = self._start()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self._log.close()
        return status


def _write(database: Path, stop: threading.Event, written: list[int]) -> None:
    """A counter and a log row in one transaction, rows of changing size, now and then a checkpoint or a VACUUM."""
    dice = random.Random(7)
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        number = 0
        while not stop.is_set():
            number += 1
            with connection:
                connection.execute("UPDATE counter SET value = ?", (number,))
                body = "x" * dice.randrange(3000)
                connection.execute("INSERT INTO log (id, body) VALUES (?, ?)", (number, body))
                if number % 50 == 0:
                    connection.execute("UPDATE log SET body = '' WHERE id % 7 = ?", (dice.randrange(7),))
            written.append(number)
            if number % 120 == 0:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            time.sleep(0.01)


def _read(url: str, stop: threading.Event, faults: list[str], reads: list[int]) -> None:
    with closing(vfsstream.connect(url, poll_interval="100ms", wait="30s", cache_size="200KB")) as connection:
        last = 0
        while not stop.is_set():
            try:
                with connection:
                    value = connection.execute("SELECT value FROM counter").fetchall()[0][0]
                    high, count = connection.execute("SELECT max(id), count(*) FROM log").fetchall()[0]
            except ViewExpired:
                continue
            except Exception as error:
                faults.append("".join(traceback.format_exception(error)))
                return
            if not value == (high or 0) == count or value < last:
                faults.append(f"counter {value}, log {high}, rows {count}, before {last}")
                return
            last = value
            reads.append(value)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE counter (value INTEGER)")
        connection.execute("INSERT INTO counter VALUES (0)")
        connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, body TEXT)")
        connection.commit()
    return path


def _contents(path: Path) -> tuple[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        check = connection.execute("PRAGMA integrity_check").fetchone()[0]
        dump = "\n".join(line for line in connection.iterdump() if "_litestream" not in line)
    return check, hashlib.sha256(dump.encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("seconds", [20, pytest.param(240, marks=pytest.mark.soak)])
def test_nothing_is_lost_or_torn_while_the_replicator_dies(
    seconds: int, database: Path, tmp_path: Path, litestream: str
) -> None:
    root = tmp_path / "replica"
    url = f"file://{root}"
    config = tmp_path / "vfsstream.yml"
    config.write_text(CONFIG.format(database=database, url=url))
    log = tmp_path / "daemon.log"
    daemon = Daemon(config, log)
    stop, faults, reads, written = threading.Event(), list[str](), list[int](), list[int]()
    threads = [threading.Thread(target=_write, args=(database, stop, written), name="writer")]
    threads += [
        threading.Thread(target=_read, args=(url, stop, faults, reads), name=f"reader-{n}") for n in range(3)
    ]
    for thread in threads:
        thread.start()
    dice = random.Random(3)
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and not faults:
            time.sleep(dice.uniform(1, 4))
            daemon.kill_and_restart()
        daemon.wait_until_running()
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
        status = daemon.stop()
    said = log.read_text()[-3000:]
    assert not faults, f"{faults}\n{said}"
    assert status == 0, said
    assert len(reads) > 20
    source = _contents(database)
    assert source[0] == "ok"
    replica = Replica.open(url)
    assert _contents(restore(replica, tmp_path / "ours.db", integrity_check="full").output) == source
    theirs = tmp_path / "theirs.db"
    subprocess.run([litestream, "restore", "-o", theirs, url], check=True, timeout=120, capture_output=True)
    assert _contents(theirs) == source
    report = verify(replica)
    assert report.ok, report.problems
    _every_point_is_a_committed_state(replica, tmp_path)


def _every_point_is_a_committed_state(replica: Replica, tmp_path: Path) -> None:
    """Restore some of the kept moments: each holds as many rows as its counter says."""
    ends = sorted({int(info.max_txid) for listed in replica.all_files().values() for info in listed})
    restored = 0
    for txid in ends[:: max(1, len(ends) // 12)]:
        output = tmp_path / f"at-{txid}.db"
        try:
            restore(replica, output, txid=txid, integrity_check="quick")
        except VfsstreamError:
            continue  # inside a compacted range whose finer files are gone
        with closing(sqlite3.connect(output)) as connection:
            (value,) = connection.execute("SELECT value FROM counter").fetchone()
            assert connection.execute("SELECT max(id), count(*) FROM log").fetchone() in [
                (value, value),
                (None, 0),
            ]
        restored += 1
    assert restored > 2
