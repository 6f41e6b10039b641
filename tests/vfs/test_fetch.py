"""The fetch engine under SQLite: exact request ceilings, right answers with every mode, budget and fault."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.vfs.replicas import increment, make_database, snapshot
from tests.vfs.shim import connect, view_of
from vfsstream.errors import DeadlineExceeded, LtxError, NotFound, StoreError
from vfsstream.replica import Replica
from vfsstream.stores.base import Fetched
from vfsstream.vfs.escalate import Link
from vfsstream.vfs.fetch import FetchEngine
from vfsstream.vfs.options import Options
from vfsstream.vfs.planner import MODES

ROWS = 20_000


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return make_database(tmp_path_factory.mktemp("db") / "db", ROWS)


@pytest.fixture(scope="module")
def fragmented(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return make_database(tmp_path_factory.mktemp("db") / "db", ROWS, fragmented=True)


def settle(engine: FetchEngine) -> None:
    """Wait until nothing is under way."""
    end = time.monotonic() + 60
    quiet = 0
    while quiet < 5 and time.monotonic() < end:
        quiet = 0 if engine._flights or engine.transfer._active or engine.transfer.pool._jobs else quiet + 1
        time.sleep(0.01)


def gets(replica: Replica) -> int:
    return sum(1 for operation, _ in replica.store.calls if operation == "get")  # type: ignore[attr-defined]


def slow_store(replica: Replica, seconds: float) -> None:
    """Every read of the store takes so long: what is fetched ahead does not come for nothing."""
    replica.store.fault = lambda operation, key: time.sleep(seconds)  # type: ignore[attr-defined]


class Steady(Link):
    """20 ms and 100 MB/s, whatever the store in memory does on a busy machine: what is cheaper depends on it."""

    __slots__ = ()

    def small(self, seconds: float) -> None: ...
    def large(self, size: int, seconds: float) -> None: ...


def test_a_full_scan_is_a_few_ranges(ordered: list[bytes]) -> None:
    replica = snapshot(ordered)
    with connect(replica) as (db, engine):
        settle(engine)
        before = gets(replica)
        assert db.execute("SELECT count(*) FROM t").get == ROWS
        db.execute("SELECT sum(length(body)) FROM t").fetchall()
        settle(engine)
        assert gets(replica) - before <= min(40, len(ordered) // 50)


def test_consecutive_rows_take_at_most_twelve_requests(ordered: list[bytes]) -> None:
    replica = snapshot(ordered)
    with connect(replica) as (db, engine):
        settle(engine)
        before = gets(replica)
        assert len(db.execute("SELECT * FROM t WHERE id BETWEEN 9000 AND 10000").fetchall()) == 1001
        settle(engine)
        assert gets(replica) - before <= 12


@pytest.mark.parametrize("mode", ["auto", "btree"])
def test_a_lookup_takes_one_request_once_interior_pages_are_known(ordered: list[bytes], mode: str) -> None:
    replica = snapshot(ordered)
    with connect(replica, prefetch=mode) as (db, engine):
        settle(engine)
        wanted = random.Random(5).sample(range(ROWS), 110)
        for rowid in wanted[:10]:  # as many as it takes for the interior pages to be worth having
            db.execute("SELECT id FROM t WHERE id = ?", (rowid,)).fetchall()
        settle(engine)
        for rowid in wanted[10:]:
            before = gets(replica)
            assert db.execute("SELECT id FROM t WHERE id = ?", (rowid,)).get == rowid
            assert gets(replica) - before <= 1


def test_random_lookups_read_little_more_than_their_pages(ordered: list[bytes]) -> None:
    replica = snapshot(ordered)
    with connect(replica, cache_size=200 << 20) as (db, engine):
        settle(engine)
        view = view_of(replica)
        before = engine.transfer.counts["bytes"]
        known = set(engine.cache._entries)
        for rowid in random.Random(6).sample(range(ROWS), 1000):
            db.execute("SELECT body FROM t WHERE id = ?", (rowid,)).fetchall()
        asked = set(engine.cache._entries) - known
        own = sum(view.find(pgno).size for pgno, _ in asked)  # type: ignore[union-attr]
        assert engine.transfer.counts["bytes"] - before <= 3 * own


def test_random_lookups_in_large_pages_read_little_more_than_these(tmp_path: Path) -> None:
    """Among a few hundred leaves the neighbour of one read before is met by chance."""
    pages = make_database(tmp_path / "db", 60_000, 65536)
    replica = snapshot(pages)
    with connect(replica, cache_size=200 << 20) as (db, engine):
        settle(engine)
        view = view_of(replica)
        before = engine.transfer.counts["bytes"]
        known = set(engine.cache._entries)
        for rowid in random.Random(6).sample(range(60_000), 100):
            db.execute("SELECT body FROM t WHERE id = ?", (rowid,)).fetchall()
        settle(engine)
        asked = set(engine.cache._entries) - known
        own = sum(view.find(pgno).size for pgno, _ in asked)  # type: ignore[union-attr]
        assert engine.transfer.counts["bytes"] - before <= 1.5 * own


def test_a_fragmented_range_is_fetched_in_key_order(fragmented: list[bytes]) -> None:
    replica = snapshot(fragmented)
    with connect(replica) as (db, engine):
        engine.transfer.link = Steady()
        settle(engine)
        before = gets(replica)
        waits = engine._counts["waits"]
        assert len(db.execute("SELECT * FROM t WHERE id BETWEEN 9000 AND 10110").fetchall()) == 1111
        settle(engine)
        assert engine._counts["waits"] - waits <= 24
        assert gets(replica) - before <= 90  # 54 to 75, by the order in which background answers come


def test_a_fragmented_scan_is_streamed(fragmented: list[bytes]) -> None:
    replica = snapshot(fragmented)
    slow_store(replica, 0.01)
    with connect(replica) as (db, engine):
        settle(engine)
        assert db.execute("SELECT count(*), sum(length(body)) FROM t").fetchall()[0][0] == ROWS
        leaves = len(fragmented)
        assert engine.transfer.counts["gets"] < leaves / 4


def test_point_lookups_of_their_own_transactions_never_stream(fragmented: list[bytes]) -> None:
    replica = snapshot(fragmented)
    slow_store(replica, 0.002)
    with connect(replica) as (db, engine):
        settle(engine)
        for rowid in random.Random(7).sample(range(ROWS), 300):
            db.execute("SELECT body FROM t WHERE id = ?", (rowid,)).fetchall()
        assert engine.stats()["streams"] == 0


def test_an_index_leads_to_scattered_rows_side_by_side(ordered: list[bytes]) -> None:
    replica = snapshot(ordered)
    with connect(replica, prefetch="btree") as (db, engine):
        settle(engine)
        waits = engine._counts["waits"]
        found = db.execute("SELECT body FROM t WHERE name BETWEEN 'name 00009000' AND 'name 00009304'").fetchall()
        assert len(found) == 305
        assert engine._counts["waits"] - waits < 120


TINY = {"cache_size": 1, "window_budget": 1}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("budgets", [{}, TINY], ids=["default", "tiny"])
@pytest.mark.parametrize("shape", ["ordered", "fragmented"])
def test_every_mode_gives_the_right_answers(
    mode: str, budgets: dict[str, int], shape: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pages = make_database(tmp_path / "db", 1500, 1024, fragmented=shape == "fragmented")
    plain = apsw.Connection(str(tmp_path / "db"))
    queries = [
        "SELECT count(*), sum(length(body)), sum(id) FROM t",
        "SELECT body FROM t WHERE id BETWEEN 500 AND 700",
        "SELECT body FROM t WHERE name > 'name 00001200' ORDER BY name DESC",
        "SELECT a.id, b.id FROM t a JOIN t b ON b.id = (a.id * 31) % 1500 WHERE a.id < 300",
        "PRAGMA integrity_check",
    ]
    with connect(snapshot(pages), prefetch=mode, **budgets) as (db, engine):
        for query in queries:
            assert db.execute(query).fetchall() == plain.execute(query).fetchall()
        assert engine.cache.size <= max(budgets.get("cache_size", 10 << 20), 1024 + 200)
    plain.close()


def test_pages_in_many_files_are_found(tmp_path: Path) -> None:
    pages = make_database(tmp_path / "db", 3000, 1024)
    replica = snapshot(pages)
    for txid in range(2, 30):
        changed = {n: pages[n - 1] for n in range(txid, len(pages) + 1, 30)}
        increment(replica, len(pages), changed, txid)
    with connect(replica) as (db, _):
        assert db.execute("PRAGMA integrity_check").get == "ok"


def test_threads_share_requests(ordered: list[bytes]) -> None:
    replica = snapshot(ordered)
    view = view_of(replica)
    engine = FetchEngine(replica, Options(replica_url="memory:", prefetch="off"))
    slow_store(replica, 0.05)
    before = gets(replica)
    barrier, results = threading.Barrier(8), []

    def read() -> None:
        barrier.wait(30)
        results.append(engine.read(view, 100, lambda: None))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [ordered[99]] * 8
    assert gets(replica) - before == 1
    engine.close()


Change = Callable[[Fetched], Fetched]


def spoiled(replica: Replica, changes: list[Change | Exception]) -> None:
    """The next reads of the store go wrong in these ways."""
    real = replica.store.fetch

    def fetch(key: str, offset: int = 0, size: int | None = None) -> Fetched:
        found = real(key, offset, size)
        if changes and offset:
            change = changes.pop(0)
            if isinstance(change, Exception):
                raise change
            return change(found)
        return found

    replica.store.fetch = fetch  # type: ignore[method-assign]


def shifted(fetched: Fetched) -> Fetched:
    return Fetched(fetched.data[3:] + b"abc")


def shortened(fetched: Fetched) -> Fetched:
    return Fetched(fetched.data[:-5])


@pytest.mark.parametrize("mode", MODES)
def test_wrong_short_and_failing_answers_are_asked_again(ordered: list[bytes], mode: str) -> None:
    replica = snapshot(ordered)
    view = view_of(replica)
    spoiled(replica, [shifted, shortened, StoreError("busy", retryable=True), shortened, shifted])
    engine = FetchEngine(replica, Options(replica_url="memory:", prefetch=mode))
    for pgno in (500, 501, 502, 700, 20):
        assert engine.read(view, pgno, lambda: None) == ordered[pgno - 1]
    engine.close()


def test_lasting_damage_is_named(ordered: list[bytes]) -> None:
    replica = snapshot(ordered)
    view = view_of(replica)
    spoiled(replica, [shifted] * 1000)  # type: ignore[list-item]
    engine = FetchEngine(replica, Options(replica_url="memory:"))
    with pytest.raises(LtxError, match="ltx"):
        engine.read(view, 500, lambda: None)
    engine.close()


def test_errors_that_do_not_pass_are_raised_at_once(ordered: list[bytes]) -> None:
    replica = snapshot(ordered)
    view = view_of(replica)
    engine = FetchEngine(replica, Options(replica_url="memory:"))
    spoiled(replica, [NotFound("x"), StoreError("forbidden")])
    with pytest.raises(NotFound):
        engine.read(view, 500, lambda: None)
    with pytest.raises(StoreError, match="forbidden"):
        engine.read(view, 500, lambda: None)
    assert engine.read(view, 500, lambda: None) == ordered[499]
    engine.close()


def test_a_server_that_does_not_answer_meets_the_deadline(ordered: list[bytes]) -> None:
    replica = snapshot(ordered)
    view = view_of(replica)
    stop = threading.Event()
    replica.store.fault = lambda operation, key: stop.wait(30)  # type: ignore[attr-defined]
    engine = FetchEngine(replica, Options(replica_url="memory:", deadline=0.3))
    with pytest.raises(DeadlineExceeded, match="page 500 of"):
        engine.read(view, 500, lambda: None)
    stop.set()
    engine.close()


def test_a_failing_server_is_named_when_the_deadline_passes(ordered: list[bytes]) -> None:
    replica = snapshot(ordered)
    view = view_of(replica)
    spoiled(replica, [StoreError("503 slow down", retryable=True)] * 1000)  # type: ignore[list-item]
    engine = FetchEngine(replica, Options(replica_url="memory:", deadline=0.5))
    with pytest.raises(StoreError, match="503 slow down"):
        engine.read(view, 500, lambda: None)
    engine.close()


def test_the_wait_can_be_interrupted(ordered: list[bytes]) -> None:
    replica = snapshot(ordered)
    view = view_of(replica)
    stop = threading.Event()
    replica.store.fault = lambda operation, key: stop.wait(30)  # type: ignore[attr-defined]
    engine = FetchEngine(replica, Options(replica_url="memory:"))

    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.read(view, 500, check)
    stop.set()
    engine.close()


def test_closing_joins_the_threads(ordered: list[bytes]) -> None:
    with connect(snapshot(ordered)) as (db, engine):
        db.execute("SELECT count(*) FROM t").fetchall()
        assert any(t.name.startswith("vfsstream-fetch") for t in threading.enumerate())
    assert not any(t in threading.enumerate() for t in engine.transfer.pool._threads)


def test_memory_stays_within_the_budgets(ordered: list[bytes]) -> None:
    with connect(snapshot(ordered), cache_size=1 << 20, window_budget=3 << 20) as (db, engine):
        db.execute("SELECT sum(length(body)) FROM t").fetchall()
        assert engine.cache.size <= 1 << 20
        assert engine.windows.size <= 3 << 20
        assert engine.windows.wasted < 1 << 20


def test_a_stream_that_finds_no_room_gives_way_to_single_reads(
    fragmented: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = snapshot(fragmented)
    slow_store(replica, 0.005)

    def refuse(*_: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr("vfsstream.vfs.spill.Spill.store", refuse)
    with connect(replica, bulk_max_bytes=1 << 30) as (db, engine):
        settle(engine)
        engine.streaming.begin(view_of(replica))
        assert db.execute("SELECT count(*) FROM t").get == ROWS
        assert engine.streaming.refused


def test_two_readers_that_begin_to_stream_at_once_leave_no_file_open(fragmented: list[bytes]) -> None:
    replica = snapshot(fragmented)
    with connect(replica) as (_, engine):
        settle(engine)
        before = len(os.listdir("/dev/fd"))
        for _ in range(5):
            engine.streaming.begin(view_of(replica))
        settle(engine)
        assert len(os.listdir("/dev/fd")) == before + 1
        assert engine.stats()["streams"] == 1


def test_a_streamed_database_needs_no_more_requests(fragmented: list[bytes]) -> None:
    replica = snapshot(fragmented)
    with connect(replica, cache_size=1) as (db, engine):
        settle(engine)
        engine.streaming.begin(view_of(replica))
        assert engine.streaming.spill is not None
        for flight in engine.streaming.spill.flights:
            assert flight.settle(30)
        before = engine.transfer.counts["gets"]
        assert db.execute("PRAGMA integrity_check").get == "ok"
        assert engine.transfer.counts["gets"] == before


def test_what_streamed_by_wrong_is_asked_for_again(fragmented: list[bytes]) -> None:
    replica = snapshot(fragmented)
    view = view_of(replica)
    engine = FetchEngine(replica, Options(replica_url="memory:", cache_size=1, prefetch="bulk"))
    spoiled(replica, [shifted] * 10)  # type: ignore[list-item]
    engine.streaming.begin(view)
    assert engine.streaming.spill is not None
    for flight in engine.streaming.spill.flights:
        assert flight.settle(30)
    replica.store.fetch = type(replica.store).fetch.__get__(replica.store)  # type: ignore[method-assign]
    for pgno in (300, 20, 301, 500):
        assert engine.read(view, pgno, lambda: None) == fragmented[pgno - 1]
    engine.close()


def test_locks_held_at_a_fork_do_not_bind_the_child(ordered: list[bytes]) -> None:
    replica = snapshot(ordered)
    view = view_of(replica)
    engine = FetchEngine(replica, Options(replica_url="memory:"))
    for lock in (engine._lock, engine.cache._lock, engine.windows._lock, engine.transfer._lock):
        lock.acquire()
    engine.after_fork()
    assert engine.read(view, 500, lambda: None) == ordered[499]
    engine.close()


def test_a_disk_cache_serves_the_next_engine(ordered: list[bytes], tmp_path: Path) -> None:
    replica = snapshot(ordered)
    with connect(replica, cache_dir=str(tmp_path)) as (db, engine):
        first = db.execute("SELECT sum(length(body)) FROM t").get
        settle(engine)
    with connect(replica, cache_dir=str(tmp_path)) as (db, engine):
        settle(engine)
        assert db.execute("SELECT sum(length(body)) FROM t").get == first
        assert engine.transfer.counts["gets"] <= 2
