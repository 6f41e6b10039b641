"""The real Litestream replicates to each server: our side lists the same files and restores the same database."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.conformance.targets import new_place
from vfsstream.replica import Replica

pytestmark = [pytest.mark.interop, pytest.mark.server]
KINDS = ("sftp", "nats", "webdav", "oss")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.xdist_group(kind)) for kind in KINDS])
def test_what_litestream_wrote_is_read_and_restored(kind: str, tmp_path: Path, server, litestream: str) -> None:  # type: ignore[no-untyped-def]
    from vfsstream.replicate.restore import restore

    place = new_place(kind, tmp_path, server)
    source = tmp_path / "source.db"
    with sqlite3.connect(source) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
        database.executemany("INSERT INTO t (data) VALUES (randomblob(3000))", [()] * 300)
    database.close()
    config = tmp_path / "litestream.yml"
    config.write_text(json.dumps({"dbs": [{"path": str(source), "replica": dict(place.litestream or {})}]}))
    subprocess.run(
        [litestream, "replicate", "-config", str(config), "-once"], check=True, capture_output=True, timeout=60
    )
    target = tmp_path / "restored.db"
    with place.open() as store:
        replica = Replica(store)
        files = [info for found in replica.all_files().values() for info in found]
        assert files
        assert all(info.size == len(replica.fetch(info).data) for info in files)
        restore(replica, target)
    with sqlite3.connect(source) as one, sqlite3.connect(target) as two:
        rows = "SELECT id, data FROM t ORDER BY id"
        assert one.execute(rows).fetchall() == two.execute(rows).fetchall()
    one.close()
    two.close()
