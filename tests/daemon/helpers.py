"""Runs the daemon as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import ROOT

DEADLINE = 90.0


def until(condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Poll until it holds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"gave up waiting for {what}"
        time.sleep(0.05)


class Daemon:
    """A running ``vfsstream replicate``."""

    def __init__(self, directory: Path, *arguments: object, env: dict[str, str] | None = None) -> None:
        self.log_path = directory / f"log-{time.monotonic_ns()}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        words = [sys.executable, "-X", "faulthandler", "-m", "vfsstream", "replicate", *map(str, arguments)]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                words, stderr=log, stdout=subprocess.PIPE, cwd=directory, env=environment
            )

    @property
    def log(self) -> str:
        """What it said so far."""
        return self.log_path.read_text()

    def said(self, text: str) -> None:
        """Wait for a line."""
        try:
            until(lambda: text in self.log or self.process.poll() is not None, f"{text!r} in the log")
        except AssertionError:
            self.process.send_signal(signal.SIGABRT)  # its threads' stacks go to the log
            self.process.wait(DEADLINE)
            raise AssertionError(f"{text!r} is not in the log:\n{self.log}") from None
        assert text in self.log, self.log

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """The exit status."""
        try:
            status = self.process.wait(DEADLINE)
        finally:
            assert self.process.stdout is not None
            self.output = self.process.stdout.read().decode()
            self.process.stdout.close()
        return status


@contextlib.contextmanager
def daemon(directory: Path, *arguments: object, env: dict[str, str] | None = None) -> Iterator[Daemon]:
    """Ends it whatever happens."""
    running = Daemon(directory, *arguments, env=env)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        if running.process.stdout is not None:
            running.process.stdout.close()


def make_database(path: Path, rows: int = 3) -> None:
    """A database in WAL mode."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE IF NOT EXISTS t(x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(rows)])
        connection.commit()


def add_row(path: Path, value: object) -> None:
    """One commit."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO t VALUES (?)", (value,))
        connection.commit()


def rows(path: Path) -> list[object]:
    """Everything in the table."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [value for (value,) in connection.execute("SELECT x FROM t ORDER BY rowid")]
