"""What is rare, large or forbidden: crashes at a new page size, power failures, huge transactions, the lock page."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from tests.replicate.case import Case
from tests.replicate.live import (
    clear,
    connect,
    contents,
    integrity,
    restore_ours,
    restore_theirs,
    run_python,
)
from vfsstream.replica import Replica
from vfsstream.replicate.database import Database
from vfsstream.replicate.localfiles import meta_path_for
from vfsstream.replicate.replicator import once
from vfsstream.replicate.restore import restore
from vfsstream.replicate.wal import WAL_HEADER_SIZE, frame_size

# --- crashes ----------------------------------------------------------------------------------------------------


def to_page_size(writer: apsw.Connection, size: int) -> None:
    for statement in ("journal_mode=delete", f"page_size={size}"):
        writer.execute(f"PRAGMA {statement}")
    writer.execute("VACUUM")
    writer.execute("PRAGMA journal_mode=wal")


@pytest.mark.interop
@pytest.mark.parametrize("uploaded", [False, True])
def test_a_crash_between_the_first_file_of_a_new_page_size_and_its_snapshot(
    case: Case, litestream: str, uploaded: bool
) -> None:
    """Files of two page sizes cannot be merged: without a snapshot at the new size nothing can be restored."""
    case.turn()
    case.write()
    case.turn()
    to_page_size(case.writer, 8192)
    database = case.database()
    database.sync()
    if uploaded:
        database.upload()
    case.crash(database)
    case.write()
    case.turn()
    case.same()
    assert contents(restore_theirs(litestream, case.replica, case.target)) == contents(case.writer)
    before = sorted((case.replica / "ltx" / "9").iterdir())
    case.write()
    case.turn()
    assert sorted((case.replica / "ltx" / "9").iterdir()) == before, "one base is enough"
    case.same()


@pytest.mark.interop
def test_the_local_state_is_lost_before_the_snapshot_of_a_new_page_size(case: Case, litestream: str) -> None:
    case.turn()
    to_page_size(case.writer, 8192)
    database = case.database()
    database.sync()
    database.upload()
    case.crash(database, keep_local_state=False)
    case.write()
    case.turn()
    assert contents(restore_theirs(litestream, case.replica, case.target)) == contents(case.writer)
    case.same()


def test_the_local_state_is_lost_before_the_replica_got_a_base(case: Case) -> None:
    with case.database(shutdown_sync_timeout=timedelta(0)) as database:
        database.sync()
        database._close_local()
    (case.level0 / f"{1:016x}-{1:016x}.ltx").unlink()
    case.write()
    database = case.database()
    database.sync()
    database.upload()
    case.crash(database, keep_local_state=False)
    case.turn()
    case.same()


def test_an_older_local_file_is_damaged_after_its_upload(case: Case) -> None:
    for _ in range(3):
        case.turn()
        case.write()
    (case.level0 / f"{2:016x}-{2:016x}.ltx").write_bytes(b"rubbish")
    case.turn()
    case.same()


def test_a_damaged_local_file_is_no_fork(case: Case) -> None:
    """Its header is whole, its end is not that of the replica's file: nobody else wrote there."""
    case.turn()
    case.write()
    with case.database(shutdown_sync_timeout=timedelta(0)) as database:
        database.sync()
        database._close_local()
    first = case.level0 / f"{1:016x}-{1:016x}.ltx"
    os.truncate(first, first.stat().st_size - 20)
    case.turn()
    case.same()


def test_a_close_that_finds_the_replica_ahead_is_no_success_before_its_own_content_is_there(case: Case) -> None:
    case.turn()
    shutil.rmtree(meta_path_for(case.path))
    case.write()
    database = case.database()
    result = database.close()
    assert result.uploaded
    assert result.position == 2
    case.same()


@pytest.mark.interop
def test_the_power_fails_and_a_tail_of_the_log_is_gone(case: Case, litestream: str) -> None:
    """The database comes back older than its replica, and goes on from there in the same lap with other frames."""
    chance = random.Random(4)
    for number in range(12):
        case.write(chance.randrange(1, 12))
        if chance.random() < 0.4:
            case.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            case.write(chance.randrange(1, 6))
        synced = power_saves(case, chance)
        case.write(chance.randrange(0, 8))
        with case.database() as database:
            once(database)
            with database._capture_lock:  # the machine stops; nothing is tidied up
                database._close_local()
        power_fails(case, synced)
        if chance.random() < 0.8:
            case.write(chance.randrange(1, 12))
        case.turn()
        assert contents(restore_ours(case.replica, case.target)) == contents(case.writer), number
    assert contents(restore_theirs(litestream, case.replica, case.target)) == contents(case.writer)


def power_saves(case: Case, chance: random.Random) -> tuple[Path, int]:
    """What the disk holds now: the whole database, and the log up to some byte of it."""
    saved = case.root / "saved.db"
    for suffix in ("", "-wal"):  # copied by another process: a descriptor closed here would drop our locks
        subprocess.run(["cp", f"{case.path}{suffix}", f"{saved}{suffix}"], check=True)
    size = Path(f"{saved}-wal").stat().st_size
    frames = max(0, size - WAL_HEADER_SIZE) // frame_size(4096)
    kept = WAL_HEADER_SIZE + chance.randrange(frames // 2, frames + 1) * frame_size(4096)
    return saved, kept + chance.choice([0, 0, 17, 4000])


def power_fails(case: Case, synced: tuple[Path, int]) -> None:
    saved, kept = synced
    case.writer.close()
    clear(case.path)
    shutil.copyfile(f"{saved}-wal", f"{case.path}-wal")
    with open(f"{case.path}-wal", "r+b") as log:
        log.truncate(min(kept, os.fstat(log.fileno()).st_size))
    shutil.copyfile(saved, case.path)
    case.writer = connect(case.path)


def test_what_killed_uploads_left_in_the_replica_is_removed_after_a_day(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.turn()
    level0 = case.replica / "ltx" / "0"
    left = [level0 / f"{9:016x}-{9:016x}.ltx.123.00c0ffee.tmp", level0 / "lock.json.7.0badcafe.tmp"]
    foreign = level0 / "notes.tmp"
    for path in [*left, foreign]:
        path.write_bytes(b"x")
    case.write()
    case.turn()
    assert all(path.exists() for path in left), "somebody may be writing them"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86400 + 60)
    case.write()
    case.turn()
    assert not any(path.exists() for path in left)
    assert foreign.exists()


# --- forbidden --------------------------------------------------------------------------------------------------


REPLICATE_AS_SOMEBODY = """
import ctypes, fcntl, importlib, json, os, pkgutil, sys, vfsstream.replicate
for module in pkgutil.iter_modules(vfsstream.replicate.__path__):  # the somebody may not read the interpreter
    importlib.import_module("vfsstream.replicate." + module.name)
from vfsstream.errors import VfsstreamError
from vfsstream.replica import Replica
from vfsstream.replicate.database import Database
from vfsstream.stores.memory import MemoryStore
if os.geteuid() == 0 and sys.argv[2] == "somebody":
    os.setgid(65534)
    os.setuid(65534)
try:
    database = Database(sys.argv[1], Replica(MemoryStore()))
    database.open()
    database.sync()
except VfsstreamError as error:
    sys.exit(f"{error} {error.hint or ''}")
"""


@pytest.mark.parametrize("what", ["file", "directory", "search", "file system"])
def test_what_may_only_be_read_is_refused_at_once(what: str) -> None:
    with tempfile.TemporaryDirectory(prefix="vfsstream-") as root:  # pytest's own may not be searched by others
        place = Path(root) / "place"
        place.mkdir()
        os.chmod(root, 0o755)
        connection = connect(place / "app.db")
        connection.execute("CREATE TABLE t(x)")
        connection.close()
        (place / "app.db").chmod(0o444 if what == "file" else 0o666)
        place.chmod({"file": 0o777, "directory": 0o555, "search": 0o600, "file system": 0o777}[what])
        if what == "file system":
            with read_only(place):
                told = refusal(place / "app.db", "root")
        else:
            told = refusal(place / "app.db", "somebody")
        place.chmod(0o755)
    assert "Traceback" not in told
    assert str(place) in told
    assert any(word in told.lower() for word in ("read-only", "not readable and writable", "permission denied")), (
        told
    )


def refusal(path: Path, user: str) -> str:
    process = run_python(REPLICATE_AS_SOMEBODY, path, user, stderr=subprocess.PIPE)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1, told
    return str(told.decode())


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    if os.geteuid():
        pytest.skip("mounting needs root")
    if subprocess.run(["mount", "--bind", "-o", "ro", place, place], capture_output=True).returncode:
        pytest.skip("mounting a read-only file system is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True, timeout=30)


# --- large ------------------------------------------------------------------------------------------------------

CAPTURE_AND_MEASURE = """
import resource, sys
from vfsstream.replicate.database import Database
database = Database(sys.argv[1], "file://" + sys.argv[2])
database.open()
database.sync_and_wait(300)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("ready", flush=True)
sys.stdin.readline()
database.sync_and_wait(300)
database.checkpoint()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, flush=True)
database.close()
"""


def test_memory_does_not_grow_with_the_transaction(tmp_path: Path) -> None:
    """Three hundred megabytes in one transaction: a few bytes per page are remembered, not the pages."""
    path = tmp_path / "app.db"
    writer = connect(path)
    writer.execute("PRAGMA synchronous=OFF")
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    process = run_python(
        CAPTURE_AND_MEASURE, path, tmp_path / "replica", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        with writer:
            for _ in range(300):
                writer.execute("INSERT INTO t(x) VALUES(zeroblob(1000000))")
        assert Path(f"{path}-wal").stat().st_size > 300_000_000
        process.stdin.write(b"go\n")
        process.stdin.flush()
        grown = int(process.stdout.readline())
    assert process.returncode == 0
    assert grown < 100, f"{grown} MiB"
    with Replica.open(f"file://{tmp_path}/replica") as replica:
        restore(replica, tmp_path / "restored.db")
    restored = apsw.Connection(str(tmp_path / "restored.db"))
    assert restored.execute("SELECT count(*), sum(length(x)) FROM t").get == (300, 300_000_000)
    restored.close()
    writer.close()


@pytest.mark.interop
@pytest.mark.soak
@pytest.mark.parametrize("theirs", [False, True])
def test_a_database_grows_over_the_lock_page(tmp_path: Path, litestream: str, theirs: bool) -> None:
    """The page at 1 GiB is never used by SQLite and never stored; it is restored as zeros."""
    path, replica, target = tmp_path / "app.db", tmp_path / "replica", tmp_path / "restored.db"
    writer = connect(path, page_size=65536)
    writer.execute("PRAGMA journal_mode=off")
    writer.execute("PRAGMA synchronous=off")
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    for size in (900_000_000, 172_000_000):
        writer.execute("INSERT INTO t(x) VALUES(zeroblob(?))", (size,))
    writer.execute("PRAGMA journal_mode=wal")
    lock_page = (1 << 30) // 65536 + 1
    assert lock_page - 40 < writer.pragma("page_count") < lock_page
    with Database(path, f"file://{replica}") as database:
        database.sync_and_wait(300)
        for _ in range(8):
            writer.execute("INSERT INTO t(x) VALUES(randomblob(800000))")
            database.sync_and_wait(300)
        assert writer.pragma("page_count") > lock_page
        writer.execute("UPDATE t SET x=randomblob(500000) WHERE id>6")
        database.sync_and_wait(300)
        database.checkpoint()
        with database.snapshot_pages() as (header, pages):
            numbers = [pgno for pgno, _ in pages]
        assert numbers == [pgno for pgno in range(1, header.commit + 1) if pgno != lock_page]
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    writer.close()
    wanted = digest(path)
    if theirs:
        restore_theirs(litestream, replica, target)
        assert digest(target) == wanted
    clear(target)
    with Replica.open(f"file://{replica}") as opened:
        restore(opened, target)
    assert digest(target) == wanted
    if theirs:
        assert integrity(target) == "ok"


def digest(path: Path) -> str:
    """Of a database that nobody has open."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
