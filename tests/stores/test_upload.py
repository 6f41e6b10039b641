"""Uploads in parts: sizes, order, bounded memory, an end at the first failure."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsstream.errors import StoreError
from vfsstream.stores.once import Once
from vfsstream.stores.upload import Part, send_parts, upload_parts


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 30))
def test_parts_are_of_one_size_and_complete(chunks: list[int], size: int) -> None:
    data = [bytes([n % 256]) * length for n, length in enumerate(chunks)]
    whole = b"".join(data)
    for source in (iter(data), whole, io.BytesIO(whole)):
        parts = [*upload_parts(source, size)]
        assert b"".join(part.data for part in parts) == whole
        assert [part.number for part in parts] == [*range(1, len(parts) + 1)]
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
        assert all(len(part.data) == size for part in parts[:-1])
        assert len(parts) == 1 or parts[-1].data, "no empty part after a full one"


def test_parts_grow_so_that_ten_thousand_hold_any_file() -> None:
    sizes = [len(part.data) for part in upload_parts((b"x" for _ in range(9000)), 1, grow=True)]
    assert sizes[0] == sizes[1999] == 1
    assert sizes[2000] == 2
    assert sum(sizes) == 9000
    total = sum((5 << 20) << (number // 2000) for number in range(10_000))
    assert total > 280 * 10**12 / 1024, "far above what a database of SQLite may hold compressed"


def test_memory_is_bounded_by_the_parts_in_flight() -> None:
    read, gate = [0], threading.Event()

    def source() -> Iterator[bytes]:
        for _ in range(100):
            read[0] += 10
            yield b"x" * 10

    sending = threading.Thread(
        target=lambda: send_parts(upload_parts(source(), 10), lambda part: gate.wait(60), concurrency=3)
    )
    sending.start()
    try:
        end = time.monotonic() + 30
        while read[0] < 40 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
        assert read[0] <= (3 + 2) * 10
    finally:
        gate.set()
        sending.join(60)
    assert read[0] == 1000


def test_answers_come_in_the_order_of_the_parts() -> None:
    def send(part: Part) -> int:
        time.sleep(0.001 * (part.number % 3))
        return part.number

    assert send_parts(upload_parts(os.urandom(200), 10), send, 4) == [*range(1, 21)]


def test_the_first_failure_ends_it() -> None:
    sent: list[int] = []

    def send(part: Part) -> int:
        sent.append(part.number)
        if part.number == 3:
            raise StoreError("no more")
        return part.number

    with pytest.raises(StoreError, match="no more"):
        send_parts(upload_parts(b"x" * 1000, 1), send, 2)
    assert len(sent) < 20


def test_a_value_is_made_once_by_the_first_and_again_after_a_failure() -> None:
    made: list[int] = []

    def make() -> int:
        time.sleep(0.05)
        made.append(1)
        if len(made) == 1:
            raise StoreError("the first time fails")
        return len(made)

    value = Once(make, "it")
    with pytest.raises(StoreError):
        value.get()
    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(value.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == [2] * 8
    assert len(made) == 2
