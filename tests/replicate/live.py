"""Helpers for tests with living databases.

Writers in the test process use apsw, as the replicator does: two SQLite libraries in one process drop each other's
locks. Writers of another kind run in a process of their own.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

ROOT = Path(__file__).resolve().parent.parent.parent


def connect(path: Path, *, autocheckpoint: int = 0, page_size: int | None = None) -> apsw.Connection:
    """An application's connection in WAL mode."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(10_000)
    if page_size is not None:
        connection.execute(f"PRAGMA page_size={page_size}")
    connection.execute("PRAGMA journal_mode=wal")
    connection.wal_autocheckpoint(autocheckpoint)
    return connection


def contents(path: Path | apsw.Connection) -> str:
    """A digest of everything a database says, Litestream's own tables excepted."""
    connection = apsw.Connection(str(path)) if isinstance(path, Path) else path
    total = hashlib.sha256()
    tables = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_litestream%' ESCAPE '\\' ORDER BY name"
    ).fetchall()
    for name, sql in tables:
        total.update(f"{name} {sql}".encode())
        if sql and sql.upper().startswith("CREATE TABLE"):
            for row in connection.execute(f'SELECT rowid, * FROM "{name}" ORDER BY rowid'):
                total.update(repr(row).encode())
    if isinstance(path, Path):
        connection.close()
    return total.hexdigest()


def integrity(path: Path) -> str:
    connection = apsw.Connection(str(path))
    answer = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    assert answer is not None
    return str(answer[0])


def restore_theirs(litestream: str, replica: Path, target: Path, *options: str) -> Path:
    """Restore with the real Litestream and check the result."""
    clear(target)
    command = [litestream, "restore", *options, "-o", str(target), f"file://{replica}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert integrity(target) == "ok"
    return target


def restore_ours(replica: Path, target: Path, **options: object) -> Path:
    """Restore with our own half and check the result."""
    from vfsstream.replica import Replica
    from vfsstream.replicate.restore import restore

    clear(target)
    with Replica.open(f"file://{replica}") as opened:
        restore(opened, target, **options)  # type: ignore[arg-type]
    assert integrity(target) == "ok"
    return target


def clear(target: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.02)


@contextmanager
def running_litestream(
    litestream: str, database: Path, replica: Path, *, monitor: str = "50ms", extra: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """The real replicator, stopped cleanly at the end."""
    config = database.with_suffix(".yml")
    config.write_text(
        f"dbs:\n  - path: {database}\n    monitor-interval: {monitor}\n    {extra}\n"
        f"    replica:\n      url: file://{replica}\n      sync-interval: 50ms\n"
    )
    log = database.with_suffix(".log")
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [litestream, "replicate", "-config", str(config)], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def newest_txid(replica: Path) -> int:
    names = [path.name for path in replica.glob("ltx/*/*.ltx")]
    return max((int(name[17:33], 16) for name in names), default=0)


def run_python(code: str, *arguments: object, **options: object) -> subprocess.Popen[bytes]:
    """A program in a process of its own, with vfsstream importable."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, **options)  # type: ignore[call-overload, no-any-return]
