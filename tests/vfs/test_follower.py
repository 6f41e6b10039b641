"""The follower's thread: failures are seen and survived, news wakes it, closing does not wait."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

import vfsstream
from tests.vfs.live import wait_until
from tests.vfs.recorder import Recorder, recorder
from tests.vfs.test_defects import filled
from vfsstream.errors import StoreError
from vfsstream.replica import Replica
from vfsstream.stores.file import FileStore
from vfsstream.vfs.registry import registry

pytestmark = pytest.mark.modes


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Recorder]:
    for made in recorder(tmp_path):
        filled(made)
        yield made


def test_a_failing_store_is_told_and_survived(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    db = vfsstream.connect(primary.url, poll_interval="20ms", relist_interval="100ms")

    def fail(self: FileStore, *arguments: object) -> None:
        raise StoreError("the disk is on fire", retryable=True)

    assert db.execute("SELECT sum(v) FROM t").get == 0
    with monkeypatch.context() as broken:
        broken.setattr(FileStore, "fetch", fail)
        broken.setattr(FileStore, "list", fail)
        wait_until(lambda: json.loads(db.pragma("litestream_stats"))["follower"]["failures"] > 2)
        assert "on fire" in json.loads(db.pragma("litestream_stats"))["follower"]["last_error"]
        with pytest.raises(apsw.SQLError, match="on fire"):
            db.pragma("litestream_refresh")
        assert db.execute("SELECT sum(v) FROM t").get == 0  # what is cached stays readable
    primary.commit("UPDATE t SET v = 1")
    wait_until(lambda: db.execute("SELECT sum(v) FROM t").get == 200)
    wait_until(lambda: json.loads(db.pragma("litestream_stats"))["follower"]["last_error"] is None)
    db.close()


def test_a_gap_is_closed_by_a_snapshot(primary: Recorder) -> None:
    db = vfsstream.connect(primary.url, poll_interval="20ms", relist_interval="60ms")
    db.execute("SELECT 1 FROM t").fetchall()
    stopped = primary.txid
    hidden = primary.root / "ltx" / "hidden"
    level = primary.root / "ltx" / "0"
    level.rename(hidden)  # the reader looks away while transactions come and go
    try:
        for value in range(1, 4):
            primary.commit(f"UPDATE t SET v = {value}")
        for path in list(level.iterdir()):
            if path.name != f"{primary.txid:016x}-{primary.txid:016x}.ltx":
                path.unlink()
        for path in hidden.iterdir():
            path.rename(level / path.name)
    finally:
        hidden.rmdir()
    assert primary.txid > stopped + 1
    primary.snapshot()
    wait_until(lambda: db.execute("SELECT sum(v) FROM t").get == 600, what="the snapshot")
    db.close()


def test_news_arrives_without_being_asked_for_when_the_store_can_notify(primary: Recorder) -> None:
    if not FileStore.capabilities.can_watch:
        pytest.skip("this platform cannot watch directories")
    db = vfsstream.connect(primary.url, poll_interval="1h", relist_interval="24h")
    assert db.execute("SELECT sum(v) FROM t").get == 0
    time.sleep(0.3)
    primary.commit("UPDATE t SET v = 1")
    wait_until(lambda: db.execute("SELECT sum(v) FROM t").get == 200, 20, "the notification")
    db.close()


def test_closing_does_not_wait_for_a_poll(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    release, polling = threading.Event(), threading.Event()
    fetch = FileStore.fetch
    db = vfsstream.connect(primary.url, poll_interval="20ms")
    db.execute("SELECT 1 FROM t").fetchall()

    def hang(self: FileStore, *arguments: object) -> object:
        polling.set()
        release.wait(30)
        return fetch(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FileStore, "fetch", hang)
    assert polling.wait(20)
    started = time.monotonic()
    db.close()
    registry.close_idle()
    assert time.monotonic() - started < 5
    release.set()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "vfsstream-follower"])


def two_in_the_wrong_order(primary: Recorder) -> Path:
    """Two more transactions, of which only the second is there; returns where the first one's file is kept."""
    shown, aside = primary.replica, primary.root.with_name("aside")
    level = primary.root / "ltx" / "0"
    with Replica.open(aside.as_uri()) as primary.replica:
        primary.commit("UPDATE t SET v = 1")
        primary.commit("UPDATE t SET v = 2")
    primary.replica = shown
    first, second = (f"{txid:016x}-{txid:016x}.ltx" for txid in (primary.txid - 1, primary.txid))
    (aside / "ltx" / "0" / second).rename(level / second)
    return aside / "ltx" / "0" / first


def test_a_gap_is_noticed_without_waiting_for_a_listing_and_told(
    primary: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileStore, "watch", lambda *_: lambda: None)  # as on S3: nothing wakes the reader
    db = vfsstream.connect(primary.url, poll_interval="20ms", relist_interval="24h", max_lag="400ms")
    follower = lambda: json.loads(db.pragma("litestream_stats"))["follower"]  # noqa: E731
    two_in_the_wrong_order(primary)
    wait_until(lambda: follower()["stalled"] is not None, 30, "the notice of the stall")
    assert f"{primary.txid:016x}" in follower()["stalled"]
    with pytest.raises(apsw.SQLError, match="no file continues TXID"):
        db.pragma("litestream_refresh")
    time.sleep(0.5)
    assert follower()["lag"] > 0.4  # looks that cannot go on are no successes
    with pytest.raises(StoreError, match="no file continues TXID"):
        db.execute("SELECT sum(v) FROM t").fetchall()
    primary.snapshot()
    wait_until(lambda: follower()["stalled"] is None, 60, "the end of the stall")
    assert db.execute("SELECT sum(v) FROM t").get == 400
    wait_until(lambda: follower()["last_error"] is None)
    db.close()


def test_a_late_file_ends_the_stall(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileStore, "watch", lambda *_: lambda: None)
    db = vfsstream.connect(primary.url, poll_interval="20ms", relist_interval="24h")
    follower = lambda: json.loads(db.pragma("litestream_stats"))["follower"]  # noqa: E731
    late = two_in_the_wrong_order(primary)
    wait_until(lambda: follower()["stalled"] is not None, 30, "the notice of the stall")
    late.rename(primary.root / "ltx" / "0" / late.name)
    wait_until(lambda: db.execute("SELECT sum(v) FROM t").get == 400, 30, "the late file")
    wait_until(lambda: follower()["stalled"] is None, 30, "the end of the stall")
    db.close()


def test_after_an_outage_everything_is_listed(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Level 0 may have been pruned while the server could not be asked, and the next transaction with it."""
    monkeypatch.setattr("vfsstream.vfs.follower.SLEEP_GAP", 1.5)
    monkeypatch.setattr(FileStore, "watch", lambda *_: lambda: None)
    db = vfsstream.connect(primary.url, poll_interval="20ms", relist_interval="24h")
    follower = lambda: json.loads(db.pragma("litestream_stats"))["follower"]  # noqa: E731

    def fail(self: FileStore, *arguments: object) -> None:
        raise StoreError("no route", retryable=True)

    with monkeypatch.context() as broken:
        broken.setattr(FileStore, "fetch", fail)
        broken.setattr(FileStore, "list", fail)
        wait_until(lambda: follower()["lag"] > 2)
        primary.commit("UPDATE t SET v = 1")
        (primary.root / "ltx" / "0" / f"{primary.txid:016x}-{primary.txid:016x}.ltx").unlink()
        primary.snapshot()
    wait_until(lambda: db.execute("SELECT sum(v) FROM t").get == 200, 30, "the snapshot")
    db.close()
