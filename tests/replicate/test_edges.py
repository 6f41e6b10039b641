"""The edge cases that Litestream's own tests protect, and which test of ours does: the begin of its name is given.

==============================================================  ======================================================
edge case                                                       shown by
==============================================================  ======================================================
*Capture and the log*
sync before the database exists; it appears later               test_database: a database may appear later
log removed between runs, or shorter than its header            here: a log that is gone or cut short
log overwritten beyond the old position while down              test_silent_loss: b two restarts; test_decide: row
newest file with WALOffset 32 and WALSize 0                     here: a newest file that holds no frames of the log
no full file after own checkpoints of either mode               test_hardships: five rounds of writes and checkpoints
an idle database writes nothing after a checkpoint              test_hardships: five rounds of writes and checkpoints;
                                                                test_database: idle syncs write nothing
stale frames do not make the log large                          here: the size of the log file is not the size of the
                                                                lap
the timer fires only after a write and forgets none             here: the timer forgets no write
threshold: first file, data, and no file for the checkpoint     here: the size of the log file is not the size of the
                                                                lap
the byte limit splits at commits; a sync takes everything       test_database: the byte limit splits at commits
emergency truncation in the middle of a split catch-up          here: whoever writes all the time does not keep
                                                                checkpoints away
emergency: rare attempts beside a reader, over without him      here: an emergency is over when the reader leaves;
                                                                test_pacing: attempts without effect
truncate pages 0 is the default                                 test_pacing: settings that cannot be are refused
thresholds of large pages                                       test_hardships: thresholds are right; test_pacing:
                                                                when a checkpoint is due
TRUNCATE and concurrent writers: no page lost                   here: truncating checkpoints beside a writer;
                                                                test_failures: no commit slips in
TRUNCATE needs no file of all pages at its boundary             here: truncating checkpoints beside a writer, no
                                                                truncation waits for our own reader
VACUUM shrinks inside one range of the log                      test_database: growth shrinking and growth again,
                                                                every page size
growth without frames is filled, what has frames is not         here: pages of a growth that no new frame holds;
                                                                test_capture: an increment that lacks a page
SQLite logs every page by which a database grows                here: sqlite writes every page by which a database
                                                                grows
waits end in time and say why                                   here: whoever waits for the replica is not held up, an
                                                                interrupt ends the pause; test_follow: the rewriter
                                                                waits its turn
first come, first served at the executor                        cannot occur: background work that finds it being done
                                                                goes away, and the order of callers decides nothing
giving up is told as such, not as damage                        here: an interrupt ends the pause; test_compactor: a
                                                                merge can be interrupted; test_restore: progress ends
                                                                at the whole and stop
giving up in the middle of reading the log                      cannot occur: a read of the local log is not
                                                                interrupted
a step changes its state only when it succeeded                 here: a step that fails changes nothing
a step without work publishes no position of before             test_extremes: a close that finds the replica ahead;
                                                                test_begun_apart: it goes on above the replica
full disk: typed, with path, TXID and step                      here: a full disk is told; test_failures: a full disk
                                                                is named and survived
full disk: another error clears the gauge; it recovers          here: a full disk is told
errors while opening count as errors of the capture             here: an error while a database is opened
log deleted under a running replicator                          test_failures: the log is deleted while running
the read transaction ended twice                                here: a source is closed twice
a close after an interrupt releases everything                  here: a close that was interrupted releases everything
local file unreadable: an error that passes                     test_hardships: a local file that may not be read
local file damaged: set aside and made up for                   test_failures: a damaged newest file, a damaged file
                                                                is not uploaded
*Frames of the log*
other salts, checksum, short frame: the end                     test_wal: one flipped bit ends the chain, a cut frame
                                                                is not valid, a frame of another lap is not taken
bad magic, version, page size, checksum of the header           test_wal: damaged headers are no headers
salts of an unknown lap in between                              test_silent_loss: b two restarts; test_wal: a restart
                                                                adds one to the first salt; test_decide: every
                                                                combination
*Replica*
a backlog drains at once, partial progress counts               here: a backlog goes up at once
idle databases go on recording success                          here: an idle database goes on saying;
                                                                daemon/test_watching: a heart beats only while all is
                                                                well
the loop survives an error of the position                      here: uploading goes on by itself
restore, write, restore: TXIDs go on                            here: what is written after a restore; test_failures:
                                                                a database restored to an older state
an interrupt is logged as no error                              here: a close that was interrupted before it began
*Snapshots and compaction*
exactly the state at its TXID beside writers and checkpoints    test_database: a snapshot is the state at its txid
frames that are not captured are left out                       here: what is not in the snapshot
whoever asks gets one, the timetable skips duplicates           here: a snapshot that ends early; test_maintenance:
                                                                one shot snapshot and retention
an upload that ends early keeps no checkpoint away              here: a snapshot that ends early
not ready before there is a database, and then ready            here: a database that does not exist yet gets its
                                                                levels
no second merge in one interval, none without input             test_maintenance: a restart does not compact again, an
                                                                idle database costs nothing
a merge has the time of its last input                          test_compactor: every golden file is what we make of
                                                                its sources
a failing writer leaves no thread                               test_compactor: a failing store leaves nothing and no
                                                                threads
a dropped connection of an input is resumed                     stores/test_retry: a stream resumes where it broke;
                                                                faults/test_stores: reads survive cuts
local files are read where the remote is partial                here: a partial object harms no merge; test_compactor:
                                                                a local copy saves the download
snapshots are 24 h apart by default                             here: snapshots are a day apart
*Retention*
the newest of each level, one snapshot, the floor               plan/test_retention: snapshots, levels keep what
                                                                touches the floor, what retention makes of level 0
files of plans in flight                                        plan/test_retention: levels keep what touches the
                                                                floor; here: restores succeed while compaction and
                                                                retention run
level 0: merged and old only, nothing while level 1 is empty    plan/test_retention: l0
level 0: ends at the first young file                           plan/test_retention: l0 scanning stops
level 0: the newest stays, here and there                       plan/test_retention: l0; here: the newest local file
                                                                and the newest in the replica
deletion in the replica switched off                            test_maintenance: deletion can be left to others
local files go after their level                                test_maintenance: an hour of commits, deletion can be
                                                                left to others
*Restore*
the plan: every combination of levels, gaps, overlaps           here: a plan takes the same files; plan/test_restore:
                                                                the plan is litestreams, the worked example
exact TXIDs that miss, no files                                 here: a plan takes the same files; plan/test_restore:
                                                                an unreachable txid, without a full image
files shorter than a header                                     here: a file shorter than a header
a failing restore leaves nothing                                test_restore: a passing error is survived and a
                                                                lasting one leaves nothing, an existing database is
                                                                kept
errors while a file is opened are tried again                   test_restore: a passing error is survived
missing directories are made                                    here: a file shorter than a header
times over all levels; before and after the range               test_restore: every golden restore, times come from
                                                                headers; here: a time outside of the history;
                                                                plan/test_restore: a time is exclusive
an output or a sidecar is protected, an empty one is not        test_restore: an existing database is kept, a sidecar
                                                                without a database; here: an empty file is no database
-force replaces                                                 test_restore: force replaces database and sidecars
beside compaction and retention                                 here: restores succeed while compaction and retention
                                                                run; test_restore: a file removed between listing and
                                                                reading
after a compacted file is gone that lower levels cover          here: a compacted file may vanish
v0.3: snapshot alone, foreign names                             here: a backup of the old format without any log
v0.3: logs, several, later, shorter, missing slices             test_v03: several logs from a later index, a missing
                                                                segment is refused, a backup of the real old program
v0.3: generations, times, both formats                          test_v03: the newest snapshot of all generations,
                                                                which format is the newer one
following: each TXID, truncation after writing                  test_follow: it passes through every txid, whoever
                                                                opens the copy after a crash
following: gaps, overlaps, empty level 0                        here: following needs no level 0; test_follow: it
                                                                resumes after files were compacted away
following: checksums                                            test_follow: damage leaves the copy as it was
following: the -txid file, whole or as before                   here: the txid beside a copy is replaced as a whole
following: a -txid file without sense                           here: a copy whose txid makes no sense; test_follow: a
                                                                database without its txid
following: resuming, stale TXIDs                                test_follow: it resumes after files, another history
                                                                is not followed; test_defects: following cannot be
                                                                resumed
integrity checks and what they find                             here: what each integrity check finds; test_restore: a
                                                                failing integrity check changes nothing
*The end*
tries until it succeeds                                         here: a close tries until it succeeds
ends at the timeout; zero is one attempt                        test_failures: a close without the remote says so in
                                                                time; here: a close tries until it succeeds
an interrupt ends the waiting and the attempt                   here: an interrupt ends the pause; test_failures: a
                                                                second signal ends the close
interrupted before it began: no attempt                         here: a close that was interrupted before it began
*Stores and directories*
a store that cannot be opened opens no database                 here: one store that cannot be opened, one impossible
                                                                replica in a configuration
gaps and overlaps are told, by level and database               plan/test_contiguity: neighbours in the order given,
                                                                levels are looked at in order; test_maintenance:
                                                                validation reports
whether to delete reaches every database                        here: whether the replica may be deleted from
registering twice                                               test_service: two registrations at once, register and
                                                                unregister; here: one store that cannot be opened
files beside a database are none                                test_directory: scan
bursts of events are handled once                               cannot occur: directories are looked at in intervals,
                                                                without events
new directories inside new ones                                 test_directory: databases come and go
==============================================================  ======================================================
"""

from __future__ import annotations

import ast
import contextlib
import errno
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lz4.frame
import pytest

from tests.replicate.case import Case, Flaky
from tests.replicate.killed_service import fast
from tests.replicate.live import clear, connect, contents, restore_theirs, run_python, wait_until
from vfsstream.config.load import load_config
from vfsstream.daemon.fleet import Fleet, targets
from vfsstream.daemon.logs import Log
from vfsstream.daemon.settings import maintenance_settings
from vfsstream.errors import (
    DatabaseError,
    DeadlineExceeded,
    DiskFull,
    Interrupted,
    LtxError,
    MissingError,
    NotRestorable,
    StoreError,
)
from vfsstream.ltx import TXID, Decoder, Header, encode
from vfsstream.plan import restore_plan
from vfsstream.plan.compaction import Merge
from vfsstream.replica import Replica
from vfsstream.replicate.backoff import Backoff
from vfsstream.replicate.capture import Capture
from vfsstream.replicate.checkpoint import checkpoint
from vfsstream.replicate.compactor import Compactor
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Checkpointed, Event, Recovered, Synced, SyncFailed, UploadFailed
from vfsstream.replicate.follow import Follower, read_txid_file, write_txid_file
from vfsstream.replicate.integrity import IntegrityCheck
from vfsstream.replicate.localfiles import LocalFiles, meta_path_for
from vfsstream.replicate.replicator import Replicator, once
from vfsstream.replicate.restore import restore
from vfsstream.replicate.service import Service
from vfsstream.replicate.servicestatus import ServiceSettings
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.snapshot import snapshot_from_database
from vfsstream.replicate.source import Source
from vfsstream.replicate.state import StateRecord
from vfsstream.replicate.status import CloseResult
from vfsstream.replicate.timetable import Compacted, MaintenanceSettings, Retired, SnapshotTaken
from vfsstream.replicate.v03 import restore_old
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
        if fails and reached == "capture:recorded":
            case.write(1)  # is left for the seal

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


def test_an_interrupted_close_tells_what_was_in_the_way(case: Case) -> None:
    remote = Flaky()
    for met in (False, True):
        database = Database(case.path, remote.replica)
        database.open()
        database.sync()
        remote.up = False
        if met:
            database.step_upload()
        database.interrupt()
        result = database.close(time.monotonic() + (3600 if met else 0))
        assert isinstance(result.error, StoreError), "why it failed, or that its time was over"
        assert isinstance(result.error, DeadlineExceeded) is not met
        remote.up = True


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


# --- the replica ------------------------------------------------------------------------------------------------


def test_a_backlog_goes_up_at_once_and_an_error_in_its_middle_keeps_what_arrived(case: Case) -> None:
    fails_at = 0

    def fault(operation: str, key: str) -> None:
        if operation == "put" and key.endswith(f"{fails_at:016x}.ltx"):
            raise StoreError("the line is down", retryable=True)

    store = MemoryStore(fault=fault)
    with Database(case.path, Replica(store)) as database:
        once(database)
        for _ in range(12):
            case.write(1)
            database.sync()
        fails_at = 8
        with pytest.raises(StoreError):
            database.upload()
        assert database.replica_position == 7
        assert database.status().lag_txids == 6
        fails_at = 0
        store.calls.clear()
        assert database.upload() == 13
        assert [operation for operation, key in store.calls if "ltx/0" in key] == ["put"] * 6
    restore(Replica(store), case.target, integrity_check="full")
    assert contents(case.target) == contents(case.writer)


def test_an_idle_database_goes_on_saying_that_all_is_well(case: Case) -> None:
    """Or a heartbeat would stop."""
    quick = Settings(monitor_interval=timedelta(milliseconds=20))
    with Replicator(case.path, f"file://{case.replica}", settings=quick) as replicator:
        replicator.sync_and_wait()
        position, since = replicator.status().position, datetime.now(UTC)

        def said_again() -> bool:
            at = replicator.status().last_sync_at
            return at is not None and at > since

        for _ in range(3):
            wait_until(said_again, "another sign of life")
            since = datetime.now(UTC)
        assert replicator.status().position == position


def test_uploading_goes_on_by_itself_after_a_local_file_could_not_be_read(case: Case) -> None:
    remote = Flaky()
    quick = Settings(sync_interval=timedelta(milliseconds=10), max_backoff=timedelta(milliseconds=50))
    with Replicator(case.path, remote.replica, settings=quick, observer=case.events.append) as replicator:
        replicator.sync_and_wait()
        remote.up = False
        case.write()
        txid = replicator.database.sync()
        newest = case.newest_local()
        newest.rename(newest.with_name("away"))
        newest.mkdir()  # whoever is root may read everything but this
        remote.up = True

        def failed() -> bool:
            errors = [event.error for event in case.events if isinstance(event, UploadFailed)]
            return sum(isinstance(error, DatabaseError) for error in errors) >= 3

        wait_until(failed, "it is tried again and again")
        newest.rmdir()
        newest.with_name("away").rename(newest)
        wait_until(lambda: replicator.status().replica_position == txid, "it goes on")
        assert replicator.status().last_error is None
    restore(remote.replica, case.target, integrity_check="full")
    assert contents(case.target) == contents(case.writer)


@pytest.mark.interop
def test_what_is_written_after_a_restore_is_in_the_next_one_also_without_any_local_state(
    case: Case, litestream: str
) -> None:
    for _ in range(3):
        case.turn()
        case.write()
    case.turn()
    for number in range(2):
        case.writer.close()
        shutil.rmtree(meta_path_for(case.path))
        clear(case.path)
        restore_theirs(litestream, case.replica, case.path)
        case.writer = connect(case.path)
        case.writer.execute("INSERT INTO t(x) VALUES(?)", (f"after restore {number}",))
        case.turn()
        assert contents(restore_theirs(litestream, case.replica, case.target)) == contents(case.writer)
        case.same()


# --- snapshots and compaction -----------------------------------------------------------------------------------


def test_a_snapshot_that_ends_early_keeps_no_checkpoint_away(case: Case) -> None:
    def fault(operation: str, key: str) -> None:
        if operation == "put" and "ltx/9" in key:
            raise StoreError("no", retryable=True)  # before a single page was read

    store = MemoryStore(fault=fault)
    with Database(case.path, Replica(store)) as database:
        once(database)
        for _ in range(3):
            with pytest.raises(StoreError):
                snapshot_from_database(database)
        with database.snapshot_pages() as (_, pages):
            next(pages)  # and the rest is not asked for
        assert database.checkpoint().complete
        store.fault = None
        for _ in range(2):  # whoever asks for one gets it; the timetable is who asks whether it is needed
            store.calls.clear()
            snapshot_from_database(database)
            assert ("put", f"ltx/9/{1:016x}-{int(database.position):016x}.ltx") in store.calls


def test_what_is_not_in_the_snapshot_s_txid_is_not_in_the_snapshot(case: Case) -> None:
    store, slips_in = MemoryStore(), False

    def at_point(point: str) -> None:
        nonlocal slips_in
        if slips_in and point == "capture:recorded":
            slips_in = False
            case.write(10)  # committed, in the log, and not captured when the snapshot begins

    with Database(case.path, Replica(store), at_point=at_point) as database:
        once(database)
        for copied in (False, True):
            if copied:
                database.checkpoint()
            case.write()
            wanted, slips_in = contents(case.writer), True
            with database.snapshot_pages() as (header, pages):
                assert not slips_in
                case.write(40)
                content = list(encode(header, pages))
            Replica(store).write(9, 1, header.max_txid, content, timestamp=header.timestamp)
            once(database)
            case.target.unlink(missing_ok=True)
            restore(Replica(store), case.target, txid=header.max_txid, integrity_check="full")
            assert contents(case.target) == wanted


def test_a_database_that_does_not_exist_yet_gets_its_levels_when_it_does(case: Case) -> None:
    path, store = case.root / "later.db", MemoryStore()
    with Service(ServiceSettings(maintenance=fast()), observer=case.events.append) as service:
        service.register(path, lambda: Replica(store))
        service.maintain(path)
        (status,) = service.status()
        assert (status.database.state, status.maintenance.errors, store.calls) == ("waiting", {}, [])
        none = Database(case.root / "none.db", Replica(MemoryStore()))
        with none, pytest.raises(DatabaseError, match="does not exist"):
            snapshot_from_database(none)
        writer = connect(path)
        writer.execute("CREATE TABLE t(x)")

        def compacted() -> bool:
            writer.execute("INSERT INTO t VALUES(1)")
            return any(isinstance(event, Compacted) for event in case.events)

        wait_until(compacted, "a snapshot, and level 1 above it")
        assert any(isinstance(event, SnapshotTaken) for event in case.events)
        writer.close()


def test_a_partial_object_harms_no_merge_whose_inputs_are_here(case: Case) -> None:
    with case.database() as database:
        once(database)
        for _ in range(3):
            case.write()
            once(database)
        infos = list(database.replica.files(0))[1:]
        for info in infos[:2]:
            path = case.replica / "ltx" / "0" / info.name
            path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(LtxError):
            Compactor(database.replica).compact(Merge(1, tuple(infos)))
        (made,) = Compactor(database.replica, local=database.local_file).compact(Merge(1, tuple(infos)))
        assert (made.min_txid, made.max_txid) == (2, 4)
    for info in infos:
        (case.replica / "ltx" / "0" / info.name).unlink()
    case.same()


def test_snapshots_are_a_day_apart_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    day = timedelta(hours=24)
    assert MaintenanceSettings().snapshot_interval == MaintenanceSettings().retention.snapshots == day
    for text, interval, kept in (
        ("", day, day),
        ("snapshot: {retention: 48h}", day, timedelta(hours=48)),
        ("snapshot: {interval: 1h}", timedelta(hours=1), day),
    ):
        path = tmp_path / "app.yml"
        path.write_text(text)
        settings = maintenance_settings(load_config(str(path)))
        assert (settings.snapshot_interval, settings.retention.snapshots) == (interval, kept)


# --- retention --------------------------------------------------------------------------------------------------


def test_the_newest_local_file_and_the_newest_in_the_replica_stay(case: Case) -> None:
    remote = Flaky()
    with Database(case.path, remote.replica) as database:
        for _ in range(4):
            case.write()
            once(database)
        remote.up = False
        for _ in range(2):
            case.write()
            database.sync()
        database.forget_local(1000)
        assert database.local.txids() == [4, 5, 6]
        remote.up = True
        once(database)
        database.forget_local(1000)
        assert database.local.txids() == [6]
    restore(remote.replica, case.target, integrity_check="full")
    assert contents(case.target) == contents(case.writer)


# --- restore ----------------------------------------------------------------------------------------------------

F = tuple[int, int, int]  # level, first and last TXID
PLANS: list[tuple[str, list[F], int | None, list[F] | None]] = [
    ("snapshot only", [(9, 1, 5)], None, [(9, 1, 5)]),
    ("snapshot and increments", [(9, 1, 5), (0, 6, 6), (0, 7, 7)], None, [(9, 1, 5), (0, 6, 6), (0, 7, 7)]),
    ("the newest snapshot", [(9, 1, 5), (9, 1, 8), (0, 9, 9)], None, [(9, 1, 8), (0, 9, 9)]),
    ("no snapshot", [(0, 1, 1), (0, 2, 2)], None, [(0, 1, 1), (0, 2, 2)]),
    ("the longest of all levels", [(9, 1, 2), (0, 3, 3), (1, 3, 4), (2, 3, 6)], None, [(9, 1, 2), (2, 3, 6)]),
    (
        "a gap bridged by a lower level",
        [(9, 1, 1), (1, 2, 3), (1, 6, 7), (0, 4, 4), (0, 5, 5)],
        None,
        [(9, 1, 1), (1, 2, 3), (0, 4, 4), (0, 5, 5), (1, 6, 7)],
    ),
    (
        "a gap bridged by a higher level",
        [(9, 1, 1), (0, 2, 2), (0, 5, 5), (2, 2, 4)],
        None,
        [(9, 1, 1), (2, 2, 4), (0, 5, 5)],
    ),
    ("the same span in two levels", [(9, 1, 1), (1, 2, 4), (2, 2, 4)], None, [(9, 1, 1), (2, 2, 4)]),
    ("a large file hides small ones", [(9, 1, 1), (1, 2, 9), (1, 2, 3), (1, 4, 5)], None, [(9, 1, 1), (1, 2, 9)]),
    (
        "small ones where the large one is too long",
        [(9, 1, 1), (1, 2, 9), (1, 2, 3), (1, 4, 5)],
        5,
        [(9, 1, 1), (1, 2, 3), (1, 4, 5)],
    ),
    ("overlapping files", [(9, 1, 3), (1, 2, 5), (1, 5, 8)], None, [(9, 1, 3), (1, 2, 5), (1, 5, 8)]),
    ("inside a file", [(9, 1, 1), (1, 2, 9)], 5, None),
    ("after the last", [(9, 1, 1), (0, 2, 2)], 3, None),
    ("before the first", [(9, 1, 4)], 2, None),
    (
        "a snapshot that is too new",
        [(9, 1, 2), (9, 1, 9), (0, 3, 3), (0, 4, 4)],
        4,
        [(9, 1, 2), (0, 3, 3), (0, 4, 4)],
    ),
    ("a gap that nothing bridges", [(9, 1, 2), (0, 4, 4)], None, None),
    ("nothing that begins at 1", [(0, 2, 2)], None, None),
    ("no files", [], None, None),
]


@pytest.mark.interop
@pytest.mark.parametrize(("name", "files", "txid", "expected"), PLANS, ids=[row[0] for row in PLANS])
def test_a_plan_takes_the_same_files_as_litestream_s(
    name: str, files: list[F], txid: int | None, expected: list[F] | None, tmp_path: Path, litestream: str
) -> None:
    page = bytes(512)
    with Replica.open(f"file://{tmp_path}/replica") as replica:
        for level, first, last in files:
            header = Header(512, 1, TXID(first), TXID(last), 1_700_000_000_000 + last)
            replica.write(level, first, last, encode(header, [(1, page)]), timestamp=header.timestamp)
        listed = replica.all_files()
    try:
        found: list[F] | None = [
            (i.level, int(i.min_txid), int(i.max_txid)) for i in restore_plan(listed, txid=txid)
        ]
    except MissingError:
        found = None
    assert found == expected
    options = [] if txid is None else ["-txid", f"{txid:016x}"]
    command = [litestream, "restore", "-dry-run", "-json", *options, "-o", str(tmp_path / "x.db")]
    done = subprocess.run([*command, f"file://{tmp_path}/replica"], capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == (expected is not None), done.stderr
    if expected is not None:
        theirs = [
            (f["level"], int(f["min_txid"], 16), int(f["max_txid"], 16)) for f in json.loads(done.stdout)["files"]
        ]
        assert theirs == expected


@pytest.mark.parametrize("size", [0, 99, 100, 120])
def test_a_file_shorter_than_a_header_is_refused_and_leaves_nothing(case: Case, size: int) -> None:
    case.turn()
    case.write()
    case.turn()
    newest = case.replica / "ltx" / "0" / case.newest_local().name
    newest.write_bytes(newest.read_bytes()[:size])
    target = case.root / "not" / "there" / "yet" / "out.db"
    with Replica.open(f"file://{case.replica}") as replica:
        with pytest.raises(LtxError, match=newest.name):
            restore(replica, target)
        assert not target.parent.exists() or not list(target.parent.iterdir())
        restore(replica, target, txid=1)
    assert [path.name for path in target.parent.iterdir()] == ["out.db"], "and missing directories are made"


def test_an_empty_file_is_no_database_to_be_kept(case: Case) -> None:
    case.turn()
    case.target.touch()
    with Replica.open(f"file://{case.replica}") as replica:
        restore(replica, case.target)
        assert contents(case.target) == contents(case.writer)
        with pytest.raises(DatabaseError, match="already exists"):
            restore(replica, case.target)


def test_a_time_outside_of_the_history(case: Case) -> None:
    case.turn()
    case.write()
    case.turn()
    with Replica.open(f"file://{case.replica}") as replica:
        restore(replica, case.target, timestamp=datetime(2999, 1, 1, tzinfo=UTC))
        assert contents(case.target) == contents(case.writer)
        with pytest.raises(NotRestorable, match="older"):
            restore(replica, case.root / "other.db", timestamp=datetime(1999, 1, 1, tzinfo=UTC))


def test_restores_succeed_while_compaction_and_retention_run(case: Case) -> None:
    """Each is a committed state, not older than what was acknowledged before it began."""
    settings = Settings(sync_interval=timedelta(milliseconds=20))
    with Service(ServiceSettings(maintenance=fast(), database=settings), observer=case.events.append) as service:
        service.register(case.path, f"file://{case.replica}", maintenance=fast())
        with Replica.open(f"file://{case.replica}") as replica:
            restores = 0
            while restores < 25 or not any(isinstance(event, Retired) for event in case.events):
                for _ in range(5):
                    with case.writer:
                        case.writer.execute("DELETE FROM t WHERE id < (SELECT max(id) - 40 FROM t)")
                        case.write(2)
                wanted = contents(case.writer)
                service.sync(case.path)
                case.target.unlink(missing_ok=True)
                restore(replica, case.target, integrity_check="full")
                assert contents(case.target) == wanted
                restores += 1
                assert restores < 2000
        assert any(isinstance(event, Compacted) for event in case.events)


def test_a_compacted_file_may_vanish_as_long_as_lower_levels_hold_the_same(case: Case) -> None:
    with case.database() as database:
        once(database)
        for _ in range(4):
            case.write()
            once(database)
        compactor = Compactor(database.replica)
        (made,) = compactor.compact(Merge(1, tuple(database.replica.files(0))[1:]))
        case.same()
        database.replica.delete([made])
    case.same()


def test_a_backup_of_the_old_format_without_any_log(case: Case) -> None:
    case.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    store, root = MemoryStore(), "generations/0123456789abcdef"
    store.put(f"{root}/snapshots/00000000.snapshot.lz4", lz4.frame.compress(case.path.read_bytes()))
    for key in ("snapshots/xyz.snapshot.lz4", "wal/0000000G_00000000.wal.lz4", "wal/00000000_0000.wal.lz4"):
        store.put(f"{root}/{key}", b"is none of its files")
    result = restore_old(store, case.target, integrity_check="full")
    assert result.index == 0
    assert contents(case.target) == contents(case.writer)


@pytest.mark.parametrize("kind", ["none", "quick", "full"])
def test_what_each_integrity_check_finds(case: Case, kind: IntegrityCheck) -> None:
    """Rows that an index lacks are found by the full check alone."""
    case.writer.execute("CREATE INDEX i ON t(x)")
    case.writer.execute("PRAGMA writable_schema=1")
    case.writer.execute("UPDATE sqlite_schema SET sql='CREATE INDEX i ON t(length(x))' WHERE name='i'")
    case.turn()
    with Replica.open(f"file://{case.replica}") as replica:
        if kind == "full":
            with pytest.raises(DatabaseError, match=r"integrity check: row \d+ missing from index i"):
                restore(replica, case.target, integrity_check=kind)
            assert not list(case.root.glob("*restored*"))
        else:
            restore(replica, case.target, integrity_check=kind)
            assert case.target.exists()


# --- following --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "\n", "2", "000000000000000g\n", "0000000000000001 \n", "00000000000000001\n"]
)
def test_a_copy_whose_txid_makes_no_sense_is_not_followed(case: Case, text: str) -> None:
    case.turn()
    with Replica.open(f"file://{case.replica}") as replica:
        Follower(replica, case.target).start()
        before = case.target.read_bytes()
        Path(f"{case.target}-txid").write_text(text)
        with pytest.raises(DatabaseError, match=r"no valid restored\.db-txid"):
            Follower(replica, case.target).start()
    assert case.target.read_bytes() == before


def test_the_txid_beside_a_copy_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy.db"
    write_txid_file(copy, TXID(7))

    def killed(*arguments: object) -> None:
        assert read_txid_file(copy) == 7
        raise OSError(errno.EIO, "the disk is gone")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, killed)
            with pytest.raises(DatabaseError, match="the disk is gone"):
                write_txid_file(copy, TXID(8))
        assert read_txid_file(copy) == 7
        assert [path.name for path in tmp_path.iterdir()] == ["copy.db-txid"]


def test_following_needs_no_level_0(case: Case) -> None:
    """A gap there is filled by a compacted file that begins earlier; so is an empty level."""
    with case.database() as database, Replica.open(f"file://{case.replica}") as replica:
        once(database)
        follower = Follower(replica, case.target)
        follower.start()
        for _ in range(2):
            case.write()
            once(database)
        assert follower.step()
        assert follower.txid == 3
        for _ in range(3):
            case.write()
            once(database)
        infos = list(replica.files(0))
        Compactor(replica).compact(Merge(1, tuple(infos[1:5])))  # 2 to 5: it begins before where the copy stands
        replica.delete(infos[:5])
        assert follower.step()
        assert follower.txid == 6
        Compactor(replica).compact(Merge(1, tuple(infos[5:])))
        case.write()
        once(database)
        Compactor(replica).compact(Merge(2, tuple(replica.files(0))))
        replica.delete(replica.files(0))
        follower._listed = 0.0
        assert follower.step()
        assert follower.txid == 7
    assert contents(case.target) == contents(case.writer)


# --- the end ----------------------------------------------------------------------------------------------------


class Counted(Flaky):
    """A remote that comes back after some attempts to upload."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures, self.attempts = failures, 0

    def fault(self, operation: str, key: str) -> None:
        if operation == "put" and key.endswith(".ltx"):
            self.attempts += 1
            if self.attempts <= self.failures:
                raise StoreError("the remote is away", retryable=True)


@pytest.mark.parametrize(("seconds", "failures", "attempts", "uploaded"), [(60, 4, 5, True), (0, 1, 1, False)])
def test_a_close_tries_until_it_succeeds_or_its_time_is_over(
    case: Case, seconds: int, failures: int, attempts: int, uploaded: bool
) -> None:
    remote = Counted(failures)
    settings = Settings(
        shutdown_sync_timeout=timedelta(seconds=seconds), shutdown_sync_interval=timedelta(milliseconds=10)
    )
    database = Database(case.path, remote.replica, settings=settings)
    database.open()
    result = database.close()
    assert (result.uploaded, remote.attempts) == (uploaded, attempts)
    assert result.position == 1
    if uploaded:
        restore(remote.replica, case.target, integrity_check="full")
        assert contents(case.target) == contents(case.writer)


# --- many databases ---------------------------------------------------------------------------------------------


def test_one_store_that_cannot_be_opened_leaves_no_database_half_registered(case: Case) -> None:
    def refuses() -> Replica:
        raise StoreError("no such bucket")

    with Service() as service:
        with pytest.raises(StoreError, match="no such bucket"):
            service.register(case.path, refuses)
        assert service.paths == []
        assert not meta_path_for(case.path).exists()
        assert service.register(case.path, f"file://{case.replica}")
        assert not service.register(case.path, refuses), "a second registration asks nobody"
        service.sync(case.path)
    case.same()


def test_one_impossible_replica_in_a_configuration_and_nothing_is_begun(
    case: Case, vfsstream: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    config = case.root / "app.yml"
    config.write_text(
        f"dbs:\n  - path: {case.path}\n    replica: {{url: file://{case.replica}}}\n"
        f"  - path: {case.root}/second.db\n    replica: {{url: 's3://bucket/x?sse-customer-key=short'}}\n"
    )
    done = vfsstream("replicate", "-config", config)
    assert done.returncode != 0
    assert "second.db" in done.stderr or "app.yml:4" in done.stderr or "customer" in done.stderr
    assert not meta_path_for(case.path).exists()
    assert not case.replica.exists()


def test_whether_the_replica_may_be_deleted_from_reaches_every_database(case: Case) -> None:
    for name in ("two.db", "dir/three.db", "dir/four.db"):
        path = case.root / name
        path.parent.mkdir(exist_ok=True)
        writer = connect(path)
        writer.execute("CREATE TABLE t(x)")
        writer.close()
    for enabled in (True, False):
        text = (
            f"retention: {{enabled: {str(enabled).lower()}}}\n"
            f"dbs:\n  - path: {case.path}\n    replica: {{url: file://{case.replica}/1}}\n"
            f"  - path: {case.root}/two.db\n    replica: {{url: file://{case.replica}/2}}\n"
            f"  - dir: {case.root}/dir\n    pattern: '*.db'\n    watch: true\n    replica: {{url: file://{case.replica}/3}}\n"
        )
        (case.root / "app.yml").write_text(text)
        config = load_config(str(case.root / "app.yml"))
        fleet = Fleet(config, Log(lambda line: None), lambda event: None, lambda trace: None)
        fleet.begin(list(targets(config)))
        fleet.register(str(case.root / "five.db"), f"file://{case.replica}/5")
        try:
            wait_until(lambda service=fleet.service: len(service.paths) == 5, "all are registered")  # type: ignore[misc]
            found = [fleet.service._find(path).maintenance.settings.retention for path in fleet.service.paths]
            assert [policy.delete_remote for policy in found] == [enabled] * 5
        finally:
            fleet.close(timedelta(seconds=30))


# --- the tables -------------------------------------------------------------------------------------------------


def table_of(module: Path) -> Iterator[tuple[str, str]]:
    """The rows of the table in a module's docstring; whatever a row shows in several lines is one text."""
    lines = (ast.get_docstring(ast.parse(module.read_text())) or "").splitlines()
    borders = [number for number, line in enumerate(lines) if line.startswith("===")]
    assert len(borders) == 3
    column = lines[borders[0]].index(" =") + 1
    row: list[str] | None = None
    for line in lines[borders[1] + 1 : borders[2]]:
        left, right = line[:column].strip(), line[column:].strip()
        if row is not None and not left:
            row = [row[0], f"{row[1]} {right}"]
            continue
        if row is not None:
            yield row[0], row[1]
        row = [left, right]
    assert row is not None
    yield row[0], row[1]


def functions_of(module: Path) -> set[str]:
    tree = ast.parse(module.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("name", "least"), [("test_edges", 80), ("test_hardships", 30)])
def test_every_test_that_a_table_names_exists(name: str, least: int) -> None:
    here = Path(__file__).with_name(f"{name}.py")
    rows = [(edge, shown) for edge, shown in table_of(here) if not edge.startswith("*")]
    assert len(rows) >= least
    for edge, shown in rows:
        if shown.startswith("cannot occur: "):
            continue
        for group in shown.split("; "):
            place, _, names = group.partition(": ")
            module = here if place == "here" else here.parent / ("../" * ("/" in place)) / f"{place}.py"
            functions = functions_of(module)
            for words in names.split(", "):
                begin = words.replace(" ", "_")
                found = [f for f in functions if f"{f}_".startswith((f"{begin}_", f"test_{begin}_"))]
                assert found, f"{edge}: no test of {module} begins with {words!r}"
