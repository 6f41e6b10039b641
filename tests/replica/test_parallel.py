"""Requests side by side: order, failures, and an end of the process that waits for nobody."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from tests.conftest import ROOT
from vfsstream.replica.parallel import side_by_side


def test_results_come_in_the_order_of_the_items() -> None:
    def slow(number: int) -> int:
        time.sleep(0.01 * (5 - number))
        return number * 10

    assert side_by_side(slow, range(5), 5, "test") == [0, 10, 20, 30, 40]
    assert side_by_side(slow, [], 5, "test") == []


def test_no_more_at_once_than_allowed() -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def work(_: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1

    side_by_side(work, range(20), 3, "test")
    assert 1 < most[0] <= 3


def test_the_first_failure_is_raised_and_nothing_more_is_begun() -> None:
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise ValueError(number)
        time.sleep(0.05)

    with pytest.raises(ValueError, match="1"):
        side_by_side(work, range(50), 2, "test")
    assert len(begun) < 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vfsstream-test")]


@pytest.mark.parametrize("prefetch", ["off", "auto"])
def test_a_silent_server_does_not_hold_up_the_end_of_the_process(prefetch: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Both a page that is being fetched and a listing are under way when the program ends."""
    script = f"""
import sqlite3, sys, threading, time
import vfsstream
from tests.vfs.recorder import Recorder
from pathlib import Path
from vfsstream.stores.file import FileStore
made = Recorder(Path(sys.argv[1]))
made.commit("CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
made.db.close()
db = vfsstream.connect(made.url, prefetch={prefetch!r}, poll_interval="50ms", relist_interval="100ms",
                       cache_size="0", window_budget="0")
db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
hung = threading.Event()
def hang(self, *arguments):
    hung.set()
    time.sleep(60)
FileStore.fetch = FileStore.list = hang
def read():
    try:
        db.execute("SELECT * FROM t").fetchall()
    except BaseException:
        pass
threading.Thread(target=read, daemon=True).start()
assert hung.wait(30)
time.sleep(0.5)
print(time.time(), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    ended = time.time()
    assert done.returncode == 0, done.stderr
    assert ended - float(done.stdout) < 20
