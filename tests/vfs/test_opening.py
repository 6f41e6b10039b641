"""Opening in two round trips, and in one with a kept index."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.vfs.replicas import increment, make_database, snapshot
from vfsstream.errors import LtxError
from vfsstream.replica import Replica
from vfsstream.stores.base import Fetched
from vfsstream.vfs.indexcache import IndexCache
from vfsstream.vfs.opening import read_plan_files
from vfsstream.vfs.planning import open_view


class Rounds:
    """Counts requests, and how many rounds of waiting they take when each takes a while."""

    def __init__(self, replica: Replica) -> None:
        self.calls: list[tuple[str, str]] = []
        self.active = self.peak = 0
        self.lock = threading.Lock()
        replica.store.fault = self.fault  # type: ignore[attr-defined]

    def fault(self, operation: str, key: str) -> None:
        with self.lock:
            self.calls.append((operation, key))
            self.active += 1
            self.peak = max(self.peak, self.active)
        time.sleep(0.1)
        with self.lock:
            self.active -= 1

    def count(self, operation: str) -> int:
        return sum(1 for found, _ in self.calls if found == operation)


def test_a_large_file_takes_head_and_tail_at_once(tmp_path: Path) -> None:
    replica = snapshot(make_database(tmp_path / "db", 5000))
    rounds = Rounds(replica)
    opened = open_view(replica)
    assert rounds.count("list") <= 10
    assert rounds.count("get") == 2
    assert rounds.peak == rounds.count("list")
    assert opened.view.commit > 0


def test_small_files_are_read_whole_side_by_side(tmp_path: Path) -> None:
    pages = make_database(tmp_path / "db", 5000)
    replica = snapshot(pages)
    for txid in range(2, 12):
        increment(replica, len(pages), {txid: pages[txid - 1]}, txid)
    rounds = Rounds(replica)
    opened = open_view(replica)
    assert rounds.count("get") == 12
    assert rounds.peak >= 6
    assert sum(1 for file in opened.loaded if file.data is not None) == 10


def test_a_tail_that_was_too_short_costs_one_more(tmp_path: Path) -> None:
    pages = [bytes(512)] * 20_000
    replica = snapshot(pages)
    rounds = Rounds(replica)
    (info,) = replica.files(9)
    (loaded,) = read_plan_files(replica, [info])
    assert rounds.count("get") == 3
    assert len(loaded.index) == len(pages)


def test_a_kept_index_needs_only_the_listing(tmp_path: Path) -> None:
    replica = snapshot(make_database(tmp_path / "db", 5000))
    first = open_view(replica, index_cache=IndexCache(tmp_path))
    rounds = Rounds(replica)
    second = open_view(replica, index_cache=IndexCache(tmp_path))
    assert rounds.count("get") == 0
    assert second.view.commit == first.view.commit
    assert all(first.view.find(n) == second.view.find(n) for n in range(1, first.view.commit + 1))


def test_a_damaged_index_is_read_again(tmp_path: Path) -> None:
    replica = snapshot(make_database(tmp_path / "db", 5000))
    cache = IndexCache(tmp_path)
    open_view(replica, index_cache=cache)
    (path,) = cache.directory.iterdir()
    data = bytearray(path.read_bytes())
    data[200] ^= 4
    path.write_bytes(data)
    rounds = Rounds(replica)
    open_view(replica, index_cache=cache)
    assert rounds.count("get") == 2


@pytest.mark.parametrize("part", [0, 1])
def test_a_wrong_answer_is_not_taken_for_a_damaged_file(tmp_path: Path, part: int) -> None:
    replica = snapshot(make_database(tmp_path / "db", 5000))
    (info,) = replica.files(9)
    fetch, asked = replica.store.fetch, []

    def wrong_once(key: str, offset: int = 0, size: int | None = None) -> Fetched:
        found = fetch(key, offset, size)
        asked.append(offset)
        again = asked.count(offset) > 1
        return found if again or (offset == 0) != (part == 0) else Fetched(found.data[1:] + b"x", found.total_size)

    replica.store.fetch = wrong_once  # type: ignore[method-assign]
    assert len(read_plan_files(replica, [info])[0].index) > 100
    assert len(asked) <= 5
    replica.store.fetch = lambda *a: Fetched(bytes(len(fetch(*a).data)), info.size)  # type: ignore[method-assign]
    with pytest.raises(LtxError, match=info.name):
        read_plan_files(replica, [info])
