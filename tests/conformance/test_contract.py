"""The contract of a store, kept by every kind against a real server."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.conformance.targets import TRAITS, Place
from vfsstream.errors import AlreadyExists, NotFound, StoreError
from vfsstream.stores import Store
from vfsstream.stores.base import TIMESTAMP

LEVEL = "ltx/0/"


def key(number: int, level: int = 0) -> str:
    return f"ltx/{level}/{number:016x}-{number:016x}.ltx"


def names(store: Store, prefix: str = LEVEL, start_after: str | None = None) -> list[str]:
    return [info.key for info in store.list(prefix, start_after)]


def test_a_listing_is_sorted_and_holds_one_level(store: Store) -> None:
    for number in (3, 1, 12, 2):
        store.put(key(number), b"x" * number)
    store.put(key(1, 9), b"snapshot")
    assert names(store) == [key(1), key(2), key(3), key(12)]
    assert names(store, "ltx/9/") == [key(1, 9)]
    assert [info.size for info in store.list(LEVEL)] == [1, 2, 3, 12]
    assert all(info.modified is not None and info.modified.tzinfo is not None for info in store.list(LEVEL))


def test_a_missing_level_is_an_empty_listing(store: Store) -> None:
    assert names(store, "ltx/7/") == []


def test_a_listing_starts_after_a_key(store: Store) -> None:
    for number in range(1, 6):
        store.put(key(number), b"x")
    assert names(store, start_after=key(3)) == [key(4), key(5)]
    assert names(store, start_after=f"{LEVEL}{2:016x}-~") == [key(3), key(4), key(5)]
    assert names(store, start_after=f"{LEVEL}{0:016x}-~") == [key(n) for n in range(1, 6)]
    assert names(store, start_after=key(5)) == []


def test_what_lies_deeper_or_is_unfinished_is_not_listed(store: Store) -> None:
    store.put(key(1), b"x")
    store.put("ltx/0/deeper/0000000000000002-0000000000000002.ltx", b"x")
    store.put("ltx/00/0000000000000003-0000000000000003.ltx", b"x")
    assert names(store) == [key(1)]
    assert names(store, "ltx/0/deeper/") == ["ltx/0/deeper/0000000000000002-0000000000000002.ltx"]


def test_a_listing_of_many_pages_is_complete(store: Store, kind: str) -> None:
    count = TRAITS[kind].many
    wanted = [key(n) for n in range(1, count + 1)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: store.put(k, b"x"), wanted))
    assert names(store) == wanted
    assert names(store, start_after=key(count - 2)) == wanted[-2:]
    store.delete(wanted)
    assert names(store) == []


def test_ranges(store: Store) -> None:
    data = os.urandom(5000)
    store.put(key(1), data)
    assert store.get(key(1)) == data
    assert store.get(key(1), 100) == data[100:]
    assert store.get(key(1), 100, 50) == data[100:150]
    assert store.get(key(1), 4990, 50) == data[4990:], "a range past the end gives what there is"
    assert store.get(key(1), -24) == data[-24:]
    assert store.get(key(1), -9000) == data
    assert store.get(key(1), 0, 1) == data[:1]
    assert store.get(key(1), 9000) == b""
    assert store.fetch(key(1), 10, 10).total_size in (5000, None)


def test_an_empty_object(store: Store) -> None:
    store.put(key(1), b"")
    assert store.get(key(1)) == b""
    assert b"".join(store.stream(key(1))) == b""
    assert store.head(key(1)).size == 0


def test_a_missing_object_is_not_found_and_nothing_else(store: Store) -> None:
    store.put(key(2), b"x")
    for call in (
        lambda: store.get(key(1)),
        lambda: store.get(key(1), 10, 10),
        lambda: store.get(key(1), -24),
        lambda: store.head(key(1)),
        lambda: list(store.stream(key(1))),
    ):
        with pytest.raises(NotFound, match=key(1)):
            call()


def test_a_put_replaces(store: Store) -> None:
    store.put(key(1), b"old")
    store.put(key(1), b"newer")
    assert store.get(key(1)) == b"newer"
    assert [info.size for info in store.list(LEVEL)] == [5]


def test_a_conditional_put_never_replaces(store: Store) -> None:
    if not store.capabilities.can_put_if_absent:
        pytest.skip(f"{store.kind} has no conditional put")
    store.put(key(1), b"first", if_absent=True)
    with pytest.raises(AlreadyExists, match=key(1)):
        store.put(key(1), b"second", if_absent=True)
    assert store.get(key(1)) == b"first"


def test_a_conditional_put_in_parts_never_replaces(store: Store, kind: str) -> None:
    if not store.capabilities.can_put_if_absent:
        pytest.skip(f"{store.kind} has no conditional put")
    data = os.urandom(TRAITS[kind].multipart + (1 << 20))
    store.put(key(1), iter([data]), if_absent=True)
    with pytest.raises(AlreadyExists, match=key(1)):
        store.put(key(1), iter([data[::-1]]), if_absent=True)
    assert store.get(key(1)) == data


def test_a_conditional_put_has_one_winner(store: Store) -> None:
    if not store.capabilities.can_put_if_absent:
        pytest.skip(f"{store.kind} has no conditional put")

    def race(number: int) -> bool:
        try:
            store.put(key(1), b"%d" % number, if_absent=True)
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(race, range(6))) == 1


def test_deleting_present_and_missing_ones(store: Store) -> None:
    store.put(key(1), b"x")
    store.put(key(2), b"x")
    store.put(key(3), b"x")
    store.delete([key(1), key(9), key(3)])
    assert names(store) == [key(2)]
    store.delete([key(8)])
    store.delete([])


def test_a_source_that_fails_leaves_nothing(store: Store) -> None:
    def source() -> Iterator[bytes]:
        yield b"x" * (9 << 20)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        store.put(key(1), source())
    assert names(store) == []
    with pytest.raises(NotFound):
        store.head(key(1))


def test_a_put_under_way_is_not_seen(store: Store) -> None:
    proceed, begun = threading.Event(), threading.Event()

    def source() -> Iterator[bytes]:
        yield b"x" * (9 << 20)
        begun.set()
        proceed.wait(30)
        yield b"y"

    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(store.put, key(1), source())
        try:
            assert begun.wait(60)
            assert names(store) == []
        finally:
            proceed.set()
        put.result(120)
    assert names(store) == [key(1)]


@pytest.mark.parametrize("delta", [-1, 0, 1])
def test_sizes_around_a_part(store: Store, kind: str, delta: int) -> None:
    data = os.urandom(TRAITS[kind].multipart + delta)
    assert store.put(key(1), data).size == len(data)
    assert store.head(key(1)).size == len(data)
    assert b"".join(store.stream(key(1))) == data


def test_parts_from_every_kind_of_source(store: Store, kind: str) -> None:
    data = os.urandom(2 * TRAITS[kind].multipart + (3 << 20) + 17)
    sources = {
        1: data,
        2: io.BytesIO(data),
        3: (data[i : i + 700_001] for i in range(0, len(data), 700_001)),
        4: memoryview(data),
    }
    for number, source in sources.items():
        assert store.put(key(number), source).size == len(data)
        assert (
            store.get(key(number), 2 * TRAITS[kind].multipart - 10, 20) == data[len(data) - (3 << 20) - 27 :][:20]
        )
    assert b"".join(store.stream(key(3), 5_000_000)) == data[5_000_000:]


@pytest.mark.parametrize("fraction", ["", ".5", ".98", ".123"])
def test_an_objects_own_time(store: Store, kind: str, fraction: str) -> None:
    unit = TRAITS[kind].time_unit
    if unit == 0:
        pytest.skip(f"{kind} keeps no time of an object's own")
    text = f"2026-11-22T06:01:37{fraction}Z"
    store.put(key(1), b"x", metadata={TIMESTAMP: text})
    wanted = datetime.fromisoformat(text)
    if unit == 1000:  # whole seconds are a hint only: the exact time is read from the file
        assert store.head(key(1)).modified == wanted.replace(microsecond=0)
        return
    assert datetime.fromisoformat(store.head(key(1)).metadata[TIMESTAMP]) == wanted
    if store.capabilities.listing_has_timestamp:
        (info,) = store.list(LEVEL)
        assert datetime.fromisoformat(info.metadata[TIMESTAMP]) == wanted


def test_the_stores_time_is_now(store: Store, kind: str) -> None:
    if kind in ("file", "sftp"):
        pytest.skip("its modification time is the object's own")
    store.put(key(1), b"x", metadata={TIMESTAMP: "2020-01-01T00:00:00Z"})
    (info,) = store.list(LEVEL)
    assert info.modified is not None
    assert abs(info.modified - datetime.now(UTC)) < timedelta(minutes=5)


def test_many_threads_read_right_bytes(store: Store) -> None:
    data = os.urandom(1 << 20)
    store.put(key(1), data)
    offsets = [(n * 7919) % (len(data) - 4096) for n in range(200)]

    def read(offset: int) -> bool:
        return store.get(key(1), offset, 4096) == data[offset : offset + 4096]

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(read, offsets))


def test_many_streams_are_open_at_once(store: Store) -> None:
    data = [os.urandom(300_000 + n) for n in range(12)]
    for number, content in enumerate(data, 1):
        store.put(key(number), content)
    streams = [store.stream(key(number)) for number in range(1, 13)]
    got: list[list[bytes]] = [[] for _ in streams]
    open_ones = list(range(12))
    while open_ones:
        for index in list(open_ones):
            chunk = next(streams[index], None)
            if chunk is None:
                open_ones.remove(index)
            else:
                got[index].append(chunk)
    assert [b"".join(chunks) for chunks in got] == data


def test_only_an_empty_directory_is_removed(store: Store) -> None:
    store.put(key(1), b"x")
    store.put("ltx/1/0000000000000001-0000000000000002.ltx", b"y")
    store.remove_directory("ltx/0/")
    assert store.get(key(1)) == b"x"
    store.delete([key(1)])
    for _ in range(2):
        store.remove_directory("ltx/0/")
    assert list(store.list_prefixes("ltx/")) == ["1"]


def test_directories(store: Store) -> None:
    store.put(key(1), b"x")
    store.put(key(1, 9), b"x")
    assert sorted(store.list_prefixes("ltx/")) == ["0", "9"]
    assert list(store.list_prefixes("nothing/")) == []


def test_a_description_has_no_secret(place: Place) -> None:
    secrets = [v for k, v in place.options.items() if "key" in k and "path" not in k and "host" not in k]
    with place.open() as store:
        text = store.describe() + repr(store)
    assert not any(secret in text for secret in secrets if len(secret) > 16 and secret.isprintable())


def test_a_missing_bucket_is_an_error_of_its_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if not place.traits.missing_root_is_error:
        with place.open() as store:
            assert names(store) == []
        return
    from tests.servers import moto

    url = place.url.replace(f"/{moto.BUCKET}", "/no-such-place").replace(f"@{moto.BUCKET}", "@no-such-place")
    if place.name == "nats":  # its whole path is the bucket
        url = place.url.replace(place.path, "no-such-place")
    assert url != place.url
    from vfsstream.stores.retry import RetryPolicy
    from vfsstream.stores.url import open_store

    with open_store(url, dict(place.options), retry=RetryPolicy(attempts=2, deadline=30)) as store:
        for call in (lambda: names(store), lambda: store.put(key(1), b"x"), lambda: store.get(key(1))):
            with pytest.raises(StoreError, match="no-such-place") as caught:
                call()
            assert caught.value.hint, "it says what to do"
