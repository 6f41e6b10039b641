"""On every store: what the real Litestream writes we restore and query, and what we write it restores.

Both run with second-long levels, snapshots and retention until files were really deleted, and send an object that
goes up in parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest
import yaml

import vfsstream
from tests.conformance.targets import NAMES, TRAITS, Place, new_place
from vfsstream.ltx import TXID
from vfsstream.plan.retention import RetentionPolicy
from vfsstream.replica import Replica
from vfsstream.replicate.events import Event
from vfsstream.replicate.maintenance import Compacted, MaintenanceSettings, Retired, SnapshotTaken
from vfsstream.replicate.restore import restore
from vfsstream.replicate.service import Service, ServiceSettings
from vfsstream.replicate.settings import Settings
from vfsstream.stores.wrapper import unwrap

pytestmark = [pytest.mark.interop, pytest.mark.server]

KINDS = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in NAMES if name != "memory"]
PATIENCE = 90.0
BRISK = MaintenanceSettings(
    levels=(timedelta(seconds=0.3), timedelta(seconds=0.9)),
    snapshot_interval=timedelta(seconds=0.8),
    l0_check_interval=timedelta(seconds=0.2),
    retention=RetentionPolicy(l0=timedelta(seconds=0.4), snapshots=timedelta(seconds=1)),
)
THEIR_BRISK = {
    "levels": [{"interval": "500ms"}, {"interval": "1s"}],
    "snapshot": {"interval": "1s", "retention": "1s"},
    "l0-retention": "500ms",
    "l0-retention-check-interval": "200ms",
}


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
    # A URL has no room for the keys and endpoints that some of these servers need.
    monkeypatch.setattr(Replica, "open", classmethod(lambda cls, url, options=None: cls(found.open())))
    return found


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    """A database that stays open, as an application's does: its log is not deleted after each commit."""
    path = tmp_path / "source.db"
    make_database(path)
    with closing(apsw.Connection(str(path))) as application:
        application.execute("SELECT count(*) FROM t").fetchall()
        yield path


def make_database(path: Path, rows: int = 200) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.pragma("journal_mode", "wal")
        with connection:
            connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB)")
            connection.executemany("INSERT INTO t(data) VALUES (?)", [(os.urandom(500),) for _ in range(rows)])


def commit(path: Path, data: bytes = b"") -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.set_busy_timeout(30_000)
        connection.execute("INSERT INTO t(data) VALUES (?)", (data or os.urandom(3000),))


def commit_large(path: Path, place: Place) -> None:
    """So large that it goes up in parts, where the store knows parts."""
    with place.open() as store:
        parts = store.capabilities.min_part_size > 0
    commit(path, os.urandom(place.traits.multipart + (2 << 20) if parts else 1 << 20))


def digest(rows: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for row in rows:
        found.update(repr(row).encode())
    return found.hexdigest()


def content(path: Path) -> str:
    with closing(apsw.Connection(str(path))) as connection:
        assert connection.pragma("integrity_check") == "ok"
        return digest(connection.execute("SELECT id, data FROM t ORDER BY id"))


def queried(place: Place, **options: Any) -> str:
    with closing(vfsstream.connect(place.url, **options)) as connection:
        return digest(connection.execute("SELECT id, data FROM t ORDER BY id"))


def wait_for(what: Callable[[], Any], said: str) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not in time: {said}")


def next_whole_second() -> datetime:
    """A moment that tells what was stored before from what is stored after it, also where times are whole seconds."""
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    while datetime.now(UTC) < moment:
        time.sleep(0.02)
    return moment


class Litestream:
    """The real program with one database and one place."""

    def __init__(self, program: str, folder: Path, place: Place, database: Path) -> None:
        self.program, self.folder, self.database = program, folder, database
        replica = {**(place.litestream or {}), "sync-interval": "100ms"}
        dbs = {"dbs": [{"path": str(database), "replica": replica}]}
        self.config, self.brisk = folder / "litestream.yml", folder / "brisk.yml"
        self.config.write_text(yaml.safe_dump(dbs))
        self.brisk.write_text(yaml.safe_dump({**THEIR_BRISK, **dbs}))
        self.environment = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"}

    def run(self, command: str, *arguments: str) -> str:
        done = subprocess.run(
            [self.program, command, "-config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env=self.environment,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def restore(self, output: Path, *more: str) -> Path:
        self.run("restore", "-o", str(output), *more, str(self.database))
        return output

    def listing(self) -> list[dict[str, Any]]:
        return json.loads(self.run("ltx", "-level", "all", "-json", str(self.database))) or []

    def daemon(self) -> subprocess.Popen[bytes]:
        """It replicates, compacts and deletes every second."""
        with (self.folder / "litestream.log").open("wb") as log:
            command = [self.program, "replicate", "-config", str(self.brisk)]
            return subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)


def assert_read_by_us(place: Place, folder: Path, newest: str, middle: str, txid: TXID, moment: datetime) -> None:
    """The newest state and an earlier one, named by TXID and by time: restored, and queried in place."""
    for number, (options, wanted) in enumerate(
        [({}, newest), ({"txid": txid}, middle), ({"timestamp": moment}, middle)]
    ):
        with Replica(place.open()) as replica:
            restore(replica, folder / f"ours-{number}.db", **options)  # type: ignore[arg-type]
        assert content(folder / f"ours-{number}.db") == wanted, options
    assert queried(place) == newest
    assert queried(place, txid=f"{txid:016x}") == middle
    assert queried(place, time=moment) == middle


def test_what_litestream_writes_we_restore_and_query(
    place: Place, litestream: str, database: Path, tmp_path: Path
) -> None:
    other = Litestream(litestream, tmp_path, place, database)
    with Replica(place.open()) as replica:
        daemon = other.daemon()
        try:
            wait_for(lambda: [*replica.files(0)] or [*replica.files(9)], "a first file")
            commit_large(database, place)

            def aged() -> bool:
                commit(database)
                files = replica.all_files()
                return all(files.get(level) for level in (0, 1, 2, 9)) and min(files[0]).min_txid > 2

            wait_for(aged, "every level filled and level 0 thinned out")
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)
        commit(database)
        other.run("replicate", "-once")
        middle, txid = content(database), max(f.max_txid for f in replica.files(0))
        moment = next_whole_second()
        commit(database)
        other.run("replicate", "-once")
        ours = {(f.level, f.name): f for files in replica.all_files().values() for f in files}
        theirs = {(row["level"], f"{row['min_txid']}-{row['max_txid']}.ltx"): row for row in other.listing()}
        assert ours.keys() == theirs.keys()
        for key, info in ours.items():
            assert info.size == theirs[key]["size"]
            if place.name in ("gcs", "azurite"):  # where its own listing has the exact time
                assert info.exact_time
                assert info.created_at is not None
                listed = datetime.fromisoformat(theirs[key]["timestamp"])
                assert info.created_at.replace(microsecond=0) == listed, "it shows whole seconds"
    assert_read_by_us(place, tmp_path, content(database), middle, txid, moment)


def test_what_our_service_writes_litestream_restores(
    place: Place, litestream: str, database: Path, tmp_path: Path
) -> None:
    other = Litestream(litestream, tmp_path, place, database)
    events: list[Event] = []
    quick = Settings(sync_interval=timedelta(seconds=0.05))

    def seen() -> set[tuple[str, int]]:
        found = set()
        for event in [*events]:
            if isinstance(event, (Compacted, SnapshotTaken)):
                found.add(("made", event.info.level))
            elif isinstance(event, Retired):
                found |= {("deleted", info.level) for info in event.result.deleted}
        return found

    with Service(ServiceSettings(database=quick, maintenance=BRISK), observer=events.append) as service:
        service.register(database, lambda: Replica(place.open()))
        commit_large(database, place)
        wanted = {("made", 1), ("made", 2), ("made", 9), ("deleted", 0), ("deleted", 1), ("deleted", 9)}

        def aged() -> bool:
            commit(database)
            return seen() >= wanted

        wait_for(aged, f"{wanted}, events {events[-5:]}")
    with Service(ServiceSettings(database=quick)) as service:  # started again, nothing is merged any more
        service.register(database, lambda: Replica(place.open()))
        commit(database)
        txid, middle = service.sync(database), content(database)
        moment = next_whole_second()
        commit(database)
        last = service.sync(database)
    rows = other.listing()
    assert {row["max_txid"] for row in rows if row["level"] == 0} >= {f"{last:016x}", f"{txid:016x}"}
    newest, stamp = content(database), moment.isoformat().replace("+00:00", "Z")
    assert content(other.restore(tmp_path / "newest.db")) == newest
    assert content(other.restore(tmp_path / "earlier.db", "-txid", f"{txid:016x}")) == middle
    assert content(other.restore(tmp_path / "timed.db", "-timestamp", stamp)) == middle
    assert_read_by_us(place, tmp_path, newest, middle, txid, moment)


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
        assert keys == [f"{unwrap(replica.store).settings.path}/{replica.key(info)}"]  # type: ignore[attr-defined]
        restore(replica, tmp_path / "restored.db")
        replica.write(0, 2, 2, replica.stream(info), timestamp=1_700_000_000_000)
        assert [f.max_txid for f in replica.files(0)] == [1, 2]
    assert content(tmp_path / "restored.db") == content(database)
