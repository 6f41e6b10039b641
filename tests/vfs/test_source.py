"""One read per page: shared while it is under way, and nothing of it left once it has ended."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from tests.vfs.replicas import make_database, snapshot
from tests.vfs.shim import view_of
from vfsstream.errors import DeadlineExceeded, Interrupted, NotFound, StoreError
from vfsstream.replica import Replica
from vfsstream.stores.base import Fetched
from vfsstream.stores.memory import MemoryStore
from vfsstream.stores.retry import RetryPolicy, RetryStore
from vfsstream.vfs.source import SimpleSource


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return make_database(tmp_path_factory.mktemp("db") / "db", 300)


def nothing() -> None:
    pass


def test_without_a_cache_every_read_asks_the_store(pages: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the thread that fetched is held up just then: no answer outlives its read."""
    replica = snapshot(pages)
    view = view_of(replica)
    source = SimpleSource(replica, cache_size=0, deadline=30)
    landed = source._landed

    def held_up(*arguments: object) -> None:
        time.sleep(0.2)
        landed(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(source, "_landed", held_up)
    for count in (1, 2, 3):
        assert source.read(view, 5, nothing) == pages[4]
        assert source.stats()["gets"] == count
    source.close()


def test_readers_of_one_page_share_one_read(pages: list[bytes]) -> None:
    replica = snapshot(pages)
    view = view_of(replica)
    source = SimpleSource(replica, cache_size=1 << 20, deadline=30)
    fetch, gate = replica.store.fetch, threading.Event()
    replica.store.fetch = lambda *a: gate.wait(30) and fetch(*a)  # type: ignore[method-assign,assignment,return-value]
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(source.read(view, 5, nothing))) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert found == [pages[4]] * 8
    assert source.stats()["gets"] == 1
    source.close()


def test_the_deadline_names_the_last_failure(pages: list[bytes]) -> None:
    replica = snapshot(pages)
    view = view_of(replica)
    source = SimpleSource(replica, cache_size=0, deadline=0.3)

    def fail(*_: object) -> None:
        raise StoreError("no route to the store", retryable=True)

    replica.store.fetch = fail  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreError, match="no route to the store"):
        source.read(view, 5, nothing)
    source.close()


def test_closing_ends_waits(pages: list[bytes]) -> None:
    replica = snapshot(pages)
    view = view_of(replica)
    source = SimpleSource(replica, cache_size=0, deadline=60)
    gate = threading.Event()
    replica.store.fetch = lambda *_: gate.wait(60)  # type: ignore[method-assign,assignment,return-value]
    failures: list[BaseException] = []

    def read() -> None:
        try:
            source.read(view, 5, nothing)
        except (Interrupted, DeadlineExceeded) as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.1)
    started = time.monotonic()
    source.close()
    thread.join(30)
    assert time.monotonic() - started < 20
    assert [type(failure) for failure in failures] == [Interrupted]
    gate.set()


def test_a_read_of_another_view_that_found_its_file_gone_is_not_ours(pages: list[bytes]) -> None:
    """Both show the same version of the page, one in a file that was removed, the other in one that is there."""
    replica = snapshot(pages)
    old = view_of(replica)
    (first,) = replica.files(9)
    body = replica.fetch(first).data
    moved = replica.write(8, first.min_txid, first.max_txid, body, timestamp=1_700_000_000_000)
    new = replace(old, files=[moved])
    source = SimpleSource(replica, cache_size=0, deadline=30)
    fetch, gate, asked = replica.store.fetch, threading.Event(), threading.Event()

    def gone(key: str, offset: int = 0, size: int | None = None) -> Fetched:
        if key == replica.key(first):
            asked.set()
            gate.wait(30)
            raise NotFound(key)
        return fetch(key, offset, size)

    replica.store.fetch = gone  # type: ignore[method-assign]
    lost: list[str] = []

    def read_old() -> None:
        try:
            source.read(old, 5, nothing)
        except NotFound as error:
            lost.append(error.key)

    thread = threading.Thread(target=read_old)
    thread.start()
    assert asked.wait(30)
    timer = threading.Timer(0.2, gate.set)
    timer.start()
    assert source.read(new, 5, nothing) == pages[4]
    thread.join(30)
    timer.join()
    assert lost == [replica.key(first)]
    source.close()


def test_a_store_that_tries_again_for_long_does_so_within_the_deadline(pages: list[bytes]) -> None:
    """And its reason is told: who waits must not be left with the news that time has passed."""
    inner = MemoryStore()
    replica = snapshot(pages, store=inner)
    view = view_of(replica)
    patient = RetryPolicy(attempts=100, base_delay=20, max_delay=20, deadline=60)
    source = SimpleSource(Replica(RetryStore(inner, patient)), cache_size=0, deadline=1)

    def fail(*_: object) -> None:
        raise StoreError("no route to the store", retryable=True)

    inner.fault = fail
    started = time.monotonic()
    with pytest.raises(StoreError, match="no route to the store"):
        source.read(view, 5, nothing)
    assert time.monotonic() - started < 10
    source.close()
