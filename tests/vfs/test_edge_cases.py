"""What readers meet: every page size, injected faults, storms of commits, races, broken files, many opens."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

import vfsstream
from tests.vfs.live import wait_until
from tests.vfs.recorder import Recorder
from tests.vfs.test_defects import filled, same_as_primary
from vfsstream.errors import CorruptError, NotRestorable, StoreError, VfsstreamError
from vfsstream.ltx import PAGE_SIZES
from vfsstream.stores.base import Fetched
from vfsstream.stores.file import FileStore
from vfsstream.vfs.registry import registry

pytestmark = pytest.mark.modes

SUM = "SELECT count(*), count(DISTINCT v), max(v) FROM t"


@pytest.fixture(params=PAGE_SIZES)
def sized(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recorder]:
    """A replica of each page size."""
    made = Recorder(tmp_path, request.param, auto_vacuum=1)
    filled(made, 300)
    yield made
    made.close()
    registry.close_idle()


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Recorder]:
    made = Recorder(tmp_path)
    filled(made, 300)
    yield made
    made.close()
    registry.close_idle()


def test_a_life_at_every_page_size(sized: Recorder) -> None:
    """Updates, isolation, a tiny cache, sorts that spill, compaction, shrinking, VACUUM, a copy, and PRAGMAs."""
    db = vfsstream.connect(sized.url, poll_interval="1h", relist_interval="24h", cache_size="0")
    db.pragma("cache_size", -64)
    assert db.pragma("page_size") == sized.page_size
    assert db.pragma("journal_mode") == "delete"
    db.execute("BEGIN")
    assert db.execute(SUM).fetchall() == [(300, 1, 0)]
    sized.commit("UPDATE t SET v = 1")
    db.pragma("litestream_refresh")
    assert db.execute(SUM).fetchall() == [(300, 1, 0)]
    db.execute("COMMIT")
    assert db.execute(SUM).fetchall() == [(300, 1, 1)]
    assert len(db.execute("SELECT body || id FROM t ORDER BY body || id DESC").fetchall()) == 300
    sized.compact(1, 1, sized.txid)
    sized.delete(0)
    same_as_primary(db, sized)
    sized.commit("DELETE FROM t WHERE id > 20")
    sized.commit("VACUUM")
    db.pragma("litestream_refresh")
    same_as_primary(db, sized)
    with apsw.Connection(":memory:") as copy, copy.backup("main", db, "main") as work:
        work.step()
    assert copy.execute(SUM).fetchall() == [(20, 1, 1)]
    copy.close()
    db.close()


class Chaos:
    """One in twenty listings and reads fails, and one in twenty reads is cut short."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
        dice = random.Random(7)
        fetch, listing = FileStore.fetch, FileStore.list
        self.faults = 0

        def strike() -> bool:
            struck = dice.random() < share
            self.faults += struck
            return struck

        def bad_fetch(store: FileStore, key: str, offset: int = 0, size: int | None = None) -> Fetched:
            if strike():
                raise StoreError("injected: 500", retryable=True)
            found = fetch(store, key, offset, size)
            return Fetched(found.data[: len(found.data) // 2], found.total_size) if strike() else found

        def bad_list(store: FileStore, *arguments: str) -> object:
            if strike():
                raise StoreError("injected: listing", retryable=True)
            return listing(store, *arguments)

        monkeypatch.setattr(FileStore, "fetch", bad_fetch)
        monkeypatch.setattr(FileStore, "list", bad_list)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_faults_of_the_store_never_show_in_the_data(
    page_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = Recorder(tmp_path, page_size)
    filled(primary, 120)
    good, failed, wrong = [0], [0], []
    with monkeypatch.context() as patch:
        chaos = Chaos(patch, 0.05)

        def read(number: int) -> None:
            db = None
            while not stop.is_set():
                try:
                    if db is None:
                        db = vfsstream.connect(
                            primary.url,
                            poll_interval="5ms",
                            relist_interval="40ms",
                            cache_size="0",
                        )
                        db.pragma("cache_size", -8)
                    row = db.execute(SUM).fetchall()[0]
                except (VfsstreamError, apsw.Error):
                    failed[0] += 1
                    continue
                good[0] += 1
                if row[:2] != (120, 1):
                    wrong.append(row)
            if db is not None:
                db.close()

        stop = threading.Event()
        threads = [threading.Thread(target=read, args=(number,), name=f"reader-{number}") for number in range(16)]
        for thread in threads:
            thread.start()
        try:
            for value in range(1, 13):
                primary.commit(f"UPDATE t SET v = {value}")
                if value % 5 == 0:
                    primary.compact(1, 1, primary.txid)
                time.sleep(0.03)
            wait_until(lambda: good[0] > 40 and chaos.faults > 3, 60, "enough readings")
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
    assert not wrong
    assert failed[0] < good[0]
    db = vfsstream.connect(primary.url)
    assert db.execute(SUM).fetchall() == [(120, 1, 12)]
    same_as_primary(db, primary)
    db.close()
    primary.close()
    registry.close_idle()


@pytest.mark.remote("what is kept locally is read on, and rightly so")
def test_a_fault_fails_one_query_and_not_the_next(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    db = vfsstream.connect(primary.url, poll_interval="1h", cache_size="0", window_budget="0")
    db.pragma("cache_size", 0)
    fetch = FileStore.fetch
    answers = {
        "refused": lambda found: (_ for _ in ()).throw(StoreError("injected: 403")),
        "corrupt": lambda found: Fetched(bytes(len(found.data)), found.total_size),
        "timeout": lambda found: (_ for _ in ()).throw(TimeoutError("injected")),
    }
    for name, spoil in answers.items():
        with monkeypatch.context() as patch:
            patch.setattr(FileStore, "fetch", lambda *a, spoil=spoil: spoil(fetch(*a)))
            with pytest.raises((apsw.Error, StoreError, CorruptError, TimeoutError)):
                db.execute("SELECT sum(length(body)) FROM t").fetchall()
        assert db.execute("SELECT sum(length(body)) FROM t").get == 180000, name
    db.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_thousand_opens_leave_no_descriptor_and_no_thread(primary: Recorder) -> None:
    def once(number: int) -> None:
        fixed = {"txid": primary.txid} if number % 4 == 0 else {}  # a fixed one is a database of its own
        db = vfsstream.connect(primary.url, **fixed)
        assert db.execute("SELECT v FROM t WHERE id = 7").get == 0
        db.close()

    once(0)
    once(1)
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    most = 0
    for number in range(1000):
        once(number)
        most = max(most, len(os.listdir("/proc/self/fd")))
    assert most <= before + 16
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, 30, "the release of descriptors")
    wait_until(lambda: threading.active_count() <= threads + 1, 30, "the end of threads")


def test_a_storm_of_commits(primary: Recorder) -> None:
    """Two hundred at once: never an empty table, never backwards, and the last is seen."""
    db = vfsstream.connect(primary.url, poll_interval="5ms")
    seen, stop = [], threading.Event()

    def read() -> None:
        other = vfsstream.connect(primary.url, poll_interval="5ms")
        while not stop.is_set():
            seen.append(other.execute(SUM).fetchall()[0])
        other.close()

    thread = threading.Thread(target=read)
    thread.start()
    for value in range(1, 201):
        primary.commit(("UPDATE t SET v = ?", (value,)))
    wait_until(lambda: db.execute("SELECT max(v) FROM t").get == 200)
    stop.set()
    thread.join(60)
    assert {row[:2] for row in seen} == {(300, 1)}
    values = [row[2] for row in seen]
    assert values == sorted(values)
    db.close()


def test_a_race_of_sixty_four_readers(primary: Recorder) -> None:
    start, wrong = threading.Barrier(65), []

    def read() -> None:
        start.wait(60)
        db = vfsstream.connect(primary.url, poll_interval="5ms", cache_size="64KB")
        for _ in range(10):
            row = db.execute(SUM).fetchall()[0]
            if row[:2] != (300, 1):
                wrong.append(row)
        db.close()

    threads = [threading.Thread(target=read) for _ in range(64)]
    for thread in threads:
        thread.start()
    start.wait(60)
    for value in range(1, 20):
        primary.commit(f"UPDATE t SET v = {value}")
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert not wrong


def spoil_garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def spoil_index(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-40:] = bytes(40)
    path.write_bytes(data)


def spoil_length(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def spoil_nothing_left(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [spoil_garbage, spoil_index, spoil_length, spoil_nothing_left])
def test_a_broken_file_fails_that_open_and_harms_nobody(primary: Recorder, spoil) -> None:  # type: ignore[no-untyped-def]
    living = vfsstream.connect(primary.url, poll_interval="1h")
    assert living.execute(SUM).fetchall() == [(300, 1, 0)]
    path = primary.root / "ltx" / "0" / f"{primary.txid:016x}-{primary.txid:016x}.ltx"
    whole = path.read_bytes()
    spoil(path)
    for _ in range(2):
        with pytest.raises((CorruptError, StoreError, apsw.CorruptError)) as failure:
            vfsstream.connect(primary.url, poll_interval="2h")
        assert path.name.removesuffix(".ltx") in str(failure.value)
    path.write_bytes(whole)
    healed = vfsstream.connect(primary.url, poll_interval="2h")
    assert healed.execute(SUM).fetchall() == living.execute(SUM).fetchall()
    healed.close()
    living.close()


def test_a_missing_middle_file_fails_the_open(primary: Recorder) -> None:
    primary.commit("UPDATE t SET v = 1")
    primary.commit("UPDATE t SET v = 2")
    primary.delete(0, primary.txid - 1, primary.txid - 1)
    with pytest.raises(NotRestorable, match=r"contiguous|continues|gap|missing"):
        vfsstream.connect(primary.url)


def test_a_first_listing_that_shows_nothing(primary: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some stores show a new replica late: whoever may wait sees it."""
    listing, calls = FileStore.list, []

    def late(store: FileStore, *arguments: str) -> object:
        calls.append(arguments)
        return iter(()) if len(calls) <= 20 else listing(store, *arguments)

    monkeypatch.setattr(FileStore, "list", late)
    db = vfsstream.connect(primary.url, wait="30s", poll_interval="20ms")
    assert db.execute(SUM).fetchall() == [(300, 1, 0)]
    db.close()
