"""Durations, sizes, numbers, TXIDs and times, row by row."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsstream.config import values

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("+0", 0),
        ("5s", 5),
        ("1h1h", 7200),
        ("1m30s", 90),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("5.s", 5),
        ("500ms", 0.5),
        ("3us", 3e-6),
        ("3µs", 3e-6),
        ("-2m", -120),
        ("1h2m3s4ms", 3723.004),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert values.parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", "5", "1d", "1w", "1 s", "1S", "1h 1m", ".s", "s", "1.2.3s", "--1s", "9999999h", "1e3s", "１s", "+"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        values.parse_duration(text)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(days=1), "24h0m0s"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(milliseconds=500), "500ms"),
        (timedelta(milliseconds=1500), "1.5s"),
        (timedelta(microseconds=1500), "1.5ms"),
        (timedelta(microseconds=7), "7µs"),
        (timedelta(0), "0s"),
        (timedelta(seconds=-5), "-5s"),
        (timedelta(hours=1, milliseconds=50), "1h0m0.05s"),
    ],
)
def test_durations_print_like_go(duration: timedelta, text: str) -> None:
    assert values.format_duration(duration) == text


@given(st.timedeltas(timedelta(days=-1000), timedelta(days=1000)))
def test_a_printed_duration_reads_back(duration: timedelta) -> None:
    assert values.parse_duration(values.format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("5", 5),
        ("5b", 5),
        ("5 MB", 5_000_000),
        ("5m", 5_000_000),
        ("5MiB", 5 << 20),
        ("1.5ki", 1536),
        ("1,024", 1024),
        ("7EiB", 7 << 60),
        ("0.5kB", 500),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "-1", "5e6", "0x10", "5ib", "5XB", "9223372036854775807", "8EiB", "1.2.3", "MB"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        values.parse_size(text)


@pytest.mark.parametrize(
    ("text", "txid"),
    [
        ("0000000000000003", 3),
        ("000000000000000A", 10),
        ("000000000000000a", 10),
        ("0000000000001000", 4096),
        ("1000", 1000),
        ("0x3e8", 1000),
        ("0", 0),
    ],
)
def test_txids(text: str, txid: int) -> None:
    assert values.parse_txid(text) == txid


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("3e8", "0x3e8"),
        ("zz", "hex"),
        ("+000000000000003", "hex"),
        ("00000000000000001", "hex"),
        ("", "hex"),
        ("٣", "hex"),
    ],
)
def test_what_is_no_txid(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        values.parse_txid(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02T05:54:00Z", datetime(2026, 1, 2, 5, 54, tzinfo=UTC)),
        ("2026-01-02T05:54:00.5Z", datetime(2026, 1, 2, 5, 54, 0, 500000, tzinfo=UTC)),
        ("2026-01-02T05:54:00,5Z", datetime(2026, 1, 2, 5, 54, 0, 500000, tzinfo=UTC)),
        ("2026-01-02T05:54:00+01:00", datetime(2026, 1, 2, 4, 54, tzinfo=UTC)),
        ("2026-01-02T5:54:00Z", datetime(2026, 1, 2, 5, 54, tzinfo=UTC)),
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("2026-01-02 05:54", datetime(2026, 1, 2, 5, 54, tzinfo=UTC)),
        ("now", NOW),
        ("5 minutes ago", NOW - timedelta(minutes=5)),
        ("an hour ago", NOW - timedelta(hours=1)),
        ("1h30m ago", NOW - timedelta(minutes=90)),
        ("2 days ago", NOW - timedelta(days=2)),
        ("yesterday", NOW - timedelta(days=1)),
    ],
)
def test_times(text: str, moment: datetime) -> None:
    assert values.parse_time(text, NOW)[0] == moment


def test_a_missing_zone_is_said() -> None:
    assert values.parse_time("2026-01-02", NOW)[1]
    assert not values.parse_time("2026-01-02T00:00:00Z", NOW)[1]


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-13-01", "2026-02-30T00:00:00Z", "2026-01-02T25:00:00Z", "x ago", "5 ago"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        values.parse_time(text, NOW)


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_a_plain_error(text: str) -> None:
    for parse in (
        values.parse_duration,
        values.parse_size,
        values.parse_int,
        values.parse_bool,
        values.parse_txid,
    ):
        with contextlib.suppress(ValueError):
            parse(text)
    with contextlib.suppress(ValueError):
        values.parse_time(text, NOW)
