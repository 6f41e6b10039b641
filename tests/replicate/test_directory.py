"""Every database of a directory, those that come and go included."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path, PurePath

import apsw
import pytest

from vfsstream.errors import UsageError
from vfsstream.plan.retention import RetentionPolicy
from vfsstream.replica import Replica
from vfsstream.replicate.directory import (
    DirectorySettings,
    DirectoryWatcher,
    is_database,
    join_url,
    meta_dir_in,
    scan,
)
from vfsstream.replicate.restore import restore
from vfsstream.replicate.service import Service
from vfsstream.replicate.servicestatus import ServiceSettings
from vfsstream.replicate.timetable import MaintenanceSettings

FAST = MaintenanceSettings(
    levels=(timedelta(seconds=1), timedelta(seconds=3)),
    snapshot_interval=timedelta(seconds=5),
    l0_check_interval=timedelta(seconds=1),
    retention=RetentionPolicy(l0=timedelta(seconds=2), snapshots=timedelta(seconds=20)),
)


def make(path: Path, rows: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = apsw.Connection(str(path))
    connection.execute("pragma journal_mode=wal").fetchall()
    connection.execute("create table if not exists t(x)")
    for _ in range(rows):
        connection.execute("insert into t values (randomblob(200))")
    connection.close()


def count(path: Path) -> int:
    """Rows of the table; -1 where it is missing: a writer that unlinks its log loses what was only there."""
    connection = apsw.Connection(str(path))
    try:
        if not connection.table_exists(None, "t"):
            return -1
        return int(connection.execute("select count(*) from t").fetchall()[0][0])
    finally:
        connection.close()


def eventually(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_scan(tmp_path: Path) -> None:
    for name in ("a.db", "b.DB", "sub/c.db", "sub/.c.db-litestream/d.db"):
        make(tmp_path / name)
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("no database here, but long enough")
    shutil.copy(tmp_path / "a.db", tmp_path / "a.db-wal")
    (tmp_path / "dir.db").mkdir()
    os.mkfifo(tmp_path / "fifo.db")
    assert scan(tmp_path, "*.db") == [tmp_path / "a.db"]
    assert scan(tmp_path, "*.db", recursive=True) == [tmp_path / "a.db", tmp_path / "sub" / "c.db"]
    assert scan(tmp_path, "*", recursive=True)[-2:] == [tmp_path / "b.DB", tmp_path / "sub" / "c.db"]
    assert scan(tmp_path, "[^a].*") == [tmp_path / "b.DB"]


def test_scan_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read directory"):
        scan(tmp_path / "none", "*.db")


def test_looking_at_a_database_keeps_the_locks_of_a_connection(tmp_path: Path) -> None:
    make(tmp_path / "a.db")
    connection = apsw.Connection(str(tmp_path / "a.db"))
    connection.execute("pragma journal_mode=delete").fetchall()
    connection.execute("begin exclusive")
    try:
        assert is_database(tmp_path / "a.db")
        code = f"import sqlite3; sqlite3.connect({str(tmp_path / 'a.db')!r}, timeout=0).execute('begin immediate')"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "locked" in other.stderr
    finally:
        connection.execute("rollback")
        connection.close()


def test_urls_and_local_directories() -> None:
    assert join_url("s3://b/p/?region=x", PurePath("sub/a.db")) == "s3://b/p/sub/a.db?region=x"
    assert join_url("file:///r", PurePath("a.db")) == "file:///r/a.db"
    assert meta_dir_in(Path("/m"), PurePath("sub/a.db")) == Path("/m/sub/.a.db-litestream")


@pytest.mark.parametrize("pattern", ["", "x/*.db"])
def test_impossible_patterns(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pattern"):
        DirectorySettings(tmp_path, pattern)


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service(ServiceSettings(maintenance=FAST))
    service.start()
    yield service
    service.close()


def watcher(service: Service, root: Path, **options: object) -> DirectoryWatcher:
    settings = DirectorySettings(root / "data", "*.db", interval=0.05, **options)  # type: ignore[arg-type]
    (root / "data").mkdir(exist_ok=True)
    return DirectoryWatcher(service, settings, lambda relative: join_url(f"file://{root}/replica", relative))


def test_nothing_there_and_not_watching_is_an_error(service: Service, tmp_path: Path) -> None:
    with watcher(service, tmp_path) as one, pytest.raises(UsageError, match=r"no database in .* matches \*.db"):
        one.start(watch=False)


def test_databases_come_and_go(service: Service, tmp_path: Path) -> None:
    data = tmp_path / "data"
    make(data / "first.db")
    with watcher(
        service, tmp_path, recursive=True, meta_dir=lambda rel: meta_dir_in(tmp_path / "meta", rel)
    ) as one:
        one.start()
        assert one.managed == [data / "first.db"]
        make(data / "deep" / "er" / "second.db", 3)
        (data / "late.db").touch()
        eventually(lambda: len(one.managed) == 2, "a database in a new directory is not noticed")
        make(data / "late.db")
        eventually(lambda: len(one.managed) == 3, "an empty file that becomes a database is not noticed")
        service.sync(data / "deep" / "er" / "second.db")
        restore(Replica.open(f"file://{tmp_path}/replica/deep/er/second.db"), tmp_path / "out.db")
        assert count(tmp_path / "out.db") == 3
        assert (tmp_path / "meta" / "deep" / "er" / ".second.db-litestream").is_dir()
        os.rename(data / "first.db", data / "renamed.db")
        shutil.rmtree(data / "deep")
        renamed = [data / "late.db", data / "renamed.db"]
        eventually(lambda: one.managed == renamed, "rename and removal are not noticed")
        eventually(lambda: service.paths == [str(path) for path in renamed], "what is gone stays registered")


def churn(service: Service, root: Path, databases: int, seconds: float) -> None:
    """Databases appear, are written, disappear and come back, all under one service; every one restores equal."""
    data = root / "data"
    data.mkdir()
    script = """
import sqlite3, sys, time, random, os
data, number, databases, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
end = time.time() + seconds
random.seed(number)
while time.time() < end:
    name = os.path.join(data, f"{random.randrange(number, databases, 2)}.db")
    connection = sqlite3.connect(name, timeout=30)
    connection.execute("pragma journal_mode=wal")
    connection.execute("create table if not exists t(x)")
    for _ in range(random.randrange(1, 4)):
        with connection:
            connection.execute("insert into t values (randomblob(?))", (random.randrange(3000),))
    connection.close()
    if random.random() < 0.1:
        sides = [side for side in ("", "-wal", "-shm") if os.path.exists(name + side)]
        for side in sides:  # the database first: nobody may open it without its log
            os.rename(name + side, name + ".away" + side)
        time.sleep(0.05)
        for side in reversed(sides):
            os.rename(name + ".away" + side, name + side)
    time.sleep(0.005)
"""
    with watcher(service, root) as one:
        one.start()
        writers = [
            subprocess.Popen([sys.executable, "-c", script, str(data), str(n), str(databases), str(seconds)])
            for n in (0, 1)
        ]
        assert [writer.wait(seconds + 120) for writer in writers] == [0, 0]
        found = sorted(data.glob("*.db"))
        assert len(found) >= databases * 0.8
        eventually(lambda: one.managed == found, "not every database is managed", 120)
        eventually(lambda: len(service.paths) == len(found), "not every database is registered", 120)
    result = service.close(time.monotonic() + 120)
    assert result.uploaded, [one.error for one in result.databases.values() if one.error]
    for path in found:
        out = root / "out" / path.name
        out.parent.mkdir(exist_ok=True)
        restore(Replica.open(f"file://{root}/replica/{path.name}"), out, integrity_check="full")
        assert count(out) == count(path), path


@pytest.mark.slow
def test_a_hundred_databases_under_one_service(service: Service, tmp_path: Path) -> None:
    churn(service, tmp_path, 100, 10)


@pytest.mark.soak
@pytest.mark.parametrize("databases", [100, 1000])
def test_databases_come_and_go_for_ten_minutes(service: Service, tmp_path: Path, databases: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 8 * databases:
        pytest.skip(f"{databases} databases need {8 * databases} open files, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    churn(service, tmp_path, databases, 600)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
