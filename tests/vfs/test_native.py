"""A complete local copy is read by SQLite's own code: the same answers, one state per transaction, no Python."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

import apsw
import pytest

import vfsstream
from tests.vfs.live import wait_until
from tests.vfs.recorder import Recorder, recorder
from vfsstream.errors import CorruptError, DeadlineExceeded, StoreError, VfsstreamError
from vfsstream.vfs import hydrate, native
from vfsstream.vfs.failures import for_sqlite
from vfsstream.vfs.file import ReplicaFile
from vfsstream.vfs.native import hydrator_of, is_native
from vfsstream.vfs.registry import registry
from vfsstream.vfs.vfs import file_of


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Recorder]:
    for made in recorder(tmp_path):
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, body TEXT)",
            *(("INSERT INTO t VALUES (?, 0, ?)", (n, f"row {n} " * 30)) for n in range(1, 400)),
        )
        made.snapshot()
        yield made


Open = Callable[..., apsw.Connection]


@pytest.fixture
def opened(primary: Recorder, tmp_path: Path) -> Iterator[Open]:
    """The first connection waits until the copy is complete; all others are opened on it."""
    connections: list[apsw.Connection] = []
    options = {"hydration_enabled": True, "hydration_path": str(tmp_path / "copy.db"), "poll_interval": "50ms"}

    def open_one(**more: object) -> apsw.Connection:
        if not connections:
            connections.append(vfsstream.connect(primary.url, **options, **more))  # type: ignore[arg-type]
            progress = "PRAGMA litestream_hydration_progress"
            wait_until(lambda: connections[0].execute(progress).get == "100", what="the copy")
        connections.append(vfsstream.connect(primary.url, **options, **more))  # type: ignore[arg-type]
        return connections[-1]

    yield open_one
    for connection in connections:
        connection.close()
    registry.close_idle()


def the_file(db: apsw.Connection) -> ReplicaFile:
    found = file_of(db)
    assert found is not None
    return found


def direct(db: apsw.Connection) -> bool:
    """Does a transaction that begins now read the copy itself?"""
    db.execute("BEGIN; SELECT 1 FROM t LIMIT 1").fetchall()
    try:
        return is_native(the_file(db))
    finally:
        db.execute("COMMIT")


QUERIES = [
    "SELECT count(*), sum(n), sum(length(body)) FROM t",
    "SELECT * FROM t ORDER BY body DESC, id LIMIT 20",
    "SELECT a.id FROM t a JOIN t b ON b.id = a.id * 2 WHERE a.id < 50",
    "PRAGMA integrity_check",
    "PRAGMA page_count",
]


def test_the_answers_are_the_primary_s_and_no_read_enters_python(
    primary: Recorder, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = opened()
    assert direct(db)

    def refuse(*_: object) -> bytes:
        raise AssertionError("a read entered Python")

    monkeypatch.setattr(ReplicaFile, "xRead", refuse)
    for query in QUERIES:
        expected = [tuple(row) for row in primary.db.execute(query)]
        assert [tuple(row) for row in db.execute(query)] == expected
    assert [tuple(row) for row in db.execute("SELECT sum(n) FROM t")] == [(0,)]


def entries(query: Callable[[], object]) -> Counter[str]:
    """The Python functions that C code calls during a query."""
    found: Counter[str] = Counter()

    def look(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_back is not None and frame.f_back.f_code is entries.__code__:
            found[frame.f_code.co_name] += 1

    sys.setprofile(look)
    query()
    sys.setprofile(None)
    return found


def test_a_transaction_enters_python_for_its_locks_and_two_names_only(opened: Open) -> None:
    db = opened()
    look_up = partial(db.execute, "SELECT n FROM t WHERE id = 7")
    look_up().fetchall()
    found = entries(look_up)
    assert found == {"_lock": 1, "_unlock": 1, "xAccess": 2}


def test_it_is_still_a_replica(primary: Recorder, opened: Open) -> None:
    db = opened()
    assert direct(db)
    assert db.execute("PRAGMA litestream_txid").get == f"{primary.txid:016x}"
    assert db.execute("SELECT litestream_txid()").get == f"{primary.txid:016x}"
    assert db.execute("PRAGMA journal_mode").get == "delete"
    with pytest.raises(apsw.ReadOnlyError):
        db.execute("DELETE FROM t")
    with pytest.raises(apsw.SQLError):
        db.execute("PRAGMA litestream_time='not a time at all'")
    assert db.execute("SELECT count(*) FROM t").get == 399


def test_a_transaction_keeps_its_state_while_the_copy_wants_to_move(primary: Recorder, opened: Open) -> None:
    old, new = opened(), opened()
    old.execute("PRAGMA cache_size=2")
    old.execute("BEGIN; SELECT n FROM t WHERE id = 1").fetchall()
    assert is_native(the_file(old))
    txid = primary.commit("UPDATE t SET n = 7", "DELETE FROM t WHERE id > 300")
    assert new.execute("PRAGMA litestream_refresh").get == f"{txid:016x}"
    # The copy waits for the old transaction: the new state is read in the other way meanwhile.
    assert new.execute("SELECT count(*), sum(n) FROM t").fetchall() == [(300, 2100)]
    assert not direct(new)
    assert old.execute("SELECT count(*), sum(n) FROM t").fetchall() == [(399, 0)]
    assert old.execute("PRAGMA integrity_check").get == "ok"
    old.execute("COMMIT")
    wait_until(lambda: direct(new), what="the update of the copy")
    assert old.execute("SELECT count(*), sum(n) FROM t").fetchall() == [(300, 2100)]
    assert direct(old)
    assert [tuple(r) for r in old.execute("PRAGMA integrity_check")] == [("ok",)]


def test_a_transaction_that_never_ends_stops_the_copy_and_nothing_else(
    primary: Recorder, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hydrate, "PATIENCE", 0.05)
    old, new = opened(), opened()
    old.execute("BEGIN; SELECT n FROM t WHERE id = 1").fetchall()
    primary.commit("UPDATE t SET n = 1")
    new.execute("PRAGMA litestream_refresh").fetchall()
    hydrator = hydrator_of(the_file(new))
    assert hydrator is not None
    wait_until(lambda: hydrator.trouble is not None, what="the end of its patience")
    assert "read transaction" in str(hydrator.trouble)
    assert (old.execute("SELECT sum(n) FROM t").get, new.execute("SELECT sum(n) FROM t").get) == (0, 399)
    old.execute("COMMIT")
    wait_until(lambda: direct(new), what="the next try")
    assert new.execute("SELECT sum(n) FROM t").get == 399


def test_no_reader_sees_half_an_update(primary: Recorder, opened: Open) -> None:
    readers = [opened() for _ in range(4)]
    for reader in readers:
        reader.execute("PRAGMA cache_size=2")
    database = the_file(readers[0]).database
    stop, wrong = threading.Event(), list[object]()

    def read(db: apsw.Connection) -> None:
        while not stop.is_set():
            low, high, count = db.execute("SELECT min(n), max(n), count(*) FROM t").fetchall()[0]
            if low != high or count != 399:
                wrong.append((low, high, count))

    threads = [threading.Thread(target=read, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for number in range(1, 30):
        txid = primary.commit(f"UPDATE t SET n = {number}")
        wait_until(lambda txid=txid: database.current.view.txid >= txid)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not wrong
    wait_until(lambda: direct(readers[0]), what="the last update of the copy")
    assert readers[0].execute("SELECT min(n) FROM t").get == 29


def test_a_fixed_state_is_read_directly_without_any_lock(primary: Recorder, opened: Open) -> None:
    db = opened(txid="1")
    assert the_file(db).moment.view.txid == 1
    assert is_native(the_file(db))
    assert db.execute("SELECT count(*) FROM t").get == 399


def _other_process(url: str, path: str, answer: multiprocessing.Queue[object]) -> None:
    db = vfsstream.connect(url, hydration_enabled=True, hydration_path=path)
    wait_until(lambda: db.execute("PRAGMA litestream_hydration_progress").get == "100")
    answer.put((db.execute("PRAGMA litestream_hydration_file").get, db.execute("SELECT count(*) FROM t").get))
    db.close()


def test_one_process_keeps_the_copy_current_and_others_have_their_own(
    primary: Recorder, opened: Open, tmp_path: Path
) -> None:
    db = opened()
    context = multiprocessing.get_context("spawn")
    answer: multiprocessing.Queue[object] = context.Queue()
    process = context.Process(target=_other_process, args=(primary.url, str(tmp_path / "copy.db"), answer))
    process.start()
    assert answer.get(timeout=120) == ("", 399)
    process.join(60)
    assert db.execute("PRAGMA litestream_hydration_file").get == str(tmp_path / "copy.db")
    assert direct(db)


@pytest.mark.parametrize(
    ("failure", "seen"),
    [
        (StoreError("the disk of the server is on fire"), apsw.IOError),
        (CorruptError("page 7 is not what it was"), apsw.CorruptError),
        (DeadlineExceeded("no answer to that"), apsw.IOError),
    ],
)
def test_the_cause_of_a_failure_reaches_the_user(
    primary: Recorder,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    failure: VfsstreamError,
    seen: type[Exception],
) -> None:
    """SQLite's own code reads the file, so a failure passes through it as a bare number."""
    db = opened()
    db.execute("PRAGMA cache_size=1")

    def fail(*_: object) -> None:
        raise for_sqlite(failure) from None

    def fail_later(file: ReplicaFile, amount: int, offset: int) -> object:
        return fail() if offset >= 4096 else read(file, amount, offset)

    read = ReplicaFile.xRead
    for method, broken in (("xLock", fail), ("xRead", fail), ("xRead", fail_later)):
        for query in ("SELECT sum(n) FROM t", "PRAGMA integrity_check"):
            with monkeypatch.context() as patch:
                # As while the copy is being updated.
                patch.setattr(native._Open, "begin", lambda _: False)
                patch.setattr(native._Open, "choose", lambda entry: setattr(entry.methods, "value", entry.python))
                patch.setattr(ReplicaFile, method, broken)
                db.execute("BEGIN")
                with pytest.raises(seen, match=failure.message) as caught:
                    db.execute(query).fetchall()
            assert isinstance(caught.value, type(failure))
            assert not db.in_transaction  # SQLite ends it after such an error
            primary.commit("UPDATE t SET n = n + 1 WHERE id = 1")
            db.execute("PRAGMA litestream_refresh").fetchall()
            assert (
                db.execute("SELECT sum(n) FROM t").get == primary.db.execute("SELECT sum(n) FROM t").fetchone()[0]
            )
