"""Waits end: by interrupt() of either driver, or by the deadline with its cause; then reading goes on."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

import vfsstream
import vfsstream.sqlite3
from tests.conftest import ROOT
from tests.vfs.modes import Mode
from tests.vfs.recorder import Recorder, recorder
from tests.vfs.test_defects import filled
from vfsstream.errors import Interrupted, StoreError
from vfsstream.stores.base import Fetched
from vfsstream.stores.file import FileStore

pytestmark = [
    pytest.mark.modes,
    pytest.mark.remote("the waits to be ended are for the store"),
]

OPTIONS = {"poll_interval": "1h", "relist_interval": "24h", "cache_size": "0", "window_budget": "0"}


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Recorder]:
    for made in recorder(tmp_path):
        filled(made, 400)
        yield made


class Server:
    """The store, with a switch: silent, refusing, or well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.release = threading.Event(), threading.Event()
        self.mood = "well"
        fetch = FileStore.fetch

        def answer(store: FileStore, key: str, offset: int = 0, size: int | None = None) -> Fetched:
            if self.mood == "silent":
                self.asked.set()
                self.release.wait(60)
            elif self.mood == "refusing":
                raise StoreError("connection refused by the server of the test", retryable=True)
            return fetch(store, key, offset, size)

        monkeypatch.setattr(FileStore, "fetch", answer)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(monkeypatch)
    yield made
    made.release.set()


def seconds_to_interrupt(server: Server, query: Callable[[], object], interrupt: Callable[[], None]) -> float:
    called = []

    def stop() -> None:
        assert server.asked.wait(30)
        time.sleep(0.25)  # the query waits by then
        called.append(time.monotonic())
        interrupt()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises((apsw.InterruptError, sqlite3.OperationalError), match="interrupted"):
        query()
    ended = time.monotonic()
    thread.join()
    return ended - called[0]


def connections(primary: Recorder, driver: str, **more: str) -> Any:
    if driver == "apsw":
        return vfsstream.connect(primary.url, **OPTIONS, **more)
    return vfsstream.sqlite3.connect(primary.url, check_same_thread=False, **OPTIONS, **more)


@pytest.mark.parametrize("driver", ["apsw", "sqlite3"])
def test_an_interrupt_ends_a_wait_within_a_tenth_of_a_second(
    primary: Recorder, server: Server, driver: str, mode: Mode
) -> None:
    db = connections(primary, driver, deadline="60s")
    assert db.execute("SELECT count(*) FROM sqlite_schema").fetchall() == [(1,)]
    server.mood = "silent"
    taken = [
        seconds_to_interrupt(server, lambda: db.execute("SELECT sum(v) FROM t").fetchall(), db.interrupt)
        for _ in range(4)  # those after the first share its request, which is still under way
    ]
    print(f"{driver}, {mode}: interrupted after {min(taken):.3f} s")
    assert min(taken) < 0.1
    assert max(taken) < 10
    server.mood = "well"
    server.release.set()
    assert db.execute("SELECT count(*), sum(v) FROM t").fetchall() == [(400, 0)]
    db.close()


def test_an_interrupt_before_the_query_ends_nothing(primary: Recorder) -> None:
    db = connections(primary, "sqlite3")
    db.interrupt()
    assert db.execute("SELECT count(*) FROM t").fetchall() == [(400,)]
    db.close()


def test_a_plain_connection_of_the_standard_library_is_interrupted_too(primary: Recorder, server: Server) -> None:
    from vfsstream.vfs.connect import database_uri

    vfsstream.sqlite3.register()
    db = sqlite3.connect(database_uri(primary.url, deadline="60s", **OPTIONS), uri=True, check_same_thread=False)
    assert db.execute("SELECT count(*) FROM sqlite_schema").fetchall() == [(1,)]
    server.mood = "silent"
    assert seconds_to_interrupt(server, lambda: db.execute("SELECT sum(v) FROM t").fetchall(), db.interrupt) < 10
    db.close()


@pytest.mark.parametrize("driver", ["apsw", "sqlite3"])
def test_a_server_that_is_gone(primary: Recorder, server: Server, driver: str) -> None:
    """What is cached stays readable, what is not fails in time with the cause, and all is well afterwards."""
    db = connections(primary, driver, deadline="500ms")
    db.execute("PRAGMA cache_size = -64").fetchall()
    assert db.execute("SELECT v FROM t WHERE id = 1").fetchall() == [(0,)]
    server.mood = "refusing"
    assert db.execute("SELECT v FROM t WHERE id = 1").fetchall() == [(0,)]
    started = time.monotonic()
    with pytest.raises((apsw.IOError, sqlite3.OperationalError)) as failure:
        db.execute("SELECT sum(length(body)) FROM t").fetchall()
    assert time.monotonic() - started < 10
    cause = failure.value if driver == "apsw" else vfsstream.sqlite3.last_error(db)
    assert "connection refused by the server of the test" in str(cause)
    assert not isinstance(cause, Interrupted)
    server.mood = "well"
    assert db.execute("SELECT sum(length(body)) FROM t").fetchall() == [(240000,)]
    db.close()


SIGNALLED = """
import signal, sys, time
import vfsstream, vfsstream.sqlite3
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
from vfsstream.stores.file import FileStore
module = vfsstream if sys.argv[2] == "apsw" else vfsstream.sqlite3
options = dict(poll_interval="1h", cache_size="0", window_budget="0", deadline="60s")
db = module.connect(sys.argv[1], **options)
db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
def hang(self, *arguments):
    print("waiting", flush=True)
    time.sleep(60)
FileStore.fetch = hang
db.execute("SELECT sum(v) FROM t").fetchall()
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs the signals of Unix")
@pytest.mark.parametrize("driver", ["apsw", "sqlite3"])
def test_control_c_ends_a_program_that_waits(primary: Recorder, driver: str) -> None:
    command = [sys.executable, "-c", SIGNALLED, primary.url, driver]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "waiting\n"
            time.sleep(0.2)
            started = time.monotonic()
            program.send_signal(signal.SIGINT)
            _, said = program.communicate(timeout=30)
        finally:
            program.kill()
    assert time.monotonic() - started < 20
    assert program.returncode != 0
    assert "KeyboardInterrupt" in said or "interrupted" in said
