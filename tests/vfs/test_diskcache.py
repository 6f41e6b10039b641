"""The disk cache: shared, bounded, safe against crashes and damage."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.vfs.recorder import recorder
from vfsstream.errors import OptionError
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.vfs import diskcache
from vfsstream.vfs.diskcache import DiskCache, directory_for

SIZE = 1024
FILES = [FileInfo(TXID(1), TXID(5), 9, 1000, datetime(2026, 1, 1, tzinfo=UTC))]
LATER = [FileInfo(TXID(1), TXID(6), 9, 1000, datetime(2026, 1, 2, tzinfo=UTC))]
OTHERS = [FileInfo(TXID(1), TXID(5), 9, 1000, datetime(2026, 1, 2, tzinfo=UTC))]


def content(pgno: int, version: int, size: int = SIZE) -> bytes:
    return random.Random(pgno * 1000 + version).randbytes(size)


def make(path: Path, budget: int = 1 << 20, files: list[FileInfo] = FILES) -> DiskCache:
    return DiskCache(path, SIZE, budget, files)


def test_pages_outlive_the_process_that_fetched_them(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.store(3, 7, content(3, 7))
    first.close()
    second = make(tmp_path)
    assert second.has(3, 7)
    assert second.page(3, 7) == content(3, 7)
    assert second.page(3, 8) is None
    assert second.page(4, 7) is None
    second.close()


def test_another_history_begins_with_nothing(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.store(3, 7, content(3, 7))
    other = make(tmp_path, files=OTHERS)
    assert other.page(3, 7) is None
    other.store(3, 7, content(3, 99))
    assert first.page(3, 7) == content(3, 7)
    first.close()
    other.close()
    assert len(list(tmp_path.glob("pages-*"))) == 1


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        (FileInfo(TXID(2), TXID(2), 0, 100, datetime(2026, 1, 2, tzinfo=UTC)), True),
        (FileInfo(TXID(2), TXID(2), 0, 100, None), True),  # found by its name: no listing told the time
        (FileInfo(TXID(2), TXID(2), 0, 101, None), False),
        (FileInfo(TXID(2), TXID(2), 0, 100, datetime(2026, 1, 3, tzinfo=UTC)), False),
        (
            FileInfo(TXID(2), TXID(2), 1, 101, datetime(2026, 1, 3, tzinfo=UTC)),
            True,
        ),  # another level, another file
    ],
)
def test_a_replica_that_was_set_back_and_went_on_is_another_history(
    tmp_path: Path, other: FileInfo, kept: bool
) -> None:
    base = FileInfo(TXID(1), TXID(1), 9, 1000, datetime(2026, 1, 1, tzinfo=UTC))
    mine = FileInfo(TXID(2), TXID(2), 0, 100, datetime(2026, 1, 2, tzinfo=UTC))
    first = make(tmp_path, files=[base, mine])
    first.store(3, 2, content(3, 2))
    first.close()
    second = make(tmp_path, files=[base, other])
    assert (second.page(3, 2) is not None) == kept
    second.close()


def test_a_history_is_recognised_by_any_file_it_ever_had(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.store(3, 7, content(3, 7))
    first.learn(LATER)
    first.close()
    second = make(tmp_path, files=LATER)
    assert second.page(3, 7) is not None
    second.close()


def test_the_file_is_bounded_and_the_latest_pages_are_right(tmp_path: Path) -> None:
    cache = make(tmp_path, budget=64 * 1048)
    for pgno in range(1, 1000):
        cache.store(pgno, 1, content(pgno, 1))
    assert sum(path.stat().st_size for path in tmp_path.glob("pages-*")) <= 64 * 1048
    here = [pgno for pgno in range(1, 1000) if cache.page(pgno, 1) is not None]
    assert len(here) == 64
    assert all(cache.page(pgno, 1) == content(pgno, 1) for pgno in here)
    cache.close()


def test_an_older_version_does_not_push_a_newer_one_out(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.store(3, 7, content(3, 7))
    cache.store(3, 6, content(3, 6))
    assert cache.page(3, 7) == content(3, 7)
    cache.store(3, 8, content(3, 8))
    assert (cache.page(3, 7), cache.page(3, 8)) == (None, content(3, 8))
    cache.close()


def test_damage_anywhere_is_noticed_and_healed(tmp_path: Path) -> None:
    cache = make(tmp_path)
    (data,) = tmp_path.glob("pages-*")
    chance = random.Random(1)
    for _ in range(300):
        cache.store(5, 7, content(5, 7))
        at = 4 * cache._slot + chance.randrange(cache._slot - 4 if chance.random() < 0.5 else 20)
        with data.open("r+b") as handle:
            handle.seek(at)
            old = handle.read(1)
            handle.seek(at)
            handle.write(bytes([old[0] ^ 1 << chance.randrange(8)]))
        if 20 <= at - 4 * cache._slot < 24:
            continue
        assert cache.page(5, 7) is None
    cache.store(5, 7, content(5, 7))
    assert cache.page(5, 7) == content(5, 7)
    assert cache.damaged > 0
    cache.close()


@pytest.mark.parametrize("harm", ["delete", "truncate", "garbage", "description"])
def test_files_harmed_while_open_give_no_wrong_page(tmp_path: Path, harm: str) -> None:
    cache = make(tmp_path)
    for pgno in range(1, 50):
        cache.store(pgno, 1, content(pgno, 1))
    (data,) = tmp_path.glob("pages-*")
    if harm == "delete":
        for path in tmp_path.iterdir():
            path.unlink()
    elif harm == "truncate":
        os.truncate(data, 10_000)
    elif harm == "garbage":
        data.write_bytes(random.Random(2).randbytes(60_000))
    else:
        (tmp_path / "cache.json").write_text('{"format": 1, "files": 7')
    for pgno in range(1, 50):
        assert cache.page(pgno, 1) in (None, content(pgno, 1))
        cache.store(pgno, 2, content(pgno, 2))
        assert cache.page(pgno, 2) == content(pgno, 2)
    cache.close()
    again = make(tmp_path)
    for pgno in range(1, 50):
        assert again.page(pgno, 2) in (None, content(pgno, 2))
    again.close()


def test_a_full_disk_ends_the_writing_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make(tmp_path)
    cache.store(1, 1, content(1, 1))

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(diskcache, "write_at", refuse)
        cache.store(2, 1, content(2, 1))
    assert cache.full
    assert cache.page(1, 1) == content(1, 1)
    assert cache.page(2, 1) is None
    cache.close()


def test_one_process_at_a_time_looks_at_the_description(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    made: list[DiskCache] = []
    thread = threading.Thread(target=lambda: made.append(make(tmp_path)))
    with open(tmp_path / "lock", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread.start()
        thread.join(0.3)
        assert not made
        assert not list(tmp_path.glob("pages-*"))
    thread.join(60)
    made[0].close()


FULL = """
import resource, sys, time
import vfsstream
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
url, folder = sys.argv[1:]
db = vfsstream.connect(url, cache_dir=folder, cache_size=1, window_budget=1, hydration_enabled=True,
                       hydration_path=folder + "/copy.db")
for _ in range(3):
    print(db.execute("SELECT count(*), sum(length(v)) FROM t").fetchall(), flush=True)
print(db.execute("PRAGMA integrity_check").get, db.execute("PRAGMA litestream_hydration_progress").get != "100")
"""


def test_a_disk_without_room_gives_right_answers(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    for primary in recorder(tmp_path):
        statement = "INSERT INTO t SELECT value, hex(randomblob(300)) FROM n"
        numbers = "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 1000) "
        primary.commit("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", numbers + statement)
        primary.snapshot()
        (tmp_path / "cache").mkdir()
        command = [sys.executable, "-c", FULL, primary.url, str(tmp_path / "cache")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
        assert done.stdout.splitlines() == ["[(1000, 600000)]"] * 3 + ["ok True"], done.stderr
        assert done.returncode == 0


def test_an_unusable_directory_is_an_option_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cache_dir"):
        directory_for(str(tmp_path / "file"), "s3://b/db")
    assert directory_for(str(tmp_path), "s3://b/db") != directory_for(str(tmp_path), "s3://b/other")


def fill(path: str, seed: int, seconds: float) -> None:
    """Store right pages at random for a while; every page read back must be right."""
    cache = make(Path(path), budget=256 * 1048)
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pgno, version = chance.randrange(1, 400), chance.randrange(1, 4)
        page = cache.page(pgno, version)
        if page is None:
            cache.store(pgno, version, content(pgno, version))
        elif page != content(pgno, version):
            os._exit(3)
    cache.close()


def test_processes_fill_one_cache_and_some_are_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=fill, args=(str(tmp_path), seed, 60.0 if seed % 2 else 2.0)) for seed in range(4)
    ]
    for worker in workers:
        worker.start()
    time.sleep(1.5)
    for worker in workers[1::2]:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, -9, 0, -9]
    cache = make(tmp_path, budget=256 * 1048)
    here = [(p, v) for p in range(1, 400) for v in range(1, 4) if cache.page(p, v) is not None]
    assert here
    assert all(cache.page(p, v) == content(p, v) for p, v in here)
    cache.close()
