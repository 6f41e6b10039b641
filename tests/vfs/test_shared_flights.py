"""Readers of different views share requests, while the follower goes on appending files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vfs.replicas import increment, make_database, snapshot
from tests.vfs.shim import view_of
from vfsstream.errors import AccessDenied, Interrupted, NotFound, StoreError
from vfsstream.ltx import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica
from vfsstream.stores.base import Fetched
from vfsstream.vfs.fetch import FetchEngine
from vfsstream.vfs.flight import Flight
from vfsstream.vfs.options import Options
from vfsstream.vfs.pagemap import fold
from vfsstream.vfs.ranges import MAX_GAP
from vfsstream.vfs.view import View


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return make_database(tmp_path_factory.mktemp("db") / "db", 2000)


def test_a_view_is_folded_while_its_list_of_files_grows(pages: list[bytes]) -> None:
    view = view_of(snapshot(pages))
    later = FileInfo(TXID(99), TXID(99), 0, 1000)

    def meanwhile() -> None:
        assert isinstance(view.files, list)
        view.files.append(later)

    folded = fold(view, meanwhile)
    assert later not in folded.files
    assert folded.find(2) == view.find(2)


@pytest.mark.parametrize("vanished", [False, True])
def test_a_request_of_another_view_is_shared_whatever_the_numbers_of_its_files(
    pages: list[bytes], tmp_path: Path, vanished: bool
) -> None:
    replica = snapshot(pages)
    for txid in range(2, 6):  # all of page 2: the files before the last serve nothing
        increment(replica, len(pages), {2: pages[1]}, txid)
    first = view_of(replica)
    second = fold(first)
    assert len(second.files) < len(first.files)
    if vanished:  # the second view has found the page in another file since
        info = replica.write(1, 2, 5, replica.fetch(first.files[-1]).data, timestamp=0)
        second.files[-1] = info  # type: ignore[index]
    engine = FetchEngine(replica, Options(replica_url="memory:", prefetch="off"))
    held, go = threading.Event(), threading.Event()

    def hold(operation: str, key: str) -> None:
        if operation == "get" and not held.is_set():
            held.set()
            assert go.wait(60)
            if vanished:
                raise NotFound(key)

    replica.store.fault = hold  # type: ignore[attr-defined]
    got: list[object] = []

    def read(view: object) -> None:
        try:
            got.append(bytes(engine.read(view, 2, lambda: None)))  # type: ignore[arg-type]
        except NotFound as error:
            got.append(error)

    threads = [threading.Thread(target=read, args=(view,)) for view in (first, second)]
    threads[0].start()
    assert held.wait(60)
    threads[1].start()
    while engine._counts["waits"] < 2:
        assert threads[1].is_alive()
    go.set()
    for thread in threads:
        thread.join(60)
    engine.close()
    answers = sorted(got, key=lambda answer: isinstance(answer, Exception))
    assert answers[0] == pages[1]
    assert isinstance(answers[1], NotFound) if vanished else answers[1] == pages[1]


class Held:
    """A store whose first read waits, and then fails as told; later ones fail as long as ``ill``."""

    def __init__(self, replica: Replica, error: Exception, ill: Callable[[], bool] = lambda: False) -> None:
        self.error, self.ill = error, ill
        self.held, self.go = threading.Event(), threading.Event()
        replica.store.fault = self  # type: ignore[attr-defined]

    def __call__(self, operation: str, key: str) -> None:
        if operation != "get":
            return
        first = not self.held.is_set()
        if first:
            self.held.set()
            assert self.go.wait(60)
        if first or self.ill():
            raise self.error


class Reading(threading.Thread):
    """One page read on a thread.

    Attributes:
        answer: the page, or the exception.
    """

    def __init__(self, engine: FetchEngine, view: View, pgno: int = 50) -> None:
        super().__init__()
        self.engine, self.view, self.pgno = engine, view, pgno
        self.answer: object = None
        before = engine._counts["waits"]
        self.start()
        while engine._counts["waits"] == before:
            assert self.is_alive()

    def run(self) -> None:
        try:
            self.answer = bytes(self.engine.read(self.view, self.pgno, lambda: None))
        except Exception as error:
            self.answer = error


@pytest.mark.parametrize(
    "error",
    [AccessDenied("403"), StoreError("500", retryable=False), OSError("no sockets left")],
    ids=["denied", "not retryable", "not ours"],
)
def test_what_failed_in_the_background_is_read_again_by_who_wants_it(pages: list[bytes], error: Exception) -> None:
    replica = snapshot(pages)
    view = view_of(replica)
    engine = FetchEngine(replica, Options(replica_url="memory:", prefetch="off"))
    store = Held(replica, error)
    ahead = threading.Thread(target=engine.fetch_ahead, args=(view, [50], lambda: None))
    ahead.start()
    assert store.held.wait(60)
    reading = Reading(engine, view)
    store.go.set()
    reading.join(60)
    ahead.join(60)
    engine.close()
    assert reading.answer == pages[49]


def test_a_reader_has_its_own_deadline_whoever_began_the_read(pages: list[bytes]) -> None:
    replica = snapshot(pages)
    view = view_of(replica)
    engine = FetchEngine(replica, Options(replica_url="memory:", prefetch="off", deadline=1.0))
    first: list[Reading] = []
    store = Held(replica, StoreError("503", retryable=True), lambda: first[0].is_alive())
    first.append(Reading(engine, view))
    time.sleep(0.7)
    second = Reading(engine, view)
    store.go.set()
    first[0].join(60)
    second.join(60)
    engine.close()
    assert isinstance(first[0].answer, StoreError)
    assert second.answer == pages[49]


def test_a_refusal_of_what_somebody_waits_for_is_told_to_all_who_wait(pages: list[bytes]) -> None:
    """Each would be refused alike: one request is enough."""
    replica = snapshot(pages)
    view = view_of(replica)
    engine = FetchEngine(replica, Options(replica_url="memory:", prefetch="off"))
    store = Held(replica, AccessDenied("403"), lambda: True)
    readings = [Reading(engine, view) for _ in range(4)]
    store.go.set()
    for reading in readings:
        reading.join(60)
    engine.close()
    assert all(isinstance(reading.answer, AccessDenied) for reading in readings)
    assert engine.transfer.counts["gets"] == 1


def test_who_waits_for_what_has_not_begun_is_told_of_the_close(pages: list[bytes]) -> None:
    replica = snapshot(pages)
    view = view_of(replica)
    engine = FetchEngine(replica, Options(replica_url="memory:", prefetch="off", max_requests=1))
    store = Held(replica, StoreError("closed"))
    ahead = threading.Thread(target=engine.fetch_ahead, args=(view, [9], lambda: None))
    ahead.start()
    assert store.held.wait(60)
    reading = Reading(engine, view)  # behind the only thread, which waits
    threading.Timer(0.2, store.go.set).start()
    engine.close()
    reading.join(10)
    ahead.join(60)
    assert isinstance(reading.answer, Interrupted)


def test_what_somebody_waits_for_overtakes_what_was_only_guessed(tmp_path: Path) -> None:
    """The page wanted was already asked for in the background, as the last of several, and nothing has begun."""
    pages = make_database(tmp_path / "db", 6000)
    replica = snapshot(pages)
    view = view_of(replica)
    engine = FetchEngine(replica, Options(replica_url="memory:", prefetch="off", max_requests=1))
    store = Held(replica, StoreError("the first one fails"))
    offsets: list[int] = []
    fetch = replica.store.fetch

    def recorded(key: str, offset: int = 0, size: int | None = None) -> Fetched:
        offsets.append(offset)
        return fetch(key, offset, size)

    replica.store.fetch = recorded  # type: ignore[method-assign]
    far_apart = [2]
    for pgno in range(3, len(pages) + 1):
        if view.find(pgno).offset > view.find(far_apart[-1]).offset + MAX_GAP + 8192:  # type: ignore[union-attr]
            far_apart.append(pgno)
    assert len(far_apart) >= 4
    ahead = threading.Thread(target=engine.fetch_ahead, args=(view, far_apart, lambda: None))
    ahead.start()
    assert store.held.wait(60)
    while len(engine.transfer.pool._jobs) < len(far_apart) - 1:
        assert ahead.is_alive()
    reading = Reading(engine, view, far_apart[-1])
    end = time.monotonic() + 5
    while len(engine.transfer.pool._jobs) < len(far_apart) and time.monotonic() < end:
        time.sleep(0.001)
    store.go.set()
    reading.join(60)
    ahead.join(60)
    engine.close()
    assert reading.answer == pages[far_apart[-1] - 1]
    assert offsets[1] == view.find(far_apart[-1]).offset  # type: ignore[union-attr]
    assert len(offsets) == len(far_apart)  # nothing twice


def test_the_cause_is_told_when_there_is_no_time_to_ask_anew(
    pages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = snapshot(pages)
    view = view_of(replica)
    engine = FetchEngine(replica, Options(replica_url="memory:", prefetch="off", deadline=0.5))
    store = Held(replica, AccessDenied("403 of the background"))
    ahead = threading.Thread(target=engine.fetch_ahead, args=(view, [50], lambda: None))
    ahead.start()
    assert store.held.wait(60)
    reading = Reading(engine, view)
    settle = Flight.wait

    def late(flight: Flight, *arguments: object) -> None:
        try:
            settle(flight, *arguments)  # type: ignore[arg-type]
        finally:
            time.sleep(0.6)

    monkeypatch.setattr(Flight, "wait", late)
    second = Reading(engine, view)
    store.go.set()
    for thread in (reading, second, ahead):
        thread.join(60)
    engine.close()
    assert isinstance(second.answer, AccessDenied)
