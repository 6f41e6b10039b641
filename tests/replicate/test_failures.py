"""What may go wrong, row by row: the remote, the local files, the database itself, and a second replicator."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from tests.replicate.case import Case, Flaky
from tests.replicate.live import connect, contents, restore_ours, restore_theirs, wait_until
from vfsstream.errors import DatabaseError, DiskFull, ForkDetected, LeaseHeld, StoreError
from vfsstream.replicate.capture import Capture
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Event, Rebased, Stalled, StallEnded, Synced, Uploaded
from vfsstream.replicate.localfiles import LocalFiles, meta_path_for
from vfsstream.replicate.maintenance import Maintenance
from vfsstream.replicate.replicator import Replicator, ensure_base, once
from vfsstream.replicate.restore import restore
from vfsstream.replicate.service import Service
from vfsstream.replicate.servicestatus import ServiceSettings
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.source import Source

# --- the remote -------------------------------------------------------------------------------------------------


def test_capture_goes_on_while_the_remote_is_away_from_the_start(case: Case) -> None:
    remote = Flaky()
    remote.up = False
    events: list[Event] = []
    quick = Settings(sync_interval=timedelta(milliseconds=20), stall_after=timedelta(milliseconds=300))
    with Replicator(case.path, remote.replica, settings=quick, observer=events.append) as replicator:
        for _ in range(3):
            before = replicator.status().position
            case.write()
            wait_until(lambda before=before: replicator.status().position > before, "capture goes on")  # type: ignore[misc]
        status = replicator.status()
        assert status.replica_position is None
        assert status.lag_txids == status.position
        assert status.lag_bytes > 0
        assert isinstance(status.last_error, StoreError)
        wait_until(lambda: any(isinstance(event, Stalled) for event in events), "the stall is reported")
        assert replicator.status().stalled
        remote.up = True
        wait_until(lambda: replicator.status().lag_txids == 0, "it catches up")
        wait_until(lambda: any(isinstance(event, StallEnded) for event in events), "the end is reported")
        assert replicator.status().last_error is None
    restore(remote.replica, case.target, integrity_check="full")
    assert contents(case.target) == contents(case.writer)


def test_a_close_without_the_remote_says_so_in_time(case: Case) -> None:
    remote = Flaky()
    quick = Settings(
        shutdown_sync_timeout=timedelta(milliseconds=400), shutdown_sync_interval=timedelta(milliseconds=50)
    )
    database = Database(case.path, remote.replica, settings=quick)
    database.open()
    database.sync_and_wait()
    case.write()
    remote.up = False
    result = database.close()
    assert not result.uploaded
    assert isinstance(result.error, StoreError)
    assert result.position == 2
    assert result.replica_position == 1
    with pytest.raises(StoreError), Replicator(case.path, remote.replica, settings=quick):
        pass


def test_a_second_signal_ends_the_close_at_once(case: Case) -> None:
    remote = Flaky()
    remote.up = False
    database = Database(case.path, remote.replica, settings=Settings(shutdown_sync_timeout=timedelta(hours=1)))
    database.open()
    database.interrupt()
    started = time.monotonic()
    assert not database.close().uploaded
    assert time.monotonic() - started < 60


@pytest.mark.interop
def test_a_wiped_replica_gets_a_base_at_once(case: Case, litestream: str) -> None:
    for _ in range(3):
        case.turn()
        case.write()
    with case.database() as database:
        once(database)
        database.forget_local(3)
    shutil.rmtree(case.replica)
    case.write()
    case.turn()
    assert contents(restore_theirs(litestream, case.replica, case.target)) == contents(case.writer)
    case.same()


def test_the_newest_file_of_the_replica_vanishes(case: Case) -> None:
    case.turn()
    case.write()
    case.turn()
    (case.replica / "ltx" / "0" / case.newest_local().name).unlink()
    case.turn()
    assert (case.replica / "ltx" / "0" / case.newest_local().name).exists()
    case.same()


def test_a_gap_left_by_a_crash_between_parallel_uploads_is_filled(case: Case) -> None:
    case.turn()
    for _ in range(4):
        case.write()
        with case.database() as database:
            database.sync()
    middle = case.replica / "ltx" / "0" / f"{3:016x}-{3:016x}.ltx"
    case.turn()
    middle.unlink()
    case.turn()
    assert middle.exists()
    case.same()


def test_requests_of_one_file_and_of_an_idle_database(case: Case) -> None:
    remote = Flaky()
    database = Database(case.path, remote.replica)
    database.open()
    database.sync_and_wait()
    remote.store.calls.clear()
    case.write()
    database.sync_and_wait()
    assert [operation for operation, _ in remote.store.calls] == ["put"]
    remote.store.calls.clear()
    for _ in range(50):
        database.step()
    assert remote.store.calls == []
    database.close()


# --- a second replicator ----------------------------------------------------------------------------------------


def other_host(case: Case) -> tuple[Path, apsw.Connection]:
    path = case.root / "other" / "app.db"
    path.parent.mkdir()
    writer = connect(path)
    writer.execute("CREATE TABLE somebody(elses)")
    for _ in range(30):
        writer.execute("INSERT INTO somebody VALUES(randomblob(1000))")
    with Database(path, f"file://{case.root}/elsewhere") as database:  # it has a history of its own
        once(database)
    return path, writer


def test_two_replicators_on_one_replica_the_second_is_told_who_the_first_is(case: Case) -> None:
    path, writer = other_host(case)
    with case.database(lease_owner="host-a:1") as database:
        once(database)
        second = Database(path, f"file://{case.replica}", settings=Settings(shutdown_sync_timeout=timedelta(0)))
        second.open()
        second.sync()
        with pytest.raises(LeaseHeld, match="host-a:1"):
            second.upload()
        assert second.status().state == "blocked"
        assert not second.poll_upload()
        assert not second.close().uploaded
        case.write()
        once(database)
    case.same()
    writer.close()


def test_without_a_lease_the_fork_is_found_before_anything_is_overwritten(case: Case) -> None:
    path, writer = other_host(case)
    with case.database(lease=False) as database:
        once(database)
        second = Database(
            path, f"file://{case.replica}", settings=Settings(lease=False, shutdown_sync_timeout=timedelta(0))
        )
        second.open()
        second.sync()
        with pytest.raises(ForkDetected, match="another history"):
            second.upload()
        assert not second.close().uploaded
    case.same()
    writer.close()


@pytest.mark.parametrize("theirs", [1, 12])
def test_a_fork_is_found_although_no_file_is_in_both(case: Case, theirs: int) -> None:
    """The other one's local files were compacted away but the newest, whose TXID this replica does not have."""
    for _ in range(theirs):
        case.turn(lease=False)
        case.write(1)
    case.turn(lease=False)
    path, writer = other_host(case)
    with Database(path, f"file://{case.root}/elsewhere", settings=Settings(lease=False)) as database:
        for _ in range(5):
            writer.execute("INSERT INTO somebody VALUES(1)")
            once(database)
        database.forget_local(100)
    settings = Settings(lease=False, shutdown_sync_timeout=timedelta(0))
    second = Database(path, f"file://{case.replica}", settings=settings)
    second.open()
    with pytest.raises(ForkDetected, match="elsewhere"):
        once(second)
    assert not second.close().uploaded
    case.same()
    with Database(path, f"file://{case.replica}", settings=Settings(lease=False, fork="take-over")) as taking:
        once(taking)
    assert contents(restore_ours(case.replica, case.target)) == contents(writer)
    writer.close()


def test_a_fork_may_be_taken_over_above_the_other_history(case: Case) -> None:
    path, writer = other_host(case)
    case.turn(lease=False)
    with Database(path, f"file://{case.replica}", settings=Settings(lease=False, fork="take-over")) as second:
        once(second)
        assert second.position == 2
    assert contents(restore_ours(case.replica, case.target)) == contents(writer)
    writer.close()


def test_both_write_the_same_txid_at_the_same_time(case: Case) -> None:
    path, writer = other_host(case)
    case.turn(lease=False)
    second = Database(path, f"file://{case.replica}", settings=Settings(lease=False, fork="take-over"))
    second.open()
    once(second)
    first = case.database(lease=False)
    once(first)  # the replica is ahead: goes on above it
    case.write()
    writer.execute("INSERT INTO somebody VALUES(1)")
    once(first)
    with pytest.raises(ForkDetected, match="TXID"):
        once(second)
    assert not second.close().uploaded
    first.close()
    case.same()
    writer.close()


def test_a_lease_is_taken_again_after_a_crash_and_over_when_it_expired(case: Case) -> None:
    with case.database(lease_owner="host-a:1") as database:
        once(database)
        lock = case.replica / "lock.json"
        assert "host-a:1" in lock.read_text()
        database._close_local()  # as a crash: the lease stays
    assert lock.exists()
    case.write()
    case.turn(lease_owner="host-a:2")
    assert not lock.exists(), "given back"
    past = '{"generation": 7, "expires_at": "2020-01-01T00:00:00Z", "owner": "gone:1"}'
    lock.write_text(past)
    with case.database() as database:
        case.write()
        once(database)
        assert '"generation": 8' in lock.read_text()


# --- local files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_newest_file_does_not_stop_replication(case: Case, damage: str) -> None:
    case.turn()
    case.write()
    case.turn()
    newest = case.newest_local()
    data = bytearray(newest.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        (meta_path_for(case.path) / "vfsstream" / "state.json").unlink()  # nobody vouches for the file
    newest.write_bytes({"truncate": bytes(data[:120]), "flip": bytes(data), "empty": b""}[damage])
    case.write()
    case.turn()
    with case.database() as database:
        assert database.position == 3
    case.same()


def test_a_damaged_file_is_not_uploaded(case: Case) -> None:
    case.turn()
    case.write()
    with case.database(shutdown_sync_timeout=timedelta(0)) as database:
        database.sync()
        database._close_local()
    newest = case.newest_local()
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    database = case.database(shutdown_sync_timeout=timedelta(0))
    assert not database.close().uploaded
    assert not (case.replica / "ltx" / "0" / newest.name).exists()


@pytest.mark.parametrize("commits", [0, 5])
def test_after_the_loss_of_the_local_state_alone_nothing_is_uploaded_twice(case: Case, commits: int) -> None:
    """The log still shows what the newest file of the replica holds: what came since is all that is missing."""
    case.write(200)
    case.turn()
    case.write()
    case.turn()
    shutil.rmtree(meta_path_for(case.path))
    case.write(commits)
    case.turn()
    assert any(isinstance(event, Rebased) for event in case.events)
    names = sorted(path.name[:16] for path in (case.replica / "ltx" / "0").iterdir())
    assert names[-1] == f"{3 if commits else 2:016x}"
    sizes = [event.pages for event in case.events if isinstance(event, Synced)]
    assert sizes[-1] < 10 if commits else len(sizes) == 3
    case.same()


def test_lost_local_state_and_a_log_that_went_on_alone_take_all_pages(case: Case) -> None:
    case.turn()
    case.write()
    case.turn()
    shutil.rmtree(meta_path_for(case.path))
    for _ in range(3):
        case.write(30)
        case.writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    case.write(1)
    case.turn()
    assert "restarted" in case.reasons()[-1]
    assert sorted(path.name[:16] for path in (case.replica / "ltx" / "0").iterdir())[-1] == f"{3:016x}"
    case.same()


def test_a_file_lost_before_its_upload_leaves_a_base_not_a_hole(case: Case) -> None:
    case.turn()
    with case.database(shutdown_sync_timeout=timedelta(0)) as database:
        for _ in range(3):
            case.write()
            database.sync()
        database._close_local()
    (case.level0 / f"{3:016x}-{3:016x}.ltx").unlink()
    case.turn()
    case.same()


@pytest.mark.parametrize("lost", [2, 3, 4])
def test_a_file_lost_before_its_upload_is_replaced_before_anything_is_acknowledged(case: Case, lost: int) -> None:
    """The last one, too, and without another commit."""
    remote = Flaky()
    with Database(case.path, remote.replica) as database:
        database.sync_and_wait()
        remote.up = False
        for _ in range(3):
            case.write()
            database.sync()
        with pytest.raises(StoreError):
            database.upload()
        database.local.path(lost).unlink()
        remote.up = True
        assert database.sync_and_wait(10) == 4
        restore(remote.replica, case.target)
        assert contents(case.target) == contents(case.writer)
        assert not database.needs_snapshot


def test_an_older_snapshot_does_not_stand_for_a_file_lost_before_its_upload(case: Case) -> None:
    """The first snapshot may be due at the same moment: it is made of a file that does not know the lost commits."""
    remote, parts = Flaky(), list[Maintenance]()

    def observe(event: Event) -> None:
        if isinstance(event, Uploaded) and parts:
            parts[0].uploaded(event.info, full=event.full)

    with Database(case.path, remote.replica, observer=observe) as database:
        parts.append(Maintenance(database))
        once(database)
        remote.up = False
        for _ in range(2):
            case.write()
            lost = database.sync()
        database.local.path(lost).unlink()
        remote.up = True
        with pytest.raises(StoreError, match="vanished"):
            database.upload()
        database.upload()
        for _ in range(5):
            if not database.needs_snapshot:
                break
            parts[0].run()
        assert not database.needs_snapshot
        restore(remote.replica, case.target)
        assert contents(case.target) == contents(case.writer)


def test_the_newest_file_lost_before_its_upload_is_replaced_without_anybody_asking(case: Case) -> None:
    remote = Flaky()
    settings = ServiceSettings(database=Settings(max_backoff=timedelta(seconds=0.2)))
    with Service(settings) as service:
        service.register(case.path, lambda: remote.replica)
        service.sync(case.path)
        remote.up = False
        case.write()
        newest = service.sync(case.path, wait=False)
        (case.level0 / f"{newest:016x}-{newest:016x}.ltx").unlink()
        remote.up = True

        def is_whole() -> bool:
            case.target.unlink(missing_ok=True)
            restore(remote.replica, case.target)
            return contents(case.target) == contents(case.writer)

        wait_until(is_whole, "the commit in the replica")
        case.target.unlink()


def test_a_service_acknowledges_only_what_has_a_base(case: Case) -> None:
    remote = Flaky()
    with Service() as service:
        service.register(case.path, lambda: remote.replica)
        service.sync(case.path)
        remote.up = False
        for _ in range(3):
            case.write()
            service.sync(case.path, wait=False)
        (case.level0 / f"{3:016x}-{3:016x}.ltx").unlink()
        remote.up = True
        service.sync(case.path)
        restore(remote.replica, case.target)
        assert contents(case.target) == contents(case.writer)


@pytest.mark.parametrize("commits", [0, 3])
def test_the_newest_file_lost_with_the_note_of_its_number_is_no_fork(case: Case, commits: int) -> None:
    """Its TXID is given to another file before the replica is looked at; only the number is the same."""
    for _ in range(2):
        case.turn()
        case.write()
    case.turn()
    case.newest_local().unlink()
    (meta_path_for(case.path) / "vfsstream" / "state.json").unlink()
    case.write(commits)
    with case.database(lease=False, shutdown_sync_timeout=timedelta(0)) as database:
        with pytest.raises(ForkDetected):
            once(database)  # without a lease another host may be writing there
        database.local.delete(database.local.txids()[2:])
        database._close_local()
    (meta_path_for(case.path) / "vfsstream" / "state.json").unlink()
    with case.database() as database:
        once(database)
        assert database.position == (4 if commits else 3)
    case.same()
    case.write()
    case.turn()
    case.same()


@pytest.mark.interop
def test_a_database_restored_to_an_older_state_goes_on(case: Case, litestream: str) -> None:
    case.turn()
    case.write()
    case.turn()
    case.writer.close()
    restore_ours(case.replica, case.target, txid=1)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{case.path}{suffix}").unlink(missing_ok=True)
    os.replace(case.target, case.path)
    case.writer = connect(case.path)
    case.write(3)
    case.turn()
    assert contents(restore_theirs(litestream, case.replica, case.target)) == contents(case.writer)


def test_a_clock_set_back_does_not_make_timestamps_run_backwards(case: Case) -> None:
    local = LocalFiles(meta_path_for(case.path), case.path)
    local.prepare()
    times = iter([2000.0, 1000.0, 1000.0])
    source = Source(case.path, timedelta(seconds=1))
    capture = Capture(source, local, clock=lambda: next(times))
    for _ in range(3):
        case.write(1)
        assert capture.step() is not None
    source.close()
    stamps = [info.created_at for info in local.infos()]
    assert stamps == sorted(stamps)
    assert len(set(stamps)) == 3


def test_a_full_disk_is_named_and_survived(case: Case, tmp_path: Path) -> None:
    meta = tmp_path / "small"
    meta.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(meta)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("no mount program")
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        database = Database(
            case.path, f"file://{case.replica}", meta_dir=meta / "meta", observer=case.events.append
        )
        database.open()
        database.sync_and_wait()
        hog = meta / "hog"
        with open(hog, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1024)):
                pass
        case.write(20)
        with pytest.raises(DiskFull, match=str(meta)):
            database.sync()
        for _ in range(3):
            database._capture_and_checkpoint()
        assert database.status().disk_full
        hog.unlink()
        database.sync_and_wait()
        assert not database.status().disk_full
        case.same()
        database.close()
    finally:
        subprocess.run(["umount", str(meta)], check=True, timeout=30)


# --- the database -----------------------------------------------------------------------------------------------


@pytest.mark.interop
def test_the_page_size_changes(case: Case, litestream: str) -> None:
    case.turn()
    case.writer.execute("PRAGMA journal_mode=delete")
    case.writer.execute("PRAGMA page_size=8192")
    case.writer.execute("VACUUM")
    case.writer.execute("PRAGMA journal_mode=wal")
    case.turn()
    case.write()
    case.turn()
    assert any(reason.startswith("page size changed") for reason in case.reasons())
    case.same()
    assert contents(restore_theirs(litestream, case.replica, case.target)) == contents(case.writer)


def test_the_database_is_deleted_and_made_anew_while_running(case: Case) -> None:
    with case.database() as database:
        once(database)
        case.writer.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{case.path}{suffix}").unlink(missing_ok=True)
        database.sync()
        assert database.status().state == "waiting"
        case.writer = connect(case.path)
        case.writer.execute("CREATE TABLE another(x)")
        once(database)
        case.same()


def test_the_log_is_deleted_while_running(case: Case) -> None:
    with case.database() as database:
        once(database)
        case.writer.close()
        Path(f"{case.path}-wal").unlink()
        database.sync()
        case.writer = connect(case.path)
        case.write()
        once(database)
        assert any("was deleted" in reason or "was replaced" in reason for reason in case.reasons())
        case.same()


def test_a_long_reader_causes_no_files_and_no_storm_of_checkpoints(case: Case) -> None:
    reader = connect(case.path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchall()
    with case.database(min_checkpoint_pages=10, monitor_interval=timedelta(milliseconds=1)) as database:
        case.write(30)
        for _ in range(30):
            database._next_look = 0.0
            database.step()
        assert database.position == 1
        assert database.status().checkpoints <= 2
        reader.close()
        case.write(1)
        database._pacing._not_before = 0.0
        database._next_look = 0.0
        database.step()
        case.write(1)
        once(database)
        assert database.status().wal_size < 10 * 4120
    case.same()


def test_the_write_lock_is_not_held_while_encoding(case: Case) -> None:
    """At every point of a checkpoint at which a file is written, the application can write."""
    tried: list[str] = []

    def at_point(point: str) -> None:
        if point.startswith("capture:"):
            case.writer.set_busy_timeout(0)
            case.writer.execute("INSERT INTO t(x) VALUES(?)", (point,))
            tried.append(point)

    database = Database(case.path, f"file://{case.replica}", at_point=at_point)
    database.open()
    assert database.checkpoint().stall_seconds < 60
    assert tried
    database.close()
    case.turn()
    case.same()


@pytest.mark.interop
def test_no_commit_slips_in_between_the_last_look_and_the_checkpoint(case: Case, litestream: str) -> None:
    outcomes: list[str] = []

    def at_point(point: str) -> None:
        if point == "checkpoint:sealed":
            case.writer.set_busy_timeout(0)
            try:
                case.writer.execute("INSERT INTO t(x) VALUES('slipped in')")
                outcomes.append("written")
            except apsw.BusyError:
                outcomes.append("refused")

    with Database(case.path, f"file://{case.replica}", at_point=at_point) as database:
        once(database)
        case.write()
        assert database.checkpoint().complete
        case.write()
        once(database)
    assert contents(restore_theirs(litestream, case.replica, case.target)) == contents(case.writer)
    assert outcomes == ["refused"]


def test_a_database_held_exclusively_is_a_clear_error(case: Case) -> None:
    case.writer.execute("PRAGMA locking_mode=EXCLUSIVE")
    case.write()
    database = case.database(busy_timeout=timedelta(milliseconds=50))
    with pytest.raises(DatabaseError, match="lock"):
        database.sync()
    case.writer.execute("PRAGMA locking_mode=NORMAL")
    case.write()
    once(database)
    database.close()
    assert [event for event in case.events if isinstance(event, Synced)]
    case.same()


def test_nothing_to_replicate_is_an_error_of_once(tmp_path: Path) -> None:
    database = Database(tmp_path / "none.db", f"file://{tmp_path}/replica")
    with database, pytest.raises(DatabaseError, match="does not exist or is empty"):
        once(database)
    assert not (tmp_path / "none.db").exists()


def test_ensure_base_does_nothing_when_there_is_one(case: Case) -> None:
    with case.database() as database:
        once(database)
        ensure_base(database)
    assert not (case.replica / "ltx" / "9").exists()
