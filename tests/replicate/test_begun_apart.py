"""A database that was captured before its replica was looked at, as after a restore to an empty volume."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from vfsstream.replica import Replica
from vfsstream.replicate.database import Database
from vfsstream.replicate.restore import restore


def write(path: Path, *values: object) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = wal")
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t(x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
    connection.close()


def values(path: Path) -> list[object]:
    connection = apsw.Connection(str(path))
    try:
        return [value for (value,) in connection.execute("SELECT x FROM t")]
    finally:
        connection.close()


@pytest.mark.parametrize("before", [1, 4])
@pytest.mark.parametrize("captured", [1, 3, 6])
@pytest.mark.parametrize("base_only", [False, True])
def test_it_goes_on_above_the_replica(tmp_path: Path, before: int, captured: int, base_only: bool) -> None:
    """However the numbers collide: ``before`` TXIDs in the replica, ``captured`` locally before the first contact."""
    url = f"file://{tmp_path}/replica"
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    with Database(first, url) as database:
        for number in range(before):
            write(first, number)
            database.sync_and_wait()
    with Replica.open(url) as replica:
        restore(replica, second)
        if base_only:
            from vfsstream.replicate.compactor import Compactor

            files = list(replica.files(0))
            Compactor(replica).snapshot(files)
            replica.delete(files)
    with Database(second, url) as database:
        for number in range(captured):
            write(second, f"new {number}")
            database.sync()
        reached = database.sync_and_wait()
        assert not (database.meta_dir / "vfsstream" / "unmet").exists()
        if database.needs_snapshot:
            from vfsstream.replicate.snapshot import snapshot_from_database

            database.snapshot_written(snapshot_from_database(database).max_txid)
    with Replica.open(url) as replica:
        result = restore(replica, tmp_path / "out.db", integrity_check="full")
    assert result.txid == reached > before
    assert values(tmp_path / "out.db") == [*range(before), *(f"new {number}" for number in range(captured))]


def test_a_kill_between_the_first_upload_and_its_note_costs_nothing_else(tmp_path: Path) -> None:
    url, path = f"file://{tmp_path}/replica", tmp_path / "a.db"
    write(path, 1)
    with Database(path, url) as database:
        reached = database.sync_and_wait()
        unmet = database.meta_dir / "vfsstream" / "unmet"
        assert not unmet.exists()
    unmet.touch()
    with Database(path, url) as database:
        assert database.sync_and_wait() == reached
