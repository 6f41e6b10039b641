"""Follow mode: a copy that other processes read while it keeps up, through every interruption."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from tests.conftest import ROOT
from vfsstream.errors import (
    DatabaseError,
    DeadlineExceeded,
    ForkDetected,
    Interrupted,
    LtxError,
    StoreError,
    UsageError,
)
from vfsstream.ltx import TXID, Header, encode
from vfsstream.replica import Replica
from vfsstream.replica.rollback import Rewriter, roll_back
from vfsstream.replicate.follow import Follower, FollowEvent, read_txid_file, write_txid_file
from vfsstream.replicate.restore import restore
from vfsstream.stores import FileStore, MemoryStore

Golden = Callable[[str], Path]


def later(root: Path, hidden: Path, txid: int) -> Path:
    """A view of a golden replica as it was at ``txid``: raw files only."""
    hidden.mkdir(exist_ok=True)
    for path in sorted((root / "ltx").glob("*/*.ltx")):
        wanted = path.parent.name == "0" and int(path.name[17:33], 16) <= txid
        target = hidden / "ltx" / path.parent.name / path.name
        if wanted and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    return hidden


def content(path: Path) -> bytes:
    """What matters of a copy: everything but journal mode, change counter and the size noted beside it."""
    data = bytearray(path.read_bytes())
    for start, stop in ((18, 20), (24, 32), (92, 96)):
        data[start:stop] = bytes(stop - start)
    return hashlib.sha256(data).digest()


def expected(root: Path, txid: int, tmp_path: Path) -> bytes:
    result = restore(Replica(FileStore(root)), tmp_path / "expected.db", txid=txid, force=True)
    return content(result.output)


@pytest.mark.parametrize("name", ["vacuum", "autovacuum-full", "ps512", "ps65536", "mixed-0.5.15", "resnapshot"])
def test_it_passes_through_every_txid(name: str, golden: Golden, tmp_path: Path) -> None:
    root = golden(name)
    last = max(int(path.name[17:33], 16) for path in (root / "ltx/0").iterdir())
    replica = Replica(FileStore(later(root, tmp_path / "view", 1)))
    follower = Follower(replica, tmp_path / "copy.db")
    follower.start()
    for txid in range(1, last + 1):
        later(root, tmp_path / "view", txid)
        assert follower.step() is (txid > 1)
        assert follower.txid == txid == read_txid_file(tmp_path / "copy.db")
        assert content(tmp_path / "copy.db") == expected(root, txid, tmp_path)
        assert check(tmp_path / "copy.db") == "ok"
    assert not follower.step()
    assert sorted(path.name for path in tmp_path.glob("*copy*")) == ["copy.db", "copy.db-txid"]


def check(path: Path) -> str:
    """Integrity, read in a process of its own: closing a connection here would drop our locks."""
    code = "import apsw,sys; print(apsw.Connection(sys.argv[1]).execute('pragma integrity_check').get)"
    return subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_it_resumes_after_files_were_compacted_away(golden: Golden, tmp_path: Path) -> None:
    root = golden("levels")
    follower = Follower(Replica(FileStore(later(root, tmp_path / "view", 5))), tmp_path / "copy.db")
    follower.start()
    shutil.rmtree(root / "ltx/0")
    shutil.rmtree(root / "ltx/9")
    resumed = Follower(Replica(FileStore(root)), tmp_path / "copy.db")
    resumed.start()
    assert resumed.txid == 5
    assert resumed.step()
    assert resumed.txid == 0x3D
    assert content(tmp_path / "copy.db") == expected(root, 0x3D, tmp_path)


def test_a_gap_is_bridged_by_a_snapshot_ahead_of_it(golden: Golden, tmp_path: Path) -> None:
    root = golden("levels")
    follower = Follower(Replica(FileStore(later(root, tmp_path / "view", 5))), tmp_path / "copy.db")
    follower.start()
    for level in "123":
        shutil.rmtree(root / "ltx" / level)
    for path in (root / "ltx/0").iterdir():
        if int(path.name[:16], 16) < 0x3A:
            path.unlink()
    follower.replica = Replica(FileStore(root))
    assert follower.step()
    assert follower.txid == 0x3E
    assert content(tmp_path / "copy.db") == expected(root, 0x3E, tmp_path)


def test_damage_leaves_the_copy_as_it_was(golden: Golden, tmp_path: Path) -> None:
    root = golden("vacuum")
    view = later(root, tmp_path / "view", 1)
    follower = Follower(Replica(FileStore(view)), tmp_path / "copy.db")
    follower.start()
    before = (tmp_path / "copy.db").read_bytes()
    later(root, view, 2)
    newest = sorted((view / "ltx/0").iterdir())[-1]
    data = bytearray(newest.read_bytes())
    data[-3] ^= 1
    newest.write_bytes(data)
    with pytest.raises(LtxError, match="checksum"):
        follower.step()
    assert (tmp_path / "copy.db").read_bytes() == before
    assert follower.txid == 1


def test_another_history_is_not_followed(golden: Golden, tmp_path: Path) -> None:
    root = golden("vacuum")
    follower = Follower(Replica(FileStore(later(root, tmp_path / "view", 3))), tmp_path / "copy.db")
    follower.start()
    follower.replica = Replica(FileStore(golden("empty")))
    with pytest.raises(ForkDetected, match="ahead of the replica's newest 0000000000000001"):
        follower.step()


def test_a_database_without_its_txid_is_not_touched(golden: Golden, tmp_path: Path) -> None:
    replica = Replica(FileStore(golden("empty")))
    copy = tmp_path / "copy.db"
    copy.write_bytes(b"something")
    with pytest.raises(DatabaseError, match=r"no valid copy\.db-txid"):
        Follower(replica, copy).start()
    (tmp_path / "copy.db-txid").write_text("zzz")
    with pytest.raises(DatabaseError, match="no valid"):
        Follower(replica, copy).start()
    assert copy.read_bytes() == b"something"
    Follower(replica, copy, force=True).start()
    assert (tmp_path / "copy.db-txid").read_bytes() == b"0000000000000001\n"
    assert check(copy) == "ok"


def test_zero_beside_a_copy_means_restore_anew(golden: Golden, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_bytes(b"half a swap")
    write_txid_file(copy, TXID(0))
    follower = Follower(Replica(FileStore(golden("empty"))), copy)
    follower.start()
    assert follower.txid == 1
    assert check(copy) == "ok"


def test_options() -> None:
    with pytest.raises(UsageError, match="interval"):
        Follower(Replica(MemoryStore()), "x", interval=0)


READER = """
import apsw, sys
db = apsw.Connection(sys.argv[1])
db.execute("begin"); db.execute("select count(*) from sqlite_schema").fetchall()
print("reading", flush=True)
sys.stdin.readline()
"""


@contextmanager
def idle_reader(path: Path) -> Iterator[None]:
    """Another process in the middle of a read transaction."""
    command = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        yield
        process.communicate(b"\n", timeout=30)


def test_an_idle_reader_delays_and_never_blocks(golden: Golden, tmp_path: Path) -> None:
    root = golden("vacuum")
    view = later(root, tmp_path / "view", 1)
    follower = Follower(Replica(FileStore(view)), tmp_path / "copy.db", lock_timeout=0.2)
    follower.start()
    later(root, view, 2)
    with idle_reader(tmp_path / "copy.db"):
        before = (tmp_path / "copy.db").read_bytes()
        with pytest.raises(DeadlineExceeded, match="keep the copy busy"):
            follower.step()
        assert (tmp_path / "copy.db").read_bytes() == before
        assert not (tmp_path / "copy.db-journal").exists()
    assert follower.step()
    assert content(tmp_path / "copy.db") == expected(root, 2, tmp_path)


@pytest.mark.parametrize("point", ["journal", "first page", "half", "truncated", "end"])
def test_whoever_opens_the_copy_after_a_crash_finds_the_state_before_or_after(
    point: str, golden: Golden, tmp_path: Path
) -> None:
    root = golden("vacuum")
    view = later(root, tmp_path / "view", 3)
    follower = Follower(Replica(FileStore(view)), tmp_path / "copy.db")
    follower.start()
    before = content(tmp_path / "copy.db")
    later(root, view, 99)
    code = CRASH.replace("POINT", repr(point))
    done = subprocess.run(
        [sys.executable, "-c", code, str(view), str(tmp_path / "copy.db")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 9
    assert (tmp_path / "copy.db-journal").exists()
    assert check(tmp_path / "copy.db") == "ok"
    assert content(tmp_path / "copy.db") == before
    assert not (tmp_path / "copy.db-journal").exists()
    resumed = Follower(Replica(FileStore(view)), tmp_path / "copy.db")
    resumed.start()
    assert resumed.txid == 3
    assert resumed.step()
    assert content(tmp_path / "copy.db") == expected(root, resumed.txid, tmp_path)


CRASH = """
import os, sys
from vfsstream.replica import Replica
from vfsstream.replica import rollback
from vfsstream.replicate.follow import Follower
from vfsstream.stores import FileStore
point, count = POINT, 0
pwrite, truncate, unlink = os.pwrite, os.ftruncate, rollback.Path.unlink
def writing(*a):
    global count
    count += 1
    if point == "journal" or (point == "half" and count == 5):
        os._exit(9)
    done = pwrite(*a)
    if point == "first page":
        os._exit(9)
    return done
def truncating(*a):
    truncate(*a)
    if point == "truncated":
        os._exit(9)
def unlinking(path, **k):
    if point == "end" and path.name.endswith("-journal"):
        os._exit(9)
    unlink(path, **k)
os.pwrite, os.ftruncate, rollback.Path.unlink = writing, truncating, unlinking
follower = Follower(Replica(FileStore(sys.argv[1])), sys.argv[2])
follower.start()
follower.step()
"""


def test_the_rewriter_waits_its_turn_and_can_be_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    connection = apsw.Connection(str(path))
    connection.execute("create table t(x)")
    connection.close()
    with idle_reader(path):
        stop = threading.Event()
        threading.Timer(0.1, stop.set).start()
        with pytest.raises(Interrupted), Rewriter(path, 4096, 30, stop) as rewriter:  # noqa: PT012
            rewriter.prepare([1])
            rewriter.write([], 1)


WRITER = (
    "import apsw,sys; d=apsw.Connection(sys.argv[1]); d.execute('begin immediate'); print(1,flush=True); input()"
)


def test_the_rewriter_gives_way_to_another_writer(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    connection = apsw.Connection(str(path))
    connection.execute("create table t(x)")
    connection.close()
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(DeadlineExceeded):
            Rewriter(path, 4096, 0.05, threading.Event()).__enter__()
        process.communicate(b"\n")


def test_rolling_back_what_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(DatabaseError, match="not a database"):
        roll_back(path)


def test_run_reports_failures_and_goes_on(golden: Golden, tmp_path: Path) -> None:
    root = golden("vacuum")
    store = MemoryStore()
    for path in sorted((root / "ltx/0").iterdir()):
        store.put(f"ltx/0/{path.name}", path.read_bytes())
    broken = [3]

    def fault(operation: str, key: str) -> None:
        if broken[0]:
            broken[0] -= 1
            raise StoreError("the line is down", retryable=True)

    store.fault = fault
    events: list[FollowEvent] = []
    stop = threading.Event()
    follower = Follower(Replica(store), tmp_path / "copy.db", interval=0.01, observer=events.append)
    thread = threading.Thread(target=follower.run, args=(stop,), name="vfsstream-test-follow")
    thread.start()
    deadline = time.monotonic() + 60
    while not any(event.kind == "restored" for event in events) and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert [event.kind for event in events][:2] == ["failed", "failed"] or events[0].kind == "failed"
    assert events[-1].kind == "restored"


def test_what_was_restored_is_told_in_pages(golden: Golden, tmp_path: Path) -> None:
    events: list[FollowEvent] = []
    Follower(Replica(FileStore(golden("ps1024"))), tmp_path / "copy.db", observer=events.append).start()
    with closing(sqlite3.connect(tmp_path / "copy.db")) as database:
        (count,) = database.execute("PRAGMA page_count").fetchone()
    assert [event.pages for event in events] == [count]


FOLLOWING = """
import sys, threading
from vfsstream.replica import Replica
from vfsstream.replicate.follow import Follower
Follower(Replica.open(sys.argv[1]), sys.argv[2], interval=0.05).run(threading.Event())
"""
WATCHING = """
import apsw, sys, time
db = apsw.Connection(sys.argv[1], flags=apsw.SQLITE_OPEN_READWRITE)
db.set_busy_timeout(20000)
last = 0
while True:
    db.execute("begin")
    a = db.execute("select n from counter").get
    b, c = db.execute("select count(*), coalesce(max(n), 0) from log").fetchall()[0]
    db.execute("commit")
    if not (a == b == c and a >= last):
        sys.exit(f"torn: {a} {b} {c} after {last}")
    last = a
    print(a, flush=True)
    time.sleep(0.01)
"""
CONFIG = """
levels: [{{interval: 1s}}, {{interval: 3s}}]
snapshot: {{interval: 4s, retention: 8s}}
l0-retention: 2s
l0-retention-check-interval: 1s
dbs:
  - path: {db}
    monitor-interval: 100ms
    replica: {{type: file, path: {replica}, sync-interval: 100ms}}
"""


@pytest.mark.interop
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(1500)])])
def test_behind_the_real_replicator_killed_again_and_again(litestream: str, tmp_path: Path, kills: int) -> None:
    db, copy, config = tmp_path / "app.db", tmp_path / "copy.db", tmp_path / "litestream.yml"
    config.write_text(CONFIG.format(db=db, replica=tmp_path / "replica"))
    source = apsw.Connection(str(db))
    source.set_busy_timeout(20000)
    source.execute("pragma journal_mode=wal").fetchall()
    source.execute("create table counter(n); insert into counter values(0)")
    source.execute("create table log(n, filler)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    following = [sys.executable, "-c", FOLLOWING, str(tmp_path / "replica"), str(copy)]
    replicator = subprocess.Popen(
        [litestream, "replicate", "-config", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    follower = watcher = None
    try:
        written = write(source, 0, 0.5)
        wait_for(lambda: any((tmp_path / "replica/ltx/0").glob("*.ltx")))
        for turn in range(kills):
            follower = subprocess.Popen(following, env=environment)
            if watcher is None:
                wait_for(lambda: read_txid_file(copy))
                watcher = subprocess.Popen(
                    [sys.executable, "-c", WATCHING, str(copy)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
            written = write(source, written, 1.0 if kills < 10 else 30.0)  # 20 of them: ten minutes
            if turn < kills - 1:
                follower.send_signal(signal.SIGKILL)
                follower.wait()
        assert watcher is not None
        assert watcher.stdout is not None
        deadline = time.monotonic() + 60
        seen = -1
        while seen != written and time.monotonic() < deadline and watcher.poll() is None:
            seen = int(watcher.stdout.readline() or -1)
        assert watcher.poll() is None, watcher.communicate()[1]
        assert seen == written
    finally:
        source.close()
        for process in (follower, watcher, replicator):
            if process is not None:
                process.terminate()
                process.communicate(timeout=60)


def write(source: apsw.Connection, written: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        written += 1
        with source:
            source.execute("update counter set n=?; insert into log values(?, zeroblob(300))", (written, written))
        time.sleep(0.003)
    return written


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_another_page_size_is_followed_by_a_new_file(golden: Golden, tmp_path: Path) -> None:
    follower = Follower(Replica(FileStore(golden("ps1024"))), tmp_path / "copy.db")
    follower.start()
    other = golden("levels")
    follower.replica = Replica(FileStore(other))
    assert follower.step()
    assert follower.txid == 0x3E
    assert content(tmp_path / "copy.db") == expected(other, 0x3E, tmp_path)


def image(path: Path, page_size: int, rows: int) -> list[tuple[int, bytes]]:
    """The pages of a database of some page size."""
    with apsw.Connection(str(path)) as database:
        database.execute(f"pragma page_size={page_size}")
        database.execute("create table t(x)")
        database.executemany("insert into t values(?)", ((f"row {row} " * 20,) for row in range(rows)))
    database.close()
    data = path.read_bytes()
    return [(at // page_size + 1, data[at : at + page_size]) for at in range(0, len(data), page_size)]


def test_a_page_size_that_changes_among_the_new_files(tmp_path: Path) -> None:
    replica = Replica(FileStore(tmp_path / "replica"))
    old, new = image(tmp_path / "old.db", 512, 40), image(tmp_path / "new.db", 2048, 90)

    def add(txid: int, page_size: int, commit: int, pages: list[tuple[int, bytes]]) -> None:
        header = Header(page_size, commit, TXID(txid), TXID(txid), txid)
        replica.write(0, txid, txid, encode(header, pages), timestamp=txid)

    add(1, 512, len(old), old)
    follower = Follower(replica, tmp_path / "copy.db")
    follower.start()
    add(2, 512, len(old), old[:1])
    add(3, 2048, len(new), new)
    add(4, 2048, len(new), new[3:5])
    assert follower.step()
    assert follower.txid == 4
    assert content(tmp_path / "copy.db") == content(tmp_path / "new.db")
    restored = restore(replica, tmp_path / "restored.db")
    assert restored.output.read_bytes() == (tmp_path / "new.db").read_bytes()
    assert (
        restore(replica, tmp_path / "before.db", txid=2).output.read_bytes() == (tmp_path / "old.db").read_bytes()
    )


def test_a_copy_that_somebody_writes_to_is_busy_at_the_start(golden: Golden, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    Follower(Replica(FileStore(golden("empty"))), copy).start()
    command = [sys.executable, "-c", WRITER.replace("immediate", "exclusive"), str(copy)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(DeadlineExceeded, match="busy"):
            Follower(Replica(FileStore(tmp_path / "golden-empty")), copy).start()
        process.communicate(b"\n")


def test_the_command_follows_until_it_is_stopped(golden: Golden, tmp_path: Path) -> None:
    root = golden("vacuum")
    view = later(root, tmp_path / "view", 2)
    command = [
        sys.executable,
        "-m",
        "vfsstream",
        "restore",
        "-f",
        "-follow-interval",
        "50ms",
        "-o",
        tmp_path / "copy.db",
    ]
    process = subprocess.Popen(
        [*command, f"file://{view}"], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    )
    try:
        wait_for(lambda: read_txid_file(tmp_path / "copy.db") == 2)
        later(root, view, 99)
        wait_for(lambda: (read_txid_file(tmp_path / "copy.db") or 0) > 2)
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert b"follow restored" in said
    assert b"follow applied" in said
    assert check(tmp_path / "copy.db") == "ok"
