"""A live primary: a database that a thread writes to while the real Litestream replicates it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from vfsstream.errors import VfsstreamError
from vfsstream.replica import Replica

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
    """A database with a counter and a log that always agree: each transaction moves both.

    Args:
        place: the settings of a replica in Litestream's configuration; by default a folder beside the database.
        url: of that replica.
    """

    def __init__(
        self,
        directory: Path,
        page_size: int = 4096,
        place: Mapping[str, object] | None = None,
        url: str | None = None,
    ) -> None:
        self.path = directory / "app.db"
        self.replica = directory / "replica"
        self.place = dict(place or {"type": "file", "path": str(self.replica)})
        self.url = url or self.replica.as_uri()
        self.db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self.db.executescript(
            f"""PRAGMA page_size={page_size}; PRAGMA journal_mode=wal; PRAGMA busy_timeout=10000;
            CREATE TABLE counter(n INTEGER); INSERT INTO counter VALUES(0);
            CREATE TABLE log(id INTEGER PRIMARY KEY, n INTEGER, body TEXT);"""
        )
        self.errors: list[BaseException] = []

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
        replica = json.dumps({**self.place, "sync-interval": sync})
        config.write_text(
            f"{settings}\ndbs:\n  - path: {self.path}\n    monitor-interval: {sync}\n    replica: {replica}\n"
        )
        with open(self.path.with_name("litestream.log"), "wb") as log:
            process = subprocess.Popen(
                [*program, "replicate", "-config", str(config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            try:
                wait_until(self._begun, what="first LTX file")
                yield
            finally:
                process.terminate()
                process.wait(30)

    def _begun(self) -> bool:
        with contextlib.suppress(VfsstreamError), Replica.open(self.url) as replica:
            return any(replica.all_files().values())
        return False

    def close(self) -> None:
        self.db.close()


def on_s3(directory: Path, moto: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Primary]:
    """For fixtures: a primary whose replica is in a bucket; the keys are in the environment."""
    name = f"live-{secrets.token_hex(4)}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto.secret_key)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)  # with it Litestream refuses to make its client
    made = Primary(directory, place=moto.litestream(name), url=moto.url(name))
    yield made
    made.close()
