"""Trying again: what, how often, how long, and from where."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from vfsstream.errors import (
    AccessDenied,
    AlreadyExists,
    DeadlineExceeded,
    Interrupted,
    NotFound,
    StoreError,
)
from vfsstream.stores.base import Fetched
from vfsstream.stores.deadline import deadline, time_left
from vfsstream.stores.limit import LimitStore
from vfsstream.stores.memory import MemoryStore
from vfsstream.stores.retry import RetryPolicy, RetryStore, call_with_retry, policy_for
from vfsstream.stores.trace import Trace, TraceStore

FAST = RetryPolicy(attempts=5, base_delay=0.001, max_delay=0.002, deadline=30)


def failing(times: int, error: Callable[[], Exception]) -> Callable[[str, str], None]:
    left = [times]

    def fault(operation: str, key: str) -> None:
        if left[0]:
            left[0] -= 1
            raise error()

    return fault


def transient() -> StoreError:
    return StoreError("the line is down", retryable=True)


def store(times: int = 0, error: Callable[[], Exception] = transient) -> tuple[RetryStore, MemoryStore]:
    inner = MemoryStore()
    for number in range(5):
        inner.put(f"d/{number}", bytes([number]) * 10)
    inner.calls.clear()
    inner.fault = failing(times, error)
    return RetryStore(inner, FAST), inner


def test_every_operation_is_tried_again() -> None:
    for call in (
        lambda s: s.get("d/1"),
        lambda s: list(s.list("d/")),
        lambda s: list(s.list_prefixes("")),
        lambda s: list(s.stream("d/1")),
        lambda s: s.put("d/9", b"x"),
        lambda s: s.put("d/9", iter([b"x", b"y"])),
        lambda s: s.delete(["d/1"]),
        lambda s: s.head("d/1"),
    ):
        tried, inner = store(4)
        call(tried)
        assert len(inner.calls) == 5


def test_the_tries_end() -> None:
    tried, inner = store(99)
    with pytest.raises(StoreError, match="the line is down"):
        tried.get("d/1")
    assert len(inner.calls) == FAST.attempts


@pytest.mark.parametrize(
    "error",
    [
        lambda: NotFound("d/1"),
        lambda: AlreadyExists("d/1"),
        lambda: AccessDenied("no"),
        lambda: StoreError("a bucket that does not exist"),
        lambda: RuntimeError("a bug"),
    ],
)
def test_answers_are_not_tried_again(error: Callable[[], Exception]) -> None:
    tried, inner = store(1, error)
    with pytest.raises(type(error())):
        tried.get("d/1")
    assert len(inner.calls) == 1


def test_the_deadline_names_the_cause() -> None:
    inner = MemoryStore(fault=failing(10**6, transient))
    tried = RetryStore(inner, RetryPolicy(attempts=10**6, base_delay=0.01, max_delay=0.02, deadline=0.2))
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="the line is down") as caught:
        tried.get("d/1")
    assert time.monotonic() - start < 10
    assert isinstance(caught.value.__cause__, StoreError)
    assert "read memory:/d/1" in str(caught.value)


def test_a_stop_ends_the_wait_at_once() -> None:
    stop = threading.Event()
    inner = MemoryStore(fault=failing(10**6, transient))
    tried = RetryStore(inner, RetryPolicy(base_delay=60, max_delay=60, deadline=None), stop=stop)
    threading.Timer(0.1, stop.set).start()
    start = time.monotonic()
    with pytest.raises(Interrupted, match="the line is down"):
        tried.get("d/1")
    assert time.monotonic() - start < 30


class _Breaking(MemoryStore):
    """Streams break after three bytes, listings after two keys."""

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        self.calls.append(("stream", f"{offset}"))
        data = self.get(key)[offset:]

        def chunks() -> Iterator[bytes]:
            yield data[:3]
            if len(data) > 3:
                raise transient()

        return chunks()

    def list(self, prefix: str, start_after: str | None = None):  # type: ignore[no-untyped-def]
        infos = [*super().list(prefix, start_after)]

        def some():  # type: ignore[no-untyped-def]
            yield from infos[:2]
            if len(infos) > 2:
                raise transient()

        return some()


def test_a_stream_resumes_where_it_broke() -> None:
    inner = _Breaking()
    inner.put("k", bytes(range(100)))
    tried = RetryStore(inner, FAST)
    assert b"".join(tried.stream("k", 10)) == bytes(range(10, 100))
    assert [int(key) for operation, key in inner.calls if operation == "stream"] == [*range(10, 100, 3)]


def test_a_listing_resumes_after_the_last_key() -> None:
    inner = _Breaking()
    for number in range(9):
        inner.put(f"d/{number}", b"")
    tried = RetryStore(inner, FAST)
    assert [info.key for info in tried.list("d/")] == [f"d/{n}" for n in range(9)]


def test_three_failures_without_progress_surface() -> None:
    inner = MemoryStore()
    inner.put("k", b"x" * 10)
    inner.fault = failing(10**6, transient)
    tried = RetryStore(inner, RetryPolicy(attempts=3, base_delay=0.001, max_delay=0.001))
    with pytest.raises(StoreError):
        list(tried.stream("k"))
    assert len(inner.calls) == 1 + 3


def test_a_put_whose_answer_was_lost_is_not_taken_for_another_writers() -> None:
    class Deaf(MemoryStore):
        def put(self, key, source, **more):  # type: ignore[no-untyped-def]
            info = super().put(key, source, **more)
            if len(self.calls) == 1:
                raise transient()
            return info

    inner = Deaf()
    assert RetryStore(inner, FAST).put("k", b"mine", if_absent=True).size == 4
    with pytest.raises(AlreadyExists):
        RetryStore(inner, FAST).put("k", b"mine", if_absent=True)


def test_pauses_grow_with_jitter_up_to_a_limit() -> None:
    policy = RetryPolicy(base_delay=0.1, max_delay=5)
    assert [policy.pause(n, 1) for n in (1, 2, 3, 20)] == [0.1, 0.2, 0.4, 5]
    assert policy.pause(1, 0) == 0.05
    assert policy_for("file").attempts < policy_for("s3").attempts


def test_calls_inside_a_store() -> None:
    left = [2]

    def flaky() -> str:
        if left[0]:
            left[0] -= 1
            raise transient()
        return "done"

    assert call_with_retry(flaky, FAST, "a part") == "done"


def test_the_time_limit_reaches_every_wait() -> None:
    assert time_left(30) == 30
    with deadline(1):
        assert time_left(30) <= 1
        with deadline(60):
            assert time_left(30) <= 1, "an outer limit stays"
    with deadline(0), pytest.raises(DeadlineExceeded):
        time_left(30)
    assert time_left(30) == 30


def test_whoever_waits_for_the_whole_hears_the_cause_in_time() -> None:
    """A pause that reaches beyond the limit of the operation around is not begun."""
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="the line is down"), deadline(5):
        call_with_retry(failing_call, RetryPolicy(attempts=9, base_delay=20, max_delay=20, deadline=60), "get x")
    assert time.monotonic() - started < 5


def failing_call() -> None:
    raise transient()


def test_a_trace_tells_of_every_attempt() -> None:
    seen: list[Trace] = []
    inner = MemoryStore(fault=failing(1, transient))
    traced = RetryStore(TraceStore(inner, seen.append), FAST)
    traced.put("d/k", b"12345")
    assert b"".join(traced.stream("d/k")) == b"12345"
    assert traced.get("d/k", 1, 2) == b"23"
    list(traced.list("d/"))
    traced.head("d/k")
    traced.delete(["d/k"])
    with pytest.raises(NotFound):
        traced.get("d/k")
    told = [(trace.operation, trace.key, trace.bytes, trace.result) for trace in seen]
    assert told == [
        ("put", "d/k", 0, "StoreError"),
        ("put", "d/k", 5, "ok"),
        ("stream", "d/k", 5, "ok"),
        ("fetch", "d/k", 2, "ok"),
        ("list", "d/", 1, "ok"),
        ("head", "d/k", 0, "ok"),
        ("delete", "d/k", 1, "ok"),
        ("fetch", "d/k", 0, "NotFound"),
    ]
    assert all(trace.seconds >= 0 and trace.kind == "memory" for trace in seen)


def test_at_most_so_many_operations_at_once() -> None:
    running, most, lock = [0], [0], threading.Lock()

    class Slow(MemoryStore):
        def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            time.sleep(0.02)
            with lock:
                running[0] -= 1
            return super().fetch(key)

    inner = Slow()
    inner.put("k", b"x")
    limited = LimitStore(inner, 3)
    threads = [threading.Thread(target=limited.get, args=("k",)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most[0] == 3
    streams = [limited.stream("k") for _ in range(9)]
    assert b"".join(b"".join(stream) for stream in streams) == b"x" * 9, "open streams hold no slot"


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_puts_that_read_the_same_store_do_not_wait_for_each_other(limit: int) -> None:
    inner = MemoryStore()
    inner.put("from", b"x" * 100)
    limited = LimitStore(inner, limit)
    barrier = threading.Barrier(limit)

    def copy(number: int) -> None:
        def source() -> Iterator[bytes]:
            if limit > 2 and number < limit - 1:
                barrier.wait(30)  # all that may run do
            yield from limited.stream("from")

        if limit > 2 and number == limit - 1:
            barrier.wait(30)
        limited.put(f"to-{number}", source())

    threads = [threading.Thread(target=copy, args=(number,)) for number in range(limit)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(1 for info in inner.list("") if info.key.startswith("to-")) == limit
