"""The failures a replicator must survive, and which test shows that it does: the begin of its name is given.

======================================================  ============================================================
failure                                                 shown by
======================================================  ============================================================
killed while it writes a local file                     test_kill: killed at each step
killed between local file and upload                    test_kill: killed at each step
killed during an upload                                 test_kill: killed at each step; test_extremes: what killed
                                                        uploads left
killed between a checkpoint and the next sync           test_kill: killed at each step
killed, and the application goes on through restarts    test_silent_loss: a the end of the old lap, b two restarts;
                                                        test_machine: the machine
killed during compaction, snapshots, retention          test_service: killed eight times, killed two hundred times
killed during a restore                                 test_restore: a killed restore; faults/test_restore: killed
                                                        again and again
disk full, local files                                  test_failures: a full disk is named and survived;
                                                        test_edges: a full disk is told
disk full, the volume of the database                   here: the volume of the database is full
remote away at the start, or later                      test_failures: capture goes on while the remote is away;
                                                        test_machine: the machine
remote slow                                             test_service: a slow store of one database holds up no other
remote partial upload                                   here: an upload that did not arrive whole;
                                                        faults/test_stores: a put that is cut
remote wiped                                            test_failures: a wiped replica; test_defects: a wiped
                                                        replica; here: the replica is wiped while we run
newest file of the replica deleted                      test_failures: the newest file of the replica vanishes
gap in level 0                                          test_failures: a gap left by a crash; test_maintenance: a
                                                        gap in level 0
clock set back, or corrected after it was ahead         test_failures: a clock set back; test_schedule: a step
                                                        forward must last
application checkpoints behind our back                 test_machine: checkpoint by the application
application deletes the log while running               test_failures: the log is deleted while running
application is the last to close                        test_database: without a log only the changed pages
VACUUM; shrinking and growth in one range               test_database: growth shrinking and growth again, every page
                                                        size
page size changes                                       test_failures: the page size changes; test_defects: a change
                                                        of the page size; test_extremes: a crash between the first
                                                        file of a new page size
database deleted, recreated, replaced                   test_failures: the database is deleted and made anew;
                                                        test_silent_loss: d the database file is replaced
database restored to an older state                     test_failures: a database restored to an older state
two replicators, one database                           test_database: a second instance is refused
two hosts, one replica                                  test_failures: two replicators on one replica, without a
                                                        lease, a fork is found, both write the same txid;
                                                        test_defects: two histories
huge transaction                                        test_extremes: memory does not grow with the transaction
database above 1 GiB                                    test_extremes: a database grows over the lock page
read-only database, directory or file system            test_extremes: what may only be read
a local file may not be read                            here: a local file that may not be read
newest local file damaged                               test_failures: a damaged newest file; test_defects: a
                                                        damaged newest local file
older local file damaged or lost                        test_extremes: an older local file is damaged;
                                                        test_failures: a file lost before its upload; test_defects:
                                                        recovery from a lost local file; test_machine: damage a
                                                        local file
power failure                                           test_extremes: the power fails; test_silent_loss: c a tail
                                                        of the log
long reader in the application                          test_failures: a long reader
process stopped for a while                             here: a process that was stopped
application in the same process                         test_locks: nothing that a replicated database does drops
                                                        them, nor does the service
======================================================  ============================================================
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from tests.replicate.case import Case
from tests.replicate.live import (
    connect,
    contents,
    newest_txid,
    restore_ours,
    restore_theirs,
    run_python,
    wait_until,
)
from tests.replicate.test_kill import REPLICATOR, finish
from vfsstream.errors import DatabaseError, StoreError
from vfsstream.replica import Replica
from vfsstream.replicate.checkpoint import Situation, is_due
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Synced
from vfsstream.replicate.replicator import Replicator, once
from vfsstream.replicate.restore import restore
from vfsstream.replicate.settings import Settings
from vfsstream.stores.base import ObjectInfo, Source
from vfsstream.stores.memory import MemoryStore

# --- the disk ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_volume(place: Path, size: str) -> Iterator[None]:
    place.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, timeout=30
        )
    except FileNotFoundError:
        pytest.skip("no mount program")
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        # Lazily: the descriptor of a wal-index stays parked for as long as its file has a name.
        subprocess.run(["umount", "-l", place], check=True, timeout=30)


def test_the_volume_of_the_database_is_full(tmp_path: Path) -> None:
    """The log may not grow, the database may not either: nothing is lost, and it goes on when there is room again."""
    with small_volume(tmp_path / "small", "2m"):
        path = tmp_path / "small" / "app.db"
        writer = connect(path)
        writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        database = Database(path, f"file://{tmp_path}/replica", meta_dir=tmp_path / "meta")
        database.open()
        database.sync_and_wait()
        with contextlib.suppress(apsw.FullError):
            while True:
                writer.execute("INSERT INTO t(x) VALUES(randomblob(3000))")
        database.sync_and_wait()  # what was committed is in the log
        before = contents(writer)
        with contextlib.suppress(DatabaseError):
            database.checkpoint()
        database.step()
        assert contents(writer) == before
        assert contents(restore_ours(tmp_path / "replica", tmp_path / "restored.db")) == before
        subprocess.run(["mount", "-o", "remount,size=16m", tmp_path / "small"], check=True, timeout=30)
        for _ in range(50):
            writer.execute("INSERT INTO t(x) VALUES(randomblob(3000))")
        database.sync_and_wait()
        assert database.checkpoint().complete
        writer.execute("INSERT INTO t(x) VALUES('after it')")
        once(database)
        assert contents(restore_ours(tmp_path / "replica", tmp_path / "restored.db")) == contents(writer)
        writer.close()
        database.close()


def test_a_local_file_that_may_not_be_read_is_an_error_that_passes(case: Case) -> None:
    case.turn()
    case.write()
    database = case.database()
    database.sync()
    newest = case.newest_local()
    away = newest.with_name("away")
    newest.rename(away)
    newest.mkdir()  # whoever is root may read everything but this
    with pytest.raises(DatabaseError, match=newest.parent.name):
        database.upload()
    assert isinstance(database.status().last_error, DatabaseError)
    newest.rmdir()
    away.rename(newest)
    once(database)
    database.close()
    case.same()


# --- the remote -------------------------------------------------------------------------------------------------


class Cutting(MemoryStore):
    """Says of the next uploads that less arrived than was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.cuts = 0

    def put(
        self, key: str, source: Source, *, metadata: Mapping[str, str] | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        info = super().put(key, source, metadata=metadata, if_absent=if_absent)
        if self.cuts and key.endswith(".ltx"):
            self.cuts -= 1
            self.delete([key])
            return ObjectInfo(info.key, info.size - 1, info.modified)
        return info


def test_an_upload_that_did_not_arrive_whole_is_made_again(case: Case) -> None:
    store = Cutting()
    with Database(case.path, Replica(store)) as database:
        once(database)
        case.write()
        database.sync()
        store.cuts = 1
        with pytest.raises(StoreError, match="arrived with"):
            database.upload()
        assert database.replica_position != database.position
        once(database)
    restore(Replica(store), case.target, integrity_check="full")
    assert contents(case.target) == contents(case.writer)


@pytest.mark.interop
def test_the_replica_is_wiped_while_we_run(case: Case, litestream: str) -> None:
    often = Settings(contact_interval=timedelta(0), sync_interval=timedelta(milliseconds=20))
    store = MemoryStore()
    with Replicator(case.path, Replica(store), settings=often) as replicator:
        for _ in range(3):
            case.write()
            replicator.sync_and_wait()
        replicator.database.forget_local(100)
        with store._lock:
            store._objects.clear()
        case.write()
        replicator.sync_and_wait()
        restore(Replica(store), case.target, integrity_check="full")
        assert contents(case.target) == contents(case.writer)


# --- the process ------------------------------------------------------------------------------------------------


@pytest.mark.interop
def test_a_process_that_was_stopped_for_a_while_catches_up(case: Case, litestream: str) -> None:
    process = run_python(REPLICATOR, case.path, case.replica, "never", 0)
    try:
        wait_until(lambda: newest_txid(case.replica) > 0, "it replicates")
        process.send_signal(signal.SIGSTOP)
        case.writer.wal_autocheckpoint(20)
        case.write(200)
        log = os.stat(f"{case.path}-wal").st_size
        assert log > 200 * 4096, "its read transaction is held all the while"
        process.send_signal(signal.SIGCONT)
        wanted = contents(case.writer)

        def caught_up() -> bool:
            time.sleep(0.2)
            return contents(restore_theirs(litestream, case.replica, case.target)) == wanted

        wait_until(caught_up, "it catches up")
    finally:
        finish(process)


def test_five_rounds_of_writes_and_checkpoints_take_one_full_image(case: Case) -> None:
    with case.database() as database:
        for _ in range(5):
            case.write()
            database.sync()
            assert database.checkpoint().complete
        for _ in range(5):
            case.write()
            database.sync()
            database.checkpoint(wait_for_readers=True)
        once(database)
        idle = database.position
        for _ in range(20):
            database._next_look = 0.0
            database.step()
            database.sync()
        assert database.position == idle
    assert sum(event.full for event in case.events if isinstance(event, Synced)) == 1
    case.same()


def test_thresholds_are_right_for_large_pages_and_zero_switches_the_clock_off() -> None:
    far = Situation(lap_end=2**40, page_size=65536, uncopied=True, since_last=1e9)
    assert is_due(far, Settings()) == "emergency"
    near = Situation(lap_end=32 + 121358 * (24 + 65536), page_size=65536, uncopied=True, since_last=1e9)
    assert is_due(near, Settings()) == "size"
    small = Situation(lap_end=32 + 4120, page_size=4096, uncopied=True, since_last=1e9)
    assert is_due(small, Settings(checkpoint_interval=timedelta(0))) is None
    assert is_due(small, Settings()) == "time"
