"""Edge cases."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta

import pytest

from tests.replicate.case import Case
from vfsstream.errors import DeadlineExceeded, Interrupted, StoreError
from vfsstream.replica import Replica
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Checkpointed, Event, UploadFailed
from vfsstream.replicate.replicator import once
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.status import CloseResult
from vfsstream.stores.base import ObjectInfo, Source
from vfsstream.stores.memory import MemoryStore
from vfsstream.stores.retry import RetryPolicy, RetryStore

# --- the log ----------------------------------------------------------------------------------------------------


def test_whoever_writes_all_the_time_does_not_keep_checkpoints_away(case: Case) -> None:
    """Each file covers one transaction, and while it is written two more come: the log is truncated all the same."""
    left = 1500

    def at_point(point: str) -> None:
        nonlocal left
        if point == "capture:recorded" and left and not checkpointed():
            left -= 2
            case.write(2)

    def checkpointed() -> bool:
        return any(isinstance(event, Checkpointed) for event in case.events)

    settings = Settings(max_sync_wal_bytes=1, truncate_pages=200)
    database = Database(
        case.path, f"file://{case.replica}", settings=settings, observer=case.events.append, at_point=at_point
    )
    with database:
        while left and not checkpointed():
            database._next_look = 0.0
            database.step_capture()
        assert left, "the log was truncated before the writer paused"
        once(database)
    case.same()


# --- waiting and giving up ---------------------------------------------------------------------------------------


class Stuck(MemoryStore):
    """Its puts do not end before they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.free = threading.Event(), threading.Event()

    def put(
        self, key: str, source: Source, *, metadata: Mapping[str, str] | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        if key.endswith(".ltx"):
            self.begun.set()
            assert self.free.wait(60)
        return super().put(key, source, metadata=metadata, if_absent=if_absent)


@contextlib.contextmanager
def beside(work: object) -> Iterator[threading.Thread]:
    """Something that goes on in another thread."""
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    try:
        yield thread
    finally:
        thread.join(60)
        assert not thread.is_alive()


def test_whoever_waits_for_the_replica_is_not_held_up_by_another_thread_s_upload(case: Case) -> None:
    store = Stuck()
    database = Database(case.path, Replica(store))
    database.open()
    database.sync()
    told: list[BaseException] = []

    def waits() -> None:
        try:
            database.sync_and_wait(0.2)
        except DeadlineExceeded as error:
            told.append(error)

    with beside(database.step_upload):
        assert store.begun.wait(60)
        with beside(waits) as waiting:
            waiting.join(20)
            in_time = not waiting.is_alive()
            store.free.set()
    assert in_time
    assert "another thread" in str(told[0])
    assert database.close().uploaded


def test_a_close_that_was_interrupted_before_it_began_asks_the_replica_nothing(case: Case) -> None:
    events: list[Event] = []
    for met in (False, True):
        store = MemoryStore()
        database = Database(case.path, Replica(store), observer=events.append)
        database.open()
        if met:
            database.sync_and_wait()
        case.write()
        database.interrupt()
        store.calls.clear()
        result = database.close()
        assert store.calls == []
        assert (result.uploaded, type(result.error)) == (False, Interrupted)
        assert result.position > (result.replica_position or 0), "captured all the same"
    assert not [event for event in events if isinstance(event, UploadFailed)], "giving up is no failure"


@pytest.mark.parametrize("operation", ["list", "put"])
def test_an_interrupt_ends_the_pause_between_two_tries(case: Case, operation: str) -> None:
    asked = threading.Event()

    def fault(what: str, key: str) -> None:
        if what == operation and "ltx" in key:
            asked.set()
            raise StoreError("the line is down", retryable=True)

    patient = RetryPolicy(attempts=1000, base_delay=3600, max_delay=3600, deadline=None)
    store = RetryStore(MemoryStore(fault=fault), patient)
    database = Database(case.path, Replica(store), settings=Settings(shutdown_sync_timeout=timedelta(hours=1)))
    database.open()
    results: list[CloseResult] = []
    with beside(lambda: results.append(database.close())) as closing:
        assert asked.wait(60)
        database.interrupt()
        closing.join(20)
        in_time = not closing.is_alive()
        store._stop.set()
    assert in_time
    assert isinstance(results[0].error, Interrupted)
