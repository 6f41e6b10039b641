"""Ranges: what is asked for, and which answers are not it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsstream.errors import StoreError
from vfsstream.stores.base import Fetched
from vfsstream.stores.byterange import Span, content_range, range_header, skipped, taken

DATA = bytes(range(100))


def partial(first: int, last: int, total: int | str = 100) -> dict[str, str]:
    return {"content-range": f"bytes {first}-{last}/{total}"}


@pytest.mark.parametrize(
    ("offset", "size", "wanted"),
    [
        (0, None, "bytes=0-"),
        (7, None, "bytes=7-"),
        (7, 3, "bytes=7-9"),
        (7, 0, "bytes=7-7"),
        (-5, None, "bytes=-5"),
    ],
)
def test_the_header(offset: int, size: int | None, wanted: str) -> None:
    assert range_header(offset, size) == wanted


def test_a_range_from_the_end_reaches_to_the_end() -> None:
    with pytest.raises(ValueError, match="size must be None"):
        range_header(-5, 3)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("bytes 0-9/100", Span(0, 9, 100)),
        ("Bytes 5-5/*", Span(5, 5, None)),
        ("bytes */100", None),
        ("", None),
        ("bytes 1-/3", None),
        ("items 0-9/100", None),
    ],
)
def test_what_an_answer_states(text: str, wanted: Span | None) -> None:
    assert content_range({"content-range": text}) == wanted


@given(st.integers(0, 99), st.none() | st.integers(1, 200))
def test_the_right_part_is_taken(offset: int, size: int | None) -> None:
    stop = 100 if size is None else min(100, offset + size)
    part = DATA[offset:stop]
    assert taken(206, partial(offset, stop - 1), part, offset, size, "x") == Fetched(part, 100)
    assert taken(200, {}, DATA, offset, size, "x") == Fetched(part, 100), "a server that ignores ranges"


def test_from_the_end() -> None:
    assert taken(206, partial(95, 99), DATA[-5:], -5, None, "x") == Fetched(DATA[-5:], 100)
    assert taken(206, partial(0, 99), DATA, -500, None, "x") == Fetched(DATA, 100)
    assert taken(206, partial(95, 99, "*"), DATA[-5:], -5, None, "x") == Fetched(DATA[-5:], None)
    assert taken(200, {}, DATA, -500, None, "x") == Fetched(DATA, 100)


def test_no_bytes() -> None:
    assert taken(206, partial(7, 7), DATA[7:8], 7, 0, "x") == Fetched(b"", 100)


@pytest.mark.parametrize(
    ("status", "headers", "body", "offset", "size"),
    [
        (206, partial(11, 20), DATA[11:21], 10, 10),  # another part
        (206, partial(10, 18), DATA[10:19], 10, 10),  # less of it than there is
        (206, partial(10, 20), DATA[10:21], 10, 10),  # more
        (206, partial(10, 19), DATA[10:18], 10, 10),  # the body is shorter than stated
        (206, partial(90, 98), DATA[90:99], 90, 50),  # ends before the object does
        (206, partial(94, 98), DATA[94:99], -5, None),
        (206, partial(10, 20, "*"), DATA[10:21], 10, 10),
        (206, {}, DATA[10:20], 10, 10),  # which part is it?
    ],
)
def test_an_answer_to_another_question_is_never_taken(
    status: int, headers: dict[str, str], body: bytes, offset: int, size: int | None
) -> None:
    with pytest.raises(StoreError, match="s3://b/k") as caught:
        taken(status, headers, body, offset, size, "s3://b/k")
    assert caught.value.retryable


def test_what_a_stream_skips() -> None:
    assert skipped(206, partial(10, 99), 10, "x") == 0
    assert skipped(200, partial(10, 99), 10, "x") == 0, "rclone says 200 of a part"
    assert skipped(200, {}, 10, "x") == 10
    for headers in ({}, partial(11, 99), partial(10, 98)):
        with pytest.raises(StoreError):
            skipped(206, headers, 10, "x")
