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
from vfsstream.stores.file import FileStore
from vfsstream.vfs.registry import registry


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
    assert json.loads(db.pragma("litestream_stats"))["follower"]["last_error"] is None
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
