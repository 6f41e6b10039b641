"""Compaction beside the real Litestream: CPU per megabyte merged, and bytes stored after the same load.

    python -m bench.compaction

CPU: both merge the same 1,001 level-0 files into level 1. Litestream's figure is the CPU of a `replicate` process that
finds them at start, minus that of one that finds level 1 made already. Bytes: both replicate the same writes with
levels of seconds instead of minutes; what lies in the two folders at the end is counted.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import apsw

from vfsstream.plan.compaction import Merge
from vfsstream.plan.retention import RetentionPolicy
from vfsstream.replica import Replica
from vfsstream.replicate.compactor import Compactor
from vfsstream.replicate.database import Database
from vfsstream.replicate.service import Service
from vfsstream.replicate.servicestatus import ServiceSettings
from vfsstream.replicate.timetable import MaintenanceSettings
from vfsstream.stores.file import FileStore

LITESTREAM = str(Path(sys.executable).with_name("litestream"))
FILES = 1000


def load(path: Path, megabytes: int) -> apsw.Connection:
    """A database of rows that compress by about a half."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(20_000)
    connection.execute("pragma journal_mode=wal").fetchall()
    connection.execute("create table t(id integer primary key, x)")
    connection.execute("begin")
    connection.executemany("insert into t(x) values (hex(randomblob(500)))", [()] * (megabytes * 1024))
    connection.execute("commit")
    return connection


def change(connection: apsw.Connection, rows: int = 8) -> None:
    """One transaction in random places."""
    connection.execute("begin immediate")  # the other program writes, too
    (top,) = connection.execute("select max(id) from t").fetchall()[0]
    for _ in range(rows):
        key = random.randrange(1, top)
        connection.execute("update t set x = hex(randomblob(500)) where id = ?", (key,))
    connection.execute("commit")


def cpu() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def litestream_cpu(root: Path, database: Path, done: Path) -> float:
    """CPU seconds of a `replicate` process from its start until a file is there and two more seconds."""
    config = root / "litestream.yml"
    config.write_text(
        f"levels: [{{interval: 24h}}]\nsnapshot: {{interval: 24h}}\nl0-retention: 24h\n"
        f"dbs:\n  - path: {database}\n    monitor-interval: 500ms\n"
        f"    replica: {{type: file, path: {root / 'replica'}, sync-interval: 1h}}\n"
    )
    command = [LITESTREAM, "replicate", "-config", str(config)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not any(done.glob("*.ltx")) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(4)
    child.send_signal(signal.SIGKILL)
    _, _, usage = os.wait4(child.pid, 0)
    child.returncode = -9
    if not any(done.glob("*.ltx")):
        raise SystemExit("Litestream made no level 1")
    return usage.ru_utime + usage.ru_stime


def compare_cpu(root: Path) -> None:
    """The same level-0 files, merged by both."""
    database = root / "app.db"
    connection = load(database, 60)
    replica = Replica(FileStore(root / "replica"))
    with Database(database, replica) as source:
        source.sync_and_wait(120)
        for _ in range(FILES):
            change(connection)
            source.sync()
        source.sync_and_wait(120)
    infos = sorted(replica.files(0))
    size = sum(info.size for info in infos) / 1e6
    started = cpu()
    (made,) = Compactor(replica).compact(Merge(1, tuple(infos)))
    ours = cpu() - started
    keep = root / "kept"
    keep.mkdir()
    level_1 = root / "replica" / "ltx" / "1"
    shutil.move(level_1 / made.name, keep / made.name)
    # Two runs of the real one: with the work to do, and with the work done.
    shutil.copytree(root / "replica", root / "pristine")
    both = litestream_cpu(root, database, level_1)
    shutil.rmtree(root / "replica")
    shutil.copytree(root / "pristine", root / "replica")
    level_1.mkdir(exist_ok=True)
    shutil.copy2(keep / made.name, level_1 / made.name)
    without = litestream_cpu(root, database, level_1)
    connection.close()
    theirs = both - without
    print(f"level 0 -> 1, {len(infos)} files, {size:.0f} MB in, {made.size / 1e6:.0f} MB out")
    print(f"  vfsstream  {ours:6.2f} CPU s  {1000 * ours / size:5.2f} ms/MB (reading back included)")
    print(f"  litestream {theirs:6.2f} CPU s  {1000 * theirs / size:5.2f} ms/MB   ratio {theirs / ours:.1f}")


ACCELERATED = (timedelta(seconds=1), timedelta(seconds=5), timedelta(seconds=15))


def timetables(accelerated: bool) -> tuple[str, MaintenanceSettings]:
    """The same timetable for both: levels of seconds, or what they do when nothing is configured."""
    if not accelerated:
        return "", MaintenanceSettings()
    levels = ", ".join(f"{{interval: {int(interval.total_seconds())}s}}" for interval in ACCELERATED)
    theirs = (
        f"levels: [{levels}]\nsnapshot: {{interval: 1h, retention: 24h}}\n"
        "l0-retention: 5s\nl0-retention-check-interval: 1s\n"
    )
    return theirs, MaintenanceSettings(
        levels=ACCELERATED,
        snapshot_interval=timedelta(hours=1),
        l0_check_interval=timedelta(seconds=1),
        retention=RetentionPolicy(l0=timedelta(seconds=5)),
    )


def compare_bytes(root: Path, seconds: float, accelerated: bool) -> None:
    """The same writes to two databases, replicated by each."""
    ours, theirs = root / "ours.db", root / "theirs.db"
    connections = []
    for path in (ours, theirs):
        random.seed(1)
        connections.append(load(path, 20))
    timing, timetable = timetables(accelerated)
    config = root / "bytes.yml"
    config.write_text(
        f"{timing}dbs:\n  - path: {theirs}\n"
        f"    monitor-interval: 200ms\n    replica: {{type: file, path: {root / 'theirs'}, sync-interval: 200ms}}\n"
    )
    child = subprocess.Popen(
        [LITESTREAM, "replicate", "-config", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with Service(ServiceSettings(maintenance=timetable)) as service:
        service.register(ours, f"file://{root / 'ours'}")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for connection in connections:
                change(connection, 2)
            time.sleep(0.1)
        time.sleep(8)
    child.send_signal(signal.SIGINT)
    child.wait(60)
    for connection in connections:
        connection.close()
    sizes = {
        name: sum(p.stat().st_size for p in (root / name).rglob("*.ltx")) / 1e6 for name in ("ours", "theirs")
    }
    ratio = sizes["theirs"] / sizes["ours"]
    levels = "levels of 1, 5 and 15 s" if accelerated else "the default timetable"
    print(f"bytes stored after {seconds:.0f} s at {levels}, database of {ours.stat().st_size / 1e6:.0f} MB")
    print(f"  vfsstream {sizes['ours']:.1f} MB, litestream {sizes['theirs']:.1f} MB   ratio {ratio:.1f}")


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(prog="python -m bench.compaction", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=40, help="of writing, for the bytes stored")
    parser.add_argument("--default-timetable", action="store_true", help="instead of levels of seconds")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vfsstream-bench-") as root:
        compare_cpu(Path(root))
    with tempfile.TemporaryDirectory(prefix="vfsstream-bench-") as root:
        compare_bytes(Path(root), given.seconds, not given.default_timetable)


if __name__ == "__main__":
    main()
