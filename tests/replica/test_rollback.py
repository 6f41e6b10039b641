"""Changing a live database in place: SQLite's readers and ours exclude each other, in this process too."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from vfsstream.errors import DeadlineExceeded, Interrupted
from vfsstream.replica.rollback import Rewriter, roll_back

SIZE = 4096


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA page_size={SIZE}")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, body TEXT)")
        db.executemany("INSERT INTO t VALUES (?, 0, ?)", ((n, "x" * 900) for n in range(100)))
        db.commit()
    return path


def pages(path: Path) -> dict[int, bytes]:
    data = path.read_bytes()
    return {n + 1: data[n * SIZE : (n + 1) * SIZE] for n in range(len(data) // SIZE)}


@pytest.fixture
def after(database: Path, tmp_path: Path) -> dict[int, bytes]:
    """The database after one more transaction."""
    copy = tmp_path / "copy"
    copy.write_bytes(database.read_bytes())
    with closing(sqlite3.connect(copy)) as db:
        db.execute("UPDATE t SET n = 1")
        db.commit()
    return pages(copy)


@pytest.fixture
def reader(database: Path, after: dict[int, bytes]) -> Iterator[apsw.Connection]:
    """A connection of this process in the middle of a read transaction.

    From here on the test may not open the file itself: closing it would drop SQLite's locks.
    """
    db = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    db.execute("PRAGMA cache_size=1")
    db.execute("BEGIN; SELECT n FROM t WHERE id = 1").fetchall()
    yield db
    db.close()


def rewrite(
    path: Path,
    new: dict[int, bytes],
    seconds: float = 20.0,
    stop: threading.Event | None = None,
    file: int | None = None,
) -> None:
    with Rewriter(path, SIZE, seconds, stop or threading.Event(), file) as rewriter:
        rewriter.prepare(range(1, rewriter.pages() + 1))
        rewriter.write(sorted(new.items()), len(new))


needs_own_locks = pytest.mark.skipif(
    not hasattr(fcntl, "F_OFD_SETLK"),
    reason="only Linux has locks of an open file; others wait for other processes",
)


@needs_own_locks
def test_a_reader_of_this_process_is_waited_for(
    database: Path, reader: apsw.Connection, after: dict[int, bytes]
) -> None:
    file = os.open(database, os.O_RDWR)
    with pytest.raises(DeadlineExceeded, match="busy"):
        rewrite(database, after, seconds=0.2, file=file)
    assert reader.execute("SELECT sum(n) FROM t").get == 0
    reader.execute("COMMIT")
    rewrite(database, after, file=file)
    assert reader.execute("SELECT sum(n) FROM t").get == 100
    assert reader.execute("PRAGMA integrity_check").get == "ok"
    os.close(file)


@needs_own_locks
def test_readers_of_this_process_wait_for_the_change(database: Path, after: dict[int, bytes]) -> None:
    with closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        found: list[object] = []

        def slowly() -> Iterator[tuple[int, bytes]]:
            for item in sorted(after.items()):
                if item[0] == 3:
                    with pytest.raises(apsw.BusyError):
                        found.append(db.execute("SELECT sum(n) FROM t").get)
                yield item

        with Rewriter(database, SIZE, 20.0, threading.Event()) as rewriter:
            rewriter.prepare(range(1, rewriter.pages() + 1))
            rewriter.write(slowly(), len(after))
        assert not found
        assert db.execute("SELECT sum(n) FROM t").get == 100


def _hold(path: str, ready: multiprocessing.synchronize.Event, go: multiprocessing.synchronize.Event) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("SELECT n FROM t WHERE id = 1").fetchall()
        ready.set()
        go.wait(60)


def test_a_reader_of_another_process_is_waited_for(database: Path, after: dict[int, bytes]) -> None:
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(database), ready, go))
    process.start()
    assert ready.wait(60)
    with pytest.raises(DeadlineExceeded):
        rewrite(database, after, seconds=0.2)
    go.set()
    process.join(60)
    rewrite(database, after)
    assert pages(database) == after


def test_the_wait_can_be_interrupted(database: Path, reader: apsw.Connection, after: dict[int, bytes]) -> None:
    if not hasattr(fcntl, "F_OFD_SETLK"):
        pytest.skip("the reader of this process would not be waited for")
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Interrupted):
        rewrite(database, after, seconds=60, stop=stop)


def _die_in_the_middle(path: str, new: dict[int, bytes]) -> None:
    def until_death() -> Iterator[tuple[int, bytes]]:
        for pgno, page in sorted(new.items()):
            if pgno == len(new) // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield pgno, page

    with Rewriter(Path(path), SIZE, 20.0, threading.Event()) as rewriter:
        rewriter.prepare(range(1, rewriter.pages() + 1))
        rewriter.write(until_death(), len(new))


@pytest.mark.parametrize("by", ["the next reader", "us"])
def test_a_change_cut_off_in_the_middle_is_rolled_back(database: Path, after: dict[int, bytes], by: str) -> None:
    before = pages(database)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_die_in_the_middle, args=(str(database), after))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert pages(database) != before
    if by == "us":
        roll_back(database)
        assert pages(database) == before
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT sum(n) FROM t").fetchall() == [(0,)]
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
