"""A replica's catalogue and files, over a store in memory and a folder."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vfsstream.errors import AlreadyExists, NotFound
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica, format_time, parse_time
from vfsstream.stores import FileStore, MemoryStore


@pytest.fixture(params=["memory", "file"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> Replica:
    return Replica(MemoryStore() if request.param == "memory" else FileStore(tmp_path / "replica"))


def test_what_is_written_is_listed_with_its_own_time(replica: Replica) -> None:
    written = replica.write(0, 1, 1, b"x" * 10, timestamp=1_700_000_000_730)
    assert list(replica.files(0)) == [written]
    assert written.created_at == datetime(2023, 11, 14, 22, 13, 20, 730_000, tzinfo=UTC)
    assert written.exact_time
    assert replica.fetch(written).data == b"x" * 10
    assert b"".join(replica.stream(written, 4)) == b"x" * 6


def test_listing_starts_where_asked_and_skips_foreign_objects(replica: Replica) -> None:
    for txid in (1, 2, 3, 16):
        replica.write(0, txid, txid, b"x", timestamp=0)
    replica.store.put(replica.layout.level_prefix(0) + "notes.txt", b"x")
    assert [int(info.min_txid) for info in replica.files(0, 3)] == [3, 16]
    assert [int(info.min_txid) for info in replica.files(0)] == [1, 2, 3, 16]


def test_all_levels_at_once(replica: Replica) -> None:
    replica.write(0, 1, 1, b"x", timestamp=0)
    replica.write(9, 1, 7, b"xy", timestamp=0)
    listed = replica.all_files()
    assert sorted(listed) == list(range(10))
    assert [str(info) for info in listed[0] + listed[9]] == [
        "L0/0000000000000001-0000000000000001.ltx",
        "L9/0000000000000001-0000000000000007.ltx",
    ]


def test_delete_and_missing(replica: Replica) -> None:
    info = replica.write(0, 1, 1, b"x", timestamp=0)
    replica.delete([info, info])
    with pytest.raises(NotFound):
        replica.fetch(info)
    assert list(replica.files(0)) == []


def test_if_absent_refuses_a_second_writer(replica: Replica) -> None:
    replica.write(0, 1, 1, b"first", timestamp=0, if_absent=True)
    with pytest.raises(AlreadyExists):
        replica.write(0, 1, 1, b"second", timestamp=0, if_absent=True)
    (info,) = replica.files(0)
    assert replica.fetch(info).data == b"first"


def test_the_golden_replica_is_described_as_its_headers_say(golden: Callable[[str], Path]) -> None:
    replica = Replica.open(f"file://{golden('levels')}")
    listed = replica.all_files()
    assert len(listed[0]) == 62
    assert all(info.exact_time for files in listed.values() for info in files)
    without_time = [FileInfo(i.min_txid, i.max_txid, i.level, i.size) for i in listed[9]]
    assert [replica.exact_time(info) for info in without_time] == listed[9]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (1_763_791_297_730, "2025-11-22T06:01:37.73Z"),
        (1_763_791_297_978, "2025-11-22T06:01:37.978Z"),
        (1_763_791_290_000, "2025-11-22T06:01:30Z"),
    ],
)
def test_times_are_trimmed_as_litestream_does(milliseconds: int, text: str) -> None:
    assert format_time(milliseconds) == text
    parsed = parse_time(text)
    assert parsed is not None
    assert round(parsed.timestamp() * 1000) == milliseconds


@pytest.mark.parametrize("text", [None, "", "yesterday"])
def test_no_time_is_no_time(text: str | None) -> None:
    assert parse_time(text) is None
