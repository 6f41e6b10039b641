"""A compaction, or a snapshot, is no reason to fetch pages again that are here: exact request counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

import vfsstream
from tests.vfs.recorder import Recorder, recorder
from vfsstream.vfs.follower import Follower
from vfsstream.vfs.registry import registry
from vfsstream.vfs.vfs import file_of

ROWS = 3000
EVERYTHING = "SELECT count(*), sum(v), sum(length(body)) FROM t"


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Recorder]:
    for made in recorder(tmp_path):
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER, body TEXT)",
            *(("INSERT INTO t VALUES (?, 0, hex(randomblob(300)))", (n,)) for n in range(1, ROWS + 1)),
        )
        made.snapshot()
        for value in range(1, 4):
            made.commit(f"UPDATE t SET v = {value} WHERE id = {value * 500}")
        yield made


@pytest.fixture
def warm(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[apsw.Connection]:
    """A connection that has read everything and looks for news only when told to."""
    monkeypatch.setattr(Follower, "_watch", lambda _: None)
    db = vfsstream.connect(primary.url, poll_interval="1h", cache_size="64MB")
    assert db.execute(EVERYTHING).get is not None
    yield db
    db.close()
    registry.close_idle()


def read_bytes(db: apsw.Connection) -> int:
    return int(json.loads(db.pragma("litestream_stats"))["pages_source"]["bytes"])


def follower(db: apsw.Connection) -> Follower:
    file = file_of(db)
    assert file is not None
    assert file.database.follower is not None
    return file.database.follower


def list_everything(db: apsw.Connection, primary: Recorder) -> None:
    follower(db).refresh(lambda: None, full=True)


def look_for_snapshots(db: apsw.Connection, primary: Recorder) -> None:
    follower(db)._list_compacted(9)


def look_for_level_one(db: apsw.Connection, primary: Recorder) -> None:
    follower(db)._list_compacted(1)


def compacted(primary: Recorder, low: int) -> None:
    primary.compact(1, low, primary.txid)


def snapshot(primary: Recorder, low: int) -> None:
    primary.snapshot()


def snapshot_and_compacted(primary: Recorder, low: int) -> None:
    primary.compact(1, low, primary.txid)
    primary.delete(0, low, primary.txid)
    primary.snapshot()


@pytest.mark.parametrize(
    ("look", "appears"),
    [
        (list_everything, compacted),
        (list_everything, snapshot),
        (list_everything, snapshot_and_compacted),
        (look_for_level_one, compacted),
        (look_for_snapshots, snapshot),
    ],
)
@pytest.mark.parametrize("followed", [True, False], ids=["known before", "not known before"])
def test_what_is_here_is_not_read_again(
    primary: Recorder,
    warm: apsw.Connection,
    look: Callable[[apsw.Connection, Recorder], None],
    appears: Callable[[Recorder, int], None],
    followed: bool,
) -> None:
    low = primary.txid + 1
    for value in range(4, 7):
        primary.commit(f"UPDATE t SET v = {value} WHERE id = {value * 400}")
        if followed:
            warm.execute("PRAGMA litestream_refresh").fetchall()
            warm.execute(EVERYTHING).fetchall()
    appears(primary, low)
    before = read_bytes(warm)
    look(warm, primary)
    expected = primary.db.execute(EVERYTHING).fetchone()
    assert warm.execute(EVERYTHING).get == expected
    assert read_bytes(warm) - before <= (0 if followed else 8 * 4096)
    assert warm.pragma("litestream_txid") == f"{primary.txid:016x}"


def test_only_a_snapshot_leads_on(primary: Recorder, warm: apsw.Connection) -> None:
    """What changed in between is not known then: everything is another version."""
    primary.commit("UPDATE t SET v = 7 WHERE id = 7")
    primary.snapshot()
    primary.delete(0)
    list_everything(warm, primary)
    assert warm.execute(EVERYTHING).get == primary.db.execute(EVERYTHING).fetchone()


@pytest.mark.parametrize("what", ["a snapshot", "a compacted file"])
def test_the_next_process_finds_its_pages_after_a_compaction(
    primary: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The page images lie in other files by then, under other numbers; only what changed since is fetched."""
    monkeypatch.setattr(Follower, "_watch", lambda _: None)
    options = {"poll_interval": "1h", "cache_dir": str(tmp_path / "cache")}
    low = primary.txid + 1
    for value in range(4, 7):
        primary.commit(f"UPDATE t SET v = {value} WHERE id / 1000 = {value - 4}")
    db = vfsstream.connect(primary.url, **options)
    expected = primary.db.execute(EVERYTHING).fetchone()
    assert db.execute(EVERYTHING).get == expected
    if what == "a snapshot":
        primary.delete(9)
        primary.snapshot()
        primary.delete(0)
    else:
        primary.compact(1, low, primary.txid)
        primary.delete(0, low, primary.txid)
    list_everything(db, primary)
    assert db.execute(EVERYTHING).get == expected
    db.close()
    registry.close_idle()

    primary.commit("UPDATE t SET v = 9 WHERE id = 9")
    again = vfsstream.connect(primary.url, **options)
    before = read_bytes(again)
    assert again.execute(EVERYTHING).get == primary.db.execute(EVERYTHING).fetchone()
    assert read_bytes(again) - before <= 3 * 4096
    file = file_of(again)
    assert file is not None
    for pgno in range(2, len(primary.pages) + 1):
        assert bytes(file._page(pgno)) == primary.pages[pgno]
    again.close()
    registry.close_idle()
