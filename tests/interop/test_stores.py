"""On every store: what the real Litestream writes we restore, and what we write it restores."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.targets import NAMES, TRAITS, Place, new_place
from vfsstream.replica import Replica
from vfsstream.replicate.database import Database
from vfsstream.replicate.replicator import once
from vfsstream.replicate.restore import restore

pytestmark = [pytest.mark.interop, pytest.mark.server]

KINDS = [
    pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in NAMES if name not in ("memory", "file")
]
PATIENCE = 90.0


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, server: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> Place:
    found = new_place(request.param, tmp_path, server)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    if TRAITS[request.param].clear:
        with found.open() as store:
            for level in range(10):
                store.delete([info.key for info in store.list(f"ltx/{level}/")])
    return found


def make_database(path: Path, rows: int = 200) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB)")
        connection.executemany("INSERT INTO t(data) VALUES (?)", [(os.urandom(500),) for _ in range(rows)])
        connection.commit()


def commit(path: Path, data: bytes = b"") -> None:
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("INSERT INTO t(data) VALUES (?)", (data or os.urandom(3000),))
        connection.commit()


def content(path: Path) -> str:
    digest = hashlib.sha256()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for row in connection.execute("SELECT id, data FROM t ORDER BY id"):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def wait_for(what: Callable[[], Any], said: str) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not in time: {said}")


class Litestream:
    """The real program with one database and one place."""

    def __init__(self, program: str, folder: Path, place: Place, database: Path) -> None:
        self.program, self.folder, self.database = program, folder, database
        self.config = folder / "litestream.yml"
        settings = {
            "snapshot": {"interval": "2s", "retention": "24h"},
            "levels": [{"interval": "1s"}, {"interval": "3s"}],
            "dbs": [{"path": str(database), "replica": {**(place.litestream or {}), "sync-interval": "100ms"}}],
        }
        self.config.write_text(yaml.safe_dump(settings))
        self.environment = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"}

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.program, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env=self.environment,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def restore(self, output: Path, *more: str) -> Path:
        self.run("restore", "-config", str(self.config), "-o", str(output), *more, str(self.database))
        return output

    def listing(self) -> list[dict[str, Any]]:
        text = self.run("ltx", "-config", str(self.config), "-level", "all", "-json", str(self.database))
        return json.loads(text) or []

    def daemon(self) -> subprocess.Popen[bytes]:
        log = (self.folder / "litestream.log").open("wb")
        with log:
            return subprocess.Popen(
                [self.program, "replicate", "-config", str(self.config)],
                stdout=log,
                stderr=log,
                env=self.environment,
            )


def test_what_litestream_writes_we_restore(place: Place, litestream: str, tmp_path: Path) -> None:
    database = tmp_path / "source.db"
    make_database(database)
    other = Litestream(litestream, tmp_path, place, database)
    with Replica(place.open()) as replica:
        daemon = other.daemon()
        try:
            for _ in range(8):
                commit(database)
                time.sleep(0.15)
            commit(database, os.urandom(7 << 20))  # goes up in parts
            wait_for(lambda: [*replica.files(1)] and [*replica.files(9)], "a compaction and a snapshot")
            middle = content(database)
            big = wait_for(lambda: [f for f in replica.files(0) if f.size > 7 << 20], "the large commit")
            newest = big[-1].max_txid
            commit(database)
            wait_for(lambda: max(f.max_txid for f in replica.files(0)) > newest, "the last commit")
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)
        ours = {(f.level, f.name): f for files in replica.all_files().values() for f in files}
        theirs = {(row["level"], f"{row['min_txid']}-{row['max_txid']}.ltx"): row for row in other.listing()}
        assert ours.keys() == theirs.keys()
        assert {level for level, _ in ours} >= {0, 1, 9}
        for key, info in ours.items():
            assert info.size == theirs[key]["size"]
            if place.name in ("gcs", "azurite"):  # where its own listing has the exact time
                assert info.exact_time
                assert info.created_at is not None
                listed = datetime.fromisoformat(theirs[key]["timestamp"])
                assert info.created_at.replace(microsecond=0) == listed, "it shows whole seconds"
        restore(replica, tmp_path / "newest.db")
        assert content(tmp_path / "newest.db") == content(database)
        last = max(f.max_txid for f in replica.files(0))
        restore(replica, tmp_path / "earlier.db", txid=last - 1)
        assert content(tmp_path / "earlier.db") == middle
        moment = replica.exact_time(max(replica.files(0))).created_at
        assert moment is not None
        restore(replica, tmp_path / "timed.db", timestamp=moment)
        assert content(tmp_path / "timed.db") == middle


def test_what_we_write_litestream_restores(place: Place, litestream: str, tmp_path: Path) -> None:
    database = tmp_path / "source.db"
    make_database(database)
    other = Litestream(litestream, tmp_path, place, database)
    with Replica(place.open()) as replica, Database(database, replica) as ours:
        once(ours, 60)
        commit(database, os.urandom(7 << 20))
        middle = content(database)
        txid = once(ours, 60)
        time.sleep(0.01)
        commit(database)
        last = once(ours, 60)
        assert last > txid
        times = {f.max_txid: replica.exact_time(f).created_at for f in replica.files(0)}
    rows = other.listing()
    assert {row["max_txid"] for row in rows if row["level"] == 0} >= {f"{last:016x}", f"{txid:016x}"}
    if place.name not in ("webdav", "sftp"):  # where an object keeps its own time to the millisecond
        moment = times[last]
        assert moment is not None
        text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        assert content(other.restore(tmp_path / "timed.db", "-timestamp", text)) == middle
    assert content(other.restore(tmp_path / "newest.db")) == content(database)
    assert content(other.restore(tmp_path / "earlier.db", "-txid", f"{txid:016x}")) == middle


@pytest.mark.xdist_group("moto")
@pytest.mark.parametrize("form", ["", "/", "/a//b/../c/", "/sp%20ace+plus/é"])
def test_the_same_url_names_the_same_objects(
    moto: Any, litestream: str, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = f"b-{hashlib.sha1(form.encode()).hexdigest()[:10]}"
    moto.sdk().create_bucket(Bucket=bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto.secret_key)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    url = f"s3://{bucket}{form}?endpoint={moto.endpoint}&region=us-east-1"
    database = tmp_path / "source.db"
    make_database(database, 5)
    run = [litestream, "replicate", "-once", str(database), url]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    keys = [item["Key"] for item in moto.sdk().list_objects_v2(Bucket=bucket)["Contents"]]
    with Replica.open(url) as replica:
        (info,) = replica.files(0)
        assert keys == [f"{replica.store.inner.settings.path}/{replica.key(info)}"]  # type: ignore[attr-defined]
        restore(replica, tmp_path / "restored.db")
        replica.write(0, 2, 2, replica.stream(info), timestamp=1_700_000_000_000)
        assert [f.max_txid for f in replica.files(0)] == [1, 2]
    assert content(tmp_path / "restored.db") == content(database)
