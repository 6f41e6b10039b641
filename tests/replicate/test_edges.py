"""Edge cases."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.replicate.case import Case
from tests.replicate.live import connect, contents, restore_theirs, run_python, wait_until
from vfsstream.errors import DatabaseError, DeadlineExceeded, DiskFull, Interrupted, StoreError
from vfsstream.ltx import Decoder, encode
from vfsstream.replica import Replica
from vfsstream.replicate.backoff import Backoff
from vfsstream.replicate.capture import Capture
from vfsstream.replicate.checkpoint import checkpoint
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Checkpointed, Event, Recovered, Synced, SyncFailed, UploadFailed
from vfsstream.replicate.localfiles import LocalFiles, meta_path_for
from vfsstream.replicate.replicator import once
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.source import Source
from vfsstream.replicate.state import StateRecord
from vfsstream.replicate.status import CloseResult
from vfsstream.replicate.wal import frame_end, iter_frames
from vfsstream.stores import base
from vfsstream.stores.memory import MemoryStore
from vfsstream.stores.retry import RetryPolicy, RetryStore

# --- the log ----------------------------------------------------------------------------------------------------


def test_whoever_writes_all_the_time_does_not_keep_checkpoints_away(case: Case) -> None:
    """Each file covers one transaction, and while it is written two more come: the log is truncated all the same."""
    left = 1500

    def at_point(point: str) -> None:
        nonlocal left
        if point == "capture:recorded" and left and not checkpointed():
            left -= 2
            case.write(2)

    def checkpointed() -> bool:
        return any(isinstance(event, Checkpointed) for event in case.events)

    settings = Settings(max_sync_wal_bytes=1, truncate_pages=200)
    database = Database(
        case.path, f"file://{case.replica}", settings=settings, observer=case.events.append, at_point=at_point
    )
    with database:
        while left and not checkpointed():
            database._next_look = 0.0
            database.step_capture()
        assert left, "the log was truncated before the writer paused"
        once(database)
    case.same()


@pytest.mark.parametrize("size", [None, 0, 10, 31, 32, 500])
def test_a_log_that_is_gone_or_cut_short_between_runs(case: Case, size: int | None) -> None:
    """What the application had committed there was copied into the database; nothing is missing, nothing stops."""
    case.turn()
    case.write()
    case.turn()
    case.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    case.writer.close()  # the last to close deletes the log
    log = Path(f"{case.path}-wal")
    if size is not None:
        log.write_bytes(bytes(size))
    for _ in range(2):
        case.turn()
        case.writer = connect(case.path)
        case.write()
        case.turn()
        case.same()
        case.writer.close()
    case.writer = connect(case.path)


@pytest.mark.parametrize("same_lap", [True, False])
def test_a_newest_file_that_holds_no_frames_of_the_log(case: Case, same_lap: bool) -> None:
    """Litestream writes WALOffset 32 and WALSize 0 there, and so may others: no offset may come out negative."""
    case.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    case.write(1)
    case.turn()
    newest = case.newest_local()
    decoder = Decoder([newest.read_bytes()])
    header = replace(decoder.header, wal_offset=32, wal_size=0)
    if not same_lap:
        header = replace(header, wal_salt1=header.wal_salt1 ^ 0xFFFF)
    forged = b"".join(encode(header, list(decoder)))
    for path in (newest, case.replica / "ltx" / "0" / newest.name):
        path.write_bytes(forged)
    StateRecord(meta_path_for(case.path) / "vfsstream").forget()
    case.write()
    case.events.clear()
    case.turn()
    written = [event for event in case.events if isinstance(event, Synced)]
    assert [int(event.txid) for event in written] == [2]
    assert case.reasons() == ([] if same_lap else ["the log was restarted while nobody watched"])
    case.same()


def settle(database: Database, steps: int = 20) -> None:
    """Rounds of an idle database, each as thorough as after a long pause."""
    for _ in range(steps):
        database._next_look = database._quiet_until = 0.0
        database.step()


def test_the_size_of_the_log_file_is_not_the_size_of_the_lap(case: Case) -> None:
    """The threshold makes one checkpoint and no file; stale frames of the lap before make none at all."""
    with case.database(min_checkpoint_pages=30, monitor_interval=timedelta(microseconds=1)) as database:
        database.sync()
        assert database.position == 1
        case.write(60)
        settle(database)
        assert database.position == 2, "the first file, the data, and no file for the checkpoint"
        checkpoints = database.status().checkpoints
        assert checkpoints >= 1
        case.write(1)  # begins a new lap in a file that stays as large as it was
        settle(database)
        assert database.position == 3
        assert Path(f"{case.path}-wal").stat().st_size > frame_end(30, 4096)
        assert database.status().checkpoints == checkpoints
    case.same()


def test_the_timer_forgets_no_write_and_runs_for_nothing_else(case: Case) -> None:
    interval = timedelta(milliseconds=300)
    with case.database(checkpoint_interval=interval, monitor_interval=timedelta(milliseconds=5)) as database:
        database.checkpoint()
        case.write(1)
        database.step()  # most likely too early for the timer

        def looked() -> bool:
            if database.poll_capture():
                database.step_capture()
            return database.status().checkpoints == 2

        wait_until(looked, "the write is checkpointed although nothing else was written")
        database._last_checkpoint -= 3600
        settle(database)
        assert database.status().checkpoints == 2, "nothing was written since"
    case.same()


def test_an_emergency_is_over_when_the_reader_leaves(case: Case) -> None:
    """While somebody reads, attempts become rare and write no file; then the log is truncated, once."""
    settings = {"truncate_pages": 40, "min_checkpoint_pages": 20, "busy_timeout": timedelta(milliseconds=20)}
    with case.database(**settings, monitor_interval=timedelta(microseconds=1)) as database:
        database.sync()
        reader = connect(case.path)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchall()
        case.write(100)
        settle(database)
        assert database.position == 2
        tried = [event.result for event in case.events if isinstance(event, Checkpointed)]
        assert 1 <= len(tried) <= 4
        assert not any(result.complete for result in tried)
        reader.execute("ROLLBACK")
        database._pacing._not_before = 0.0
        settle(database)
        assert Path(f"{case.path}-wal").stat().st_size == 0
        last = case.events[-1]
        assert isinstance(last, Checkpointed)
        assert last.result.truncated
        before = database.status().checkpoints
        case.write(1)
        settle(database)
        assert database.status().checkpoints == before, "far below the threshold again"
        reader.close()
    case.same()


def test_no_truncation_waits_for_our_own_reader_while_the_writers_wait(case: Case) -> None:
    """A commit that came after the seal cannot be copied for as long as we read."""

    def at_point(point: str) -> None:
        if point == "checkpoint:released":
            case.write(1)

    patience = timedelta(seconds=20)
    database = Database(
        case.path, f"file://{case.replica}", settings=Settings(busy_timeout=patience), at_point=at_point
    )
    with database:
        once(database)
        case.write()
        result = database.checkpoint(wait_for_readers=True)
        assert (result.complete, result.truncated) == (True, False)
        assert result.stall_seconds < patience.total_seconds()
        once(database)
    case.same()


WRITER = """
import apsw, sys, time
db = apsw.Connection(sys.argv[1])
db.set_busy_timeout(60_000)
db.wal_autocheckpoint(0)
print("ready", flush=True)
count = 0
while count < 3000 and not sys.stdin.closed:
    with db:
        for _ in range(3):
            db.execute("INSERT INTO t(x) VALUES(randomblob(3000))")
        db.execute("DELETE FROM t WHERE id % 7 = ? AND id > 50", (count % 7,))
    count += 1
    time.sleep(0.002)
    if count % 20 == 0:
        print(count, flush=True)
"""


@pytest.mark.interop
def test_truncating_checkpoints_beside_a_writer_lose_no_page(case: Case, litestream: str) -> None:
    """No file of all pages is needed at the boundary: nothing can slip in that would be cut off."""
    slipped = 0

    def at_point(point: str) -> None:
        nonlocal slipped
        if point == "checkpoint:released":  # after the last look at the log, before it is truncated
            slipped += 1
            case.write(1)

    settings = Settings(busy_timeout=timedelta(seconds=60))
    database = Database(
        case.path, f"file://{case.replica}", settings=settings, observer=case.events.append, at_point=at_point
    )
    database.open()
    database.sync()
    process = run_python(WRITER, case.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for _ in range(12):
            process.stdout.readline()
            database.checkpoint(wait_for_readers=True)
        process.kill()
    once(database)
    assert database.close().uploaded
    assert slipped == 12
    assert case.reasons() == ["first capture"]
    assert contents(restore_theirs(litestream, case.replica, case.target)) == contents(case.writer)
    case.same()


def test_pages_of_a_growth_that_no_new_frame_holds_come_from_where_they_are(case: Case) -> None:
    """From older frames of the lap, else from the database; a page that has a new frame comes from there."""
    local = LocalFiles(meta_path_for(case.path), case.path)
    local.prepare()
    source = Source(case.path, timedelta(seconds=1))
    capture = Capture(source, local)
    for copied in (False, True):
        assert capture.step() is not None
        if copied:
            assert checkpoint(source, capture, Settings())[0].complete
        assert capture.captured is not None
        whole = capture.captured.commit
        capture.captured = replace(capture.captured, commit=whole - 4)  # as if it had been smaller then
        case.writer.execute("UPDATE t SET x=randomblob(1500) WHERE id=(SELECT max(id) FROM t)")
        written = capture.step()
        assert written is not None
        assert written.commit == whole
        pages = dict(Decoder([case.newest_local().read_bytes()]))
        assert set(pages) >= set(range(whole - 3, whole + 1))
        with capture.image() as image:
            shown = {pgno: bytes(page) for pgno, page in image.pages}
        assert all(page == shown[pgno] for pgno, page in pages.items())
        case.write(30)
    source.close()


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_sqlite_writes_every_page_by_which_a_database_grows_to_the_log(tmp_path: Path, page_size: int) -> None:
    """What capture relies on, and what the check before an upload would find otherwise."""
    writer = connect(tmp_path / "app.db", page_size=page_size)
    statements = (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x)",
        "INSERT INTO t(x) VALUES(zeroblob(900000))",
        "BEGIN; INSERT INTO t(x) VALUES(randomblob(700000)); DELETE FROM t WHERE id=2; COMMIT",
        "BEGIN; CREATE TABLE u(x); INSERT INTO u VALUES(randomblob(500000)); DROP TABLE u; COMMIT",
        "SAVEPOINT s; INSERT INTO t(x) VALUES(randomblob(400000)); ROLLBACK TO s; RELEASE s",
        "DELETE FROM t; VACUUM",
        "INSERT INTO t(x) VALUES(randomblob(600000))",
        "CREATE INDEX i ON t(x)",
        "PRAGMA cache_size=5; BEGIN; INSERT INTO t(x) VALUES(randomblob(2000000)); DELETE FROM t; COMMIT",
        "INSERT INTO t(x) VALUES(randomblob(3000000))",
    )
    for statement in statements:
        writer.execute(statement).fetchall()
    data = Path(f"{tmp_path}/app.db-wal").read_bytes()[32:]
    commit, seen, grown = 0, set(), 0
    for frame in iter_frames(data, page_size):
        seen.add(frame.pgno)
        if frame.commit:
            assert set(range(commit + 1, frame.commit + 1)) <= seen
            grown += max(0, frame.commit - commit)
            commit, seen = frame.commit, set()
    assert grown > 6_000_000 // page_size
    writer.close()


# --- failures that change nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "checkpointing"),
    [
        *(("capture:encoded", mode) for mode in (None, False, True)),
        *(("capture:published", mode) for mode in (None, False, True)),
        *(("checkpoint:sealed", mode) for mode in (False, True)),
        *(("checkpoint:released", mode) for mode in (False, True)),
    ],
)
def test_a_step_that_fails_changes_nothing_and_the_next_one_makes_up_for_it(
    case: Case, point: str, checkpointing: bool | None
) -> None:
    fails = False

    def at_point(reached: str) -> None:
        if fails and reached == point:
            raise DatabaseError("it cannot be")

    database = Database(case.path, f"file://{case.replica}", observer=case.events.append, at_point=at_point)
    database.open()
    once(database)
    for _ in range(2):
        case.write()
        before, shown = database.position, database._capture.captured if database._capture else None
        fails = True
        step = (
            database.sync if checkpointing is None else lambda: database.checkpoint(wait_for_readers=checkpointing)
        )
        with pytest.raises(DatabaseError, match="cannot be"):
            step()
        fails = False
        assert database.position - before in (0, 1)
        if database.position == before and database._capture is not None:
            assert database._capture.captured == shown
        assert not list(meta_path_for(case.path).rglob("*.tmp"))
        case.write(1)  # which may begin a new lap
        once(database)
        txids = [int(txid) for txid in database.local.txids()]
        assert txids == list(range(1, database.position + 1))
        case.same()
    case.write()
    assert database.close().uploaded
    case.same()


@pytest.mark.parametrize("step", ["open", "sync", "rename"])
def test_a_full_disk_is_told_with_step_path_and_txid_whatever_runs_into_it(
    case: Case, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a real small volume cannot show: it is full when the file is opened, synchronized or renamed."""
    full = False
    calls = {"open": "open", "sync": "fsync", "rename": "replace"}
    real = getattr(os, calls[step])

    def fails(path: object, *arguments: object, **options: object) -> object:
        if full and (step == "sync" or ".ltx" in str(path)):
            raise OSError(errno.EDQUOT if step == "open" else errno.ENOSPC, "it is full")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, calls[step], fails)
    with case.database() as database:
        once(database)
        case.write()
        full = True
        with pytest.raises(DiskFull, match=rf"cannot (write|publish) .*{2:016x}.* for TXID {2:016x}: it is full"):
            database.sync()
        assert database.status().disk_full
        assert not list(meta_path_for(case.path).rglob("*.tmp"))
        full = False
        case.writer.execute("PRAGMA locking_mode=EXCLUSIVE")
        database._sync_failed(DatabaseError("something else"))
        assert not database.status().disk_full, "it is the last error that counts"
        database._sync_backoff = Backoff(0.0, 0.0)
        database._sync_backoff.failed(0.0)
        settle(database, 1)
        assert database.position == 2
        assert [event.what for event in case.events if isinstance(event, Recovered)] == ["sync"]
        assert database.status().last_error is None
        case.writer.execute("PRAGMA locking_mode=NORMAL")
        case.write(1)
        once(database)
    case.same()


def test_an_error_while_a_database_is_opened_counts_as_an_error_of_the_capture(tmp_path: Path) -> None:
    path, events = tmp_path / "app.db", list[Event]()
    path.write_bytes(b"this is no database " * 300)
    database = Database(path, f"file://{tmp_path}/replica", observer=events.append)
    database.open()
    database.step()
    assert [type(event) for event in events] == [SyncFailed]
    assert database.status().consecutive_errors == 1
    assert isinstance(database.status().last_error, DatabaseError)
    path.unlink()
    writer = connect(path)
    writer.execute("CREATE TABLE t(x)")
    once(database)
    assert database.status().last_error is None
    writer.close()
    assert database.close().uploaded


def test_a_source_is_closed_twice_and_lets_its_transaction_go_twice(case: Case) -> None:
    source = Source(case.path, timedelta(seconds=1))
    for _ in range(2):
        source.end_read()
    for _ in range(2):
        source.close()
    with case.database() as database:
        once(database)
        for _ in range(2):
            assert database.close().uploaded


def test_a_close_that_was_interrupted_releases_everything(case: Case) -> None:
    threads = threading.active_count()
    database = case.database()
    once(database)
    case.write()
    database.interrupt()
    assert not database.close().uploaded
    assert case.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall() == [(0, 0, 0)], "nobody reads"
    assert threading.active_count() == threads
    with os.scandir("/proc/self/fd") as open_files:
        names = [os.readlink(entry) for entry in open_files]
    assert not [name for name in names if str(meta_path_for(case.path)) in name]
    case.turn()
    case.same()


# --- waiting and giving up ---------------------------------------------------------------------------------------


class Stuck(MemoryStore):
    """Its puts do not end before they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.free = threading.Event(), threading.Event()

    def put(
        self, key: str, source: base.Source, *, metadata: Mapping[str, str] | None = None, if_absent: bool = False
    ) -> base.ObjectInfo:
        if key.endswith(".ltx"):
            self.begun.set()
            assert self.free.wait(60)
        return super().put(key, source, metadata=metadata, if_absent=if_absent)


@contextlib.contextmanager
def beside(work: object) -> Iterator[threading.Thread]:
    """Something that goes on in another thread."""
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    try:
        yield thread
    finally:
        thread.join(60)
        assert not thread.is_alive()


def test_whoever_waits_for_the_replica_is_not_held_up_by_another_thread_s_upload(case: Case) -> None:
    store = Stuck()
    database = Database(case.path, Replica(store))
    database.open()
    database.sync()
    told: list[BaseException] = []

    def waits() -> None:
        try:
            database.sync_and_wait(0.2)
        except DeadlineExceeded as error:
            told.append(error)

    with beside(database.step_upload):
        assert store.begun.wait(60)
        with beside(waits) as waiting:
            waiting.join(20)
            in_time = not waiting.is_alive()
            store.free.set()
    assert in_time
    assert "another thread" in str(told[0])
    assert database.close().uploaded


def test_a_close_that_was_interrupted_before_it_began_asks_the_replica_nothing(case: Case) -> None:
    events: list[Event] = []
    for met in (False, True):
        store = MemoryStore()
        database = Database(case.path, Replica(store), observer=events.append)
        database.open()
        if met:
            database.sync_and_wait()
        case.write()
        database.interrupt()
        store.calls.clear()
        result = database.close()
        assert store.calls == []
        assert (result.uploaded, type(result.error)) == (False, Interrupted)
        assert result.position > (result.replica_position or 0), "captured all the same"
    assert not [event for event in events if isinstance(event, UploadFailed)], "giving up is no failure"


@pytest.mark.parametrize("operation", ["list", "put"])
def test_an_interrupt_ends_the_pause_between_two_tries(case: Case, operation: str) -> None:
    asked = threading.Event()

    def fault(what: str, key: str) -> None:
        if what == operation and "ltx" in key:
            asked.set()
            raise StoreError("the line is down", retryable=True)

    patient = RetryPolicy(attempts=1000, base_delay=3600, max_delay=3600, deadline=None)
    store = RetryStore(MemoryStore(fault=fault), patient)
    database = Database(case.path, Replica(store), settings=Settings(shutdown_sync_timeout=timedelta(hours=1)))
    database.open()
    results: list[CloseResult] = []
    with beside(lambda: results.append(database.close())) as closing:
        assert asked.wait(60)
        database.interrupt()
        closing.join(20)
        in_time = not closing.is_alive()
        store._stop.set()
    assert in_time
    assert isinstance(results[0].error, Interrupted)
