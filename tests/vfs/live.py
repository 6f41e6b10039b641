"""A live primary: a database that a thread writes to while the real Litestream replicates it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import ROOT

FAST_LEVELS = """
levels: [{interval: 2s}, {interval: 6s}, {interval: 18s}]
snapshot: {interval: 15s, retention: 40s}
l0-retention: 4s
l0-retention-check-interval: 2s
"""


def wait_until(condition: Callable[[], bool], seconds: float = 60.0, what: str = "condition") -> None:
    """Poll until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {seconds:g} s"
        time.sleep(0.02)


class Primary:
    """A database with a counter and a log that always agree: each transaction moves both."""

    def __init__(self, directory: Path, page_size: int = 4096) -> None:
        self.path = directory / "app.db"
        self.replica = directory / "replica"
        self.db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self.db.executescript(
            f"""PRAGMA page_size={page_size}; PRAGMA journal_mode=wal; PRAGMA busy_timeout=10000;
            CREATE TABLE counter(n INTEGER); INSERT INTO counter VALUES(0);
            CREATE TABLE log(id INTEGER PRIMARY KEY, n INTEGER, body TEXT);"""
        )
        self.errors: list[BaseException] = []

    @property
    def url(self) -> str:
        return self.replica.as_uri()

    def write(self) -> int:
        """One transaction."""
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("UPDATE counter SET n = n + 1")
        (n,) = self.db.execute("SELECT n FROM counter").fetchone()
        self.db.execute("INSERT INTO log(id, n, body) VALUES(?, ?, ?)", (n, n, f"entry {n} " * 20))
        self.db.execute("COMMIT")
        return int(n)

    @contextlib.contextmanager
    def writing(self, per_second: float) -> Iterator[None]:
        """Transactions at a pace, in a thread."""
        stop = threading.Event()

        def run() -> None:
            try:
                while not stop.wait(1 / per_second):
                    self.write()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, name="writer")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            assert not self.errors, self.errors

    @contextlib.contextmanager
    def replicating_here(self, settings: str = FAST_LEVELS, sync: str = "200ms") -> Iterator[None]:
        """Our own replicator, running."""
        with self._running([sys.executable, "-m", "vfsstream"], settings, sync):
            yield

    @contextlib.contextmanager
    def replicating(self, litestream: str, settings: str = FAST_LEVELS, sync: str = "200ms") -> Iterator[None]:
        """The real Litestream, running."""
        with self._running([litestream], settings, sync):
            yield

    @contextlib.contextmanager
    def _running(self, program: list[str], settings: str, sync: str) -> Iterator[None]:
        config = self.path.with_name("litestream.yml")
        config.write_text(
            f"{settings}\ndbs:\n  - path: {self.path}\n    monitor-interval: {sync}\n"
            f"    replica: {{type: file, path: {self.replica}, sync-interval: {sync}}}\n"
        )
        with open(self.path.with_name("litestream.log"), "wb") as log:
            process = subprocess.Popen(
                [*program, "replicate", "-config", str(config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            try:
                wait_until(lambda: any(self.replica.rglob("*.ltx")), what="first LTX file")
                yield
            finally:
                process.terminate()
                process.wait(30)

    def close(self) -> None:
        self.db.close()
