"""Readers under a writer, compaction, snapshots and retention: never torn, never stalled."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

import vfsstream
from tests.servers.daemon import Daemon
from tests.vfs.live import Primary, on_s3
from vfsstream.errors import ViewExpired
from vfsstream.vfs.registry import registry

CHECK = """SELECT (SELECT n FROM counter), (SELECT ifnull(max(id), 0) FROM log), (SELECT count(*) FROM log),
           (SELECT ifnull(max(n), 0) FROM log)"""


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    made = Primary(tmp_path)
    yield made
    made.close()
    registry.close_idle()


@pytest.fixture
def bucket(tmp_path: Path, moto: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Primary]:
    """A primary whose replica is on S3."""
    yield from on_s3(tmp_path, moto, monkeypatch)
    registry.close_idle()


class Reader(threading.Thread):
    """Checks the invariant as often as it can; keeps what went wrong, and its longest standstill."""

    def __init__(self, url: str, stop: threading.Event, number: int, hold: float = 0.0, **options: str) -> None:
        super().__init__(name=f"reader-{number}")
        self.hold = hold
        self.url, self.stop, self.number, self.options = url, stop, number, options
        self.reads = self.expired = self.updates = 0
        self.torn: list[tuple[object, ...]] = []
        self.errors: list[BaseException] = []
        self.longest = 0.0

    def run(self) -> None:
        try:
            db = vfsstream.connect(self.url, poll_interval=f"{150 + 50 * self.number}ms", **self.options)
        except BaseException as error:
            self.errors.append(error)
            return
        if self.number % 2 or self.hold:
            db.pragma("cache_size", -64)
        last, moved = 0, time.monotonic()
        while not self.stop.is_set():
            try:
                row = self.check(db)
            except ViewExpired:
                self.expired += 1
                continue
            except BaseException as error:
                self.errors.append(error)
                break
            self.reads += 1
            if len(set(row)) != 1:
                self.torn.append(row)
            if row[0] != last:
                self.updates += 1
                self.longest = max(self.longest, time.monotonic() - moved)
                last, moved = row[0], time.monotonic()
        self.longest = max(self.longest, time.monotonic() - moved)
        db.close()

    def check(self, db: apsw.Connection) -> tuple[int, ...]:
        if self.hold:
            return self.check_late(db)
        if self.reads % 10:
            time.sleep(0.005)
            row: tuple[int, ...] = db.execute(CHECK).fetchall()[0]
            return row
        with db:  # a longer transaction: what it sees may not move
            first = db.execute(CHECK).fetchall()[0]
            time.sleep(0.4)
            again = db.execute(CHECK).fetchall()[0]
            return first if first == again else (*first, *again)

    def check_late(self, db: apsw.Connection) -> tuple[int, ...]:
        """A transaction that outlives its level-0 files: it sees the one state, or is told that this has expired."""
        with db:
            (first,) = db.execute("SELECT n FROM counter").fetchall()[0]  # the first read begins the transaction
            time.sleep(self.hold)
            return (first, *db.execute(CHECK).fetchall()[0])


def hammer(
    primary: Primary, litestream: str | None, seconds: float, readers: int = 8, **options: str
) -> list[Reader]:
    stop = threading.Event()
    replicating = primary.replicating_here() if litestream is None else primary.replicating(litestream)
    with replicating, primary.writing(20):
        threads = []
        for number in range(readers):
            hold = 6.5 if number == readers - 1 else 0.0
            thread = Reader(primary.url, stop, number, hold, **options)
            thread.start()
            threads.append(thread)
            time.sleep(min(0.7, seconds / 20))
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    return threads


def judge(threads: list[Reader], stall: float = 10.0) -> None:
    """Nothing torn, no error, and no standstill beyond two poll intervals, a sync and what a slow machine adds."""
    for thread in threads:
        print(
            f"{thread.name}: reads {thread.reads} updates {thread.updates} torn {len(thread.torn)}"
            f" expired {thread.expired} longest standstill {thread.longest:.2f} s errors {thread.errors}"
        )
    for thread in threads:
        assert not thread.errors, thread.errors
        assert not thread.torn, thread.torn[:3]
        if thread.hold:
            assert thread.reads + thread.expired > 0
            continue
        assert thread.reads > 10
        assert thread.updates > 3
        assert thread.longest < stall


def lasting(seconds: float) -> float:
    """How long to hammer; the environment may say otherwise."""
    return float(os.environ.get("HAMMER_SECONDS", seconds))


@pytest.mark.interop
@pytest.mark.modes
def test_readers_never_see_a_torn_state(primary: Primary, litestream: str) -> None:
    judge(hammer(primary, litestream, lasting(9)))


def test_readers_of_our_own_replicator(primary: Primary) -> None:
    judge(hammer(primary, None, lasting(8)))


@pytest.mark.interop
@pytest.mark.server
@pytest.mark.xdist_group("moto")
def test_readers_over_s3(bucket: Primary, litestream: str) -> None:
    judge(hammer(bucket, litestream, lasting(14), readers=4))


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("prefetch", ["off", "auto"])
def test_readers_never_see_a_torn_state_for_minutes(primary: Primary, litestream: str, prefetch: str) -> None:
    judge(hammer(primary, litestream, lasting(300), prefetch=prefetch))


@pytest.mark.soak
@pytest.mark.server
@pytest.mark.timeout(900)
def test_readers_over_s3_for_minutes(bucket: Primary, litestream: str) -> None:
    judge(hammer(bucket, litestream, lasting(240), readers=6))
