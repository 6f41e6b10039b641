"""Restore: the same bytes as the real Litestream, and nothing harmed when it cannot be done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.conftest import GOLDEN, ROOT
from vfsstream.errors import (
    DatabaseError,
    DiskFull,
    Interrupted,
    LtxError,
    NotRestorable,
    ReplicaEmpty,
    StoreError,
)
from vfsstream.ltx import Decoder
from vfsstream.replica import Replica
from vfsstream.replicate import target as target_module
from vfsstream.replicate.restore import RestoreProgress, restore
from vfsstream.stores import FileStore, MemoryStore
from vfsstream.stores.retry import RetryStore

Golden = Callable[[str], Path]
ALL = sorted(path.name for path in GOLDEN.iterdir())


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _manifest(name: str) -> Any:
    return json.loads((GOLDEN / name / "manifest.json").read_text())["restore"]


def _in_memory(root: Path) -> MemoryStore:
    store = MemoryStore()
    for path in root.rglob("*.ltx"):
        store.put(str(path.relative_to(root)), path.read_bytes())
    return store


@pytest.mark.parametrize("name", ALL)
def test_every_golden_restore_is_byte_equal(name: str, golden: Golden, tmp_path: Path) -> None:
    replica = Replica(FileStore(golden(name)))
    wanted = _manifest(name)
    result = restore(replica, tmp_path / "latest.db", integrity_check="full")
    assert _sha(result.output) == wanted["latest"]["sha256"]
    for txid, expected in wanted["txid"].items():
        output = tmp_path / f"{txid}.db"
        if "error" in expected:
            with pytest.raises(NotRestorable):
                restore(replica, output, txid=int(txid, 16))
            assert not output.exists()
        else:
            assert _sha(restore(replica, output, txid=int(txid, 16)).output) == expected["sha256"]
    for number, expected in enumerate(wanted.get("timestamp", [])):
        if "error" in expected:
            continue
        when = datetime.fromisoformat(expected.get("timestamp") or expected["time"])
        output = tmp_path / f"time-{number}.db"
        assert _sha(restore(replica, output, timestamp=when).output) == expected["sha256"]


def test_times_come_from_headers_where_the_listing_has_none(golden: Golden, tmp_path: Path) -> None:
    store = _in_memory(golden("levels"))  # its listing knows only the time of the upload
    for expected in _manifest("levels")["timestamp"]:
        if "error" in expected:
            continue
        when = datetime.fromisoformat(expected.get("timestamp") or expected["time"])
        output = tmp_path / "out.db"
        assert _sha(restore(Replica(store), output, timestamp=when, force=True).output) == expected["sha256"]


def test_an_existing_database_is_kept_until_the_new_one_is_whole(golden: Golden, tmp_path: Path) -> None:
    root, output = golden("levels"), tmp_path / "app.db"
    output.write_bytes(b"precious")
    (tmp_path / "app.db-wal").write_bytes(b"old log")
    replica = Replica(FileStore(root))
    with pytest.raises(DatabaseError, match="already exists and is not empty"):
        restore(replica, output)
    with pytest.raises(NotRestorable):
        restore(replica, output, txid=10**6, force=True)
    victim = max((root / "ltx" / "9").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0")
    with pytest.raises(LtxError, match="nearest restorable TXID"):
        restore(replica, output, force=True)
    assert output.read_bytes() == b"precious"
    assert (tmp_path / "app.db-wal").read_bytes() == b"old log"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["app.db", "app.db-wal"]


def test_force_replaces_database_and_sidecars(golden: Golden, tmp_path: Path) -> None:
    output = tmp_path / "app.db"
    for suffix in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f"app.db{suffix}").write_bytes(b"old")
    output.chmod(0o640)
    restore(Replica(FileStore(golden("ps4096"))), output, force=True)
    assert _sha(output) == _manifest("ps4096")["latest"]["sha256"]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["app.db"]
    assert output.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_sidecar_without_a_database_is_refused(suffix: str, golden: Golden, tmp_path: Path) -> None:
    (tmp_path / f"app.db{suffix}").write_bytes(b"stale")
    with pytest.raises(DatabaseError, match="sidecar path already exists"):
        restore(Replica(FileStore(golden("empty"))), tmp_path / "app.db")
    assert not (tmp_path / "app.db").exists()


def test_an_open_database_is_refused(golden: Golden, tmp_path: Path) -> None:
    output = tmp_path / "app.db"
    script = (
        "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute('pragma journal_mode=wal');"
        "c.execute('create table t(x)'); c.commit(); c.execute('begin'); c.execute('select * from t').fetchall();"
        "print('open', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", script, output], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(DatabaseError, match="has this database open"):
            restore(Replica(FileStore(golden("empty"))), output, force=True)
        assert child.stdin is not None
        child.stdin.close()


@pytest.mark.parametrize("bad", ["directory", "unwritable", "full"])
def test_targets_that_cannot_be_written(
    bad: str, golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "app.db"
    if bad == "directory":
        output.mkdir()
    elif bad == "unwritable":
        (tmp_path / "file").write_bytes(b"")
        output = tmp_path / "file" / "app.db"
    else:
        usage = type("Usage", (), {"free": 10})
        monkeypatch.setattr(target_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFull if bad == "full" else DatabaseError, match=r"app\.db|bytes free"):
        restore(Replica(FileStore(golden("empty"))), output)


def test_an_empty_replica(tmp_path: Path) -> None:
    with pytest.raises(ReplicaEmpty):
        restore(Replica(MemoryStore()), tmp_path / "app.db")


def test_a_file_removed_between_listing_and_reading_leads_to_a_new_plan(golden: Golden, tmp_path: Path) -> None:
    store = _in_memory(golden("levels"))
    newest = max(key for key in store._objects if key.startswith("ltx/9/"))
    asked: list[str] = []

    def vanish(operation: str, key: str) -> None:
        if operation == "get" and key == newest and not asked:
            asked.append(key)
            del store._objects[newest]

    store.fault = vanish
    result = restore(Replica(store), tmp_path / "app.db")
    assert asked
    assert _sha(result.output) == _manifest("levels")["latest"]["sha256"]


def test_a_passing_error_is_survived_and_a_lasting_one_leaves_nothing(golden: Golden, tmp_path: Path) -> None:
    store = _in_memory(golden("blobs4096"))
    seen: set[str] = set()

    def once(operation: str, key: str) -> None:
        if operation == "get" and key not in seen:
            seen.add(key)
            if len(seen) > 1:
                raise StoreError("connection reset", retryable=True)

    store.fault = once
    result = restore(Replica(RetryStore(store)), tmp_path / "app.db")
    assert _sha(result.output) == _manifest("blobs4096")["latest"]["sha256"]

    def always(operation: str, key: str) -> None:
        if operation == "get":
            raise StoreError("server gone", retryable=True)

    store.fault = always
    with pytest.raises(StoreError, match="server gone"):
        restore(Replica(RetryStore(store)), tmp_path / "other.db")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["app.db"]


def test_progress_ends_at_the_whole_and_stop_leaves_nothing(golden: Golden, tmp_path: Path) -> None:
    replica = Replica(FileStore(golden("bigindex")))
    seen: list[RestoreProgress] = []
    result = restore(replica, tmp_path / "app.db", progress=seen.append)
    assert seen[-1].done == seen[-1].total == result.read
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        restore(replica, tmp_path / "other.db", stop=stop)
    assert not (tmp_path / "other.db").exists()


def test_a_killed_restore_leaves_nothing_that_harms(golden: Golden, tmp_path: Path) -> None:
    root = golden("blobs65536")
    output = tmp_path / "app.db"
    script = (
        "import sys, os, signal\n"
        "from vfsstream.replica import Replica\nfrom vfsstream.replicate import restore as r, target\n"
        "def die(self): os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(target.Target, sys.argv[3], die)\n"
        "r.restore(Replica.open(sys.argv[1]), sys.argv[2])\n"
    )
    for step in ("complete", "publish"):
        done = subprocess.run(
            [sys.executable, "-c", script, root, output, step], cwd=ROOT, check=False, timeout=60
        )
        assert done.returncode == -signal.SIGKILL
        assert not output.exists()
    assert len([path for path in tmp_path.iterdir() if path.name.endswith(".restoring")]) == 1  # the last one's
    restore(Replica(FileStore(root)), output)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["app.db"]
    assert _sha(output) == _manifest("blobs65536")["latest"]["sha256"]


def test_what_a_running_restore_writes_is_left_to_it(golden: Golden, tmp_path: Path) -> None:
    root, output = golden("empty"), tmp_path / "app.db"
    stale = (
        tmp_path / f".app.db.{os.getpid()}.00000000.restoring"
    )  # a process of this number lives, as in containers
    stale.write_bytes(b"killed")
    with target_module.Target(output, 10) as running:
        assert not stale.exists()
        assert running.path.exists()
        restore(Replica(FileStore(root)), output)
        assert running.path.exists()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["app.db"]


def test_a_failing_integrity_check_changes_nothing(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "app.db"
    output.write_bytes(b"old")
    original = target_module.Target.complete

    def damage(self: target_module.Target) -> None:
        original(self)
        self.write(b"\xff" * 600, 0)

    monkeypatch.setattr(target_module.Target, "complete", damage)
    with pytest.raises(DatabaseError, match="integrity check"):
        restore(Replica(FileStore(golden("ps512"))), output, force=True, integrity_check="quick")
    assert output.read_bytes() == b"old"


def test_sqlite_reads_what_was_restored(golden: Golden, tmp_path: Path) -> None:
    result = restore(Replica(FileStore(golden("vacuum"))), tmp_path / "app.db")
    connection = apsw.Connection(str(result.output))
    for query in _manifest("vacuum")["latest"]["queries"]:
        assert list(connection.execute(query["sql"]).fetchall()[0]) == query["row"]
    assert connection.pragma("integrity_check") == "ok"
    connection.close()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_memory_does_not_grow_with_the_database(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom vfsstream.ltx import TXID, Header, encode\n"
        "from vfsstream.replica import Replica\nfrom vfsstream.replicate.restore import restore\n"
        "replica = Replica.open(sys.argv[1])\npages = int(sys.argv[2])\n"
        "header = Header(4096, pages, TXID(1), TXID(1), 0)\n"
        "import random\nblock = random.Random(1).randbytes(4096)\n"
        "replica.write(9, 1, 1, encode(header, ((n, block) for n in range(1, pages + 1))), timestamp=0)\n"
        "restore(replica, sys.argv[1] + '.db')\n"
        # VmHWM, not ru_maxrss: the latter is that of the parent when a large process starts a small one.
        "status = open('/proc/self/status').read()\nprint(int(status.split('VmHWM:')[1].split()[0]) // 1024)\n"
    )
    pages = 40_000  # 160 MB that do not compress
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "replica", str(pages)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},
    )
    assert int(done.stdout) < 100, f"{done.stdout.strip()} MB"


@pytest.mark.interop
def test_the_real_program_restores_the_same(golden: Golden, litestream: str, tmp_path: Path) -> None:
    root = golden("autovacuum-incremental")
    theirs = tmp_path / "theirs.db"
    subprocess.run(
        [litestream, "restore", "-o", theirs, f"file://{root}"], check=True, timeout=60, capture_output=True
    )
    started = time.monotonic()
    ours = restore(Replica(FileStore(root)), tmp_path / "ours.db")
    assert ours.seconds <= time.monotonic() - started + 1
    assert _sha(ours.output) == _sha(theirs)


def test_a_base_that_is_replaced_as_a_whole_is_not_read(golden: Golden, tmp_path: Path) -> None:
    root = golden("resnapshot")
    files = {path: Decoder([path.read_bytes()]) for path in sorted((root / "ltx/0").iterdir())}
    whole = [path for path, decoder in files.items() if len(list(decoder)) == decoder.header.commit]
    assert len(whole) > 1, "the fixture holds a full image that does not start at TXID 1"
    shutil.rmtree(root / "ltx/9", ignore_errors=True)
    shutil.rmtree(root / "ltx/1", ignore_errors=True)
    store = _in_memory(root)
    seen: list[RestoreProgress] = []
    result = restore(Replica(store), tmp_path / "app.db", parallelism=1, progress=seen.append)
    read = {key for operation, key in store.calls if operation == "get"}
    assert f"ltx/0/{whole[0].name}" not in read
    assert seen[-1].done == seen[-1].total == result.read
    assert _sha(result.output) == _manifest("resnapshot")["latest"]["sha256"]
