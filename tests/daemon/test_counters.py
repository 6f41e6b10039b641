"""The counters of failures, each by causing the failure under a running daemon."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.daemon.helpers import Daemon, add_row, daemon, make_database, until


def metric(running: Daemon, name: str) -> float:
    """The sum of all samples of one name."""
    line = next(line for line in running.log.splitlines() if "url=http://" in line)
    with urllib.request.urlopen(line.partition("url=")[2].strip('"') + "metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def config(home: Path, text: str) -> Path:
    path = home / "c.yml"
    path.write_text(f"addr: 127.0.0.1:0\n{text}")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_a_checkpoint_that_fails_is_counted(tmp_path: Path) -> None:
    database = tmp_path / "app.db"
    make_database(database)
    entry = f"{{path: {database}, min-checkpoint-page-count: 1, replica: {{path: {tmp_path}/replica}}}}"
    with daemon(tmp_path, "-config", config(tmp_path, f"dbs: [{entry}]\n")) as running:
        running.said("snapshot complete")
        assert metric(running, "litestream_checkpoint_error_count") == 0
        # The database file may not grow beyond this; the log, and LTX files of zeros, stay far below.
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
            connection.execute("PRAGMA wal_autocheckpoint = 0")

            def grow() -> bool:
                connection.execute("INSERT INTO t VALUES (zeroblob(200000))")
                connection.commit()
                return metric(running, "litestream_checkpoint_error_count") >= 1

            until(grow, "a failed checkpoint")
        running.said("checkpoint failed")


def test_what_compaction_finds_damaged_is_counted(tmp_path: Path) -> None:
    database, replica = tmp_path / "app.db", tmp_path / "replica"
    make_database(database)
    entry = f"{{path: {database}, replica: {{path: {replica}}}}}"
    with daemon(
        tmp_path, "-config", config(tmp_path, f"levels: [{{interval: 24h}}]\ndbs: [{entry}]\n")
    ) as running:
        running.said("snapshot complete")
        for value in range(3):
            add_row(database, value)
            name = f"{value + 2:016x}-{value + 2:016x}.ltx"
            until((replica / "ltx" / "0" / name).exists, "the upload")
        assert running.stop() == 0, running.log
    for copy in (replica / "ltx" / "0", tmp_path / ".app.db-litestream" / "ltx" / "0"):
        for victim in copy.glob("0000000000000003-*.ltx"):
            data = bytearray(victim.read_bytes())
            data[len(data) // 2] ^= 1
            victim.write_bytes(data)
    with daemon(tmp_path, "-config", config(tmp_path, f"levels: [{{interval: 1s}}]\ndbs: [{entry}]\n")) as running:
        running.said("serving metrics")
        until(lambda: metric(running, "litestream_compaction_verify_error_count") >= 1, "the count")
        running.said("level 1 failed")
