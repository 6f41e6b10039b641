"""Compaction beside the real Litestream: CPU per megabyte merged, and bytes stored after the same load.

    python -m bench.compaction

CPU: both do the same work on the same files, in turn, several times; the median of each counts. Litestream's figure
is the CPU of a `replicate` process that finds the work at start, minus that of one that finds it done. Bytes: both
replicate the same writes with levels of seconds instead of minutes; what lies in the two folders at the end is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median

import apsw

from vfsstream.plan.compaction import Merge
from vfsstream.plan.files import FileInfo
from vfsstream.plan.retention import RetentionPolicy
from vfsstream.replica import Replica
from vfsstream.replicate.compactor import Compactor
from vfsstream.replicate.database import Database
from vfsstream.replicate.pagesums import PageSums
from vfsstream.replicate.service import Service
from vfsstream.replicate.servicestatus import ServiceSettings
from vfsstream.replicate.snapshot import snapshot_from_database
from vfsstream.replicate.timetable import MaintenanceSettings
from vfsstream.stores.file import FileStore

LITESTREAM = str(Path(sys.executable).with_name("litestream"))
FILES = 1000
WORDS = [f"word{n * 7919 % 10007}" for n in range(3000)]


def random_hex() -> str:
    """A value that LZ4 cannot compress."""
    return random.randbytes(500).hex()


def sentence() -> str:
    """A value that LZ4 brings to about 0.7."""
    return json.dumps({"a": " ".join(random.choices(WORDS, k=70)), "h": random.randbytes(100).hex()})


def load(path: Path, megabytes: int, value: Callable[[], str] = random_hex) -> apsw.Connection:
    """A database of rows of about 1 KB."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(20_000)
    connection.execute("pragma journal_mode=wal").fetchall()
    connection.execute("create table t(id integer primary key, x)")
    connection.execute("begin")
    connection.executemany("insert into t(x) values (?)", ((value(),) for _ in range(megabytes * 1024)))
    connection.execute("commit")
    return connection


def change(connection: apsw.Connection, rows: int = 8, value: Callable[[], str] = random_hex) -> None:
    """One transaction in random places."""
    connection.execute("begin immediate")  # the other program writes, too
    (top,) = connection.execute("select max(id) from t").fetchall()[0]
    for _ in range(rows):
        connection.execute("update t set x = ? where id = ?", (value(), random.randrange(1, top)))
    connection.execute("commit")


def cpu() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(work: Callable[[], FileInfo]) -> tuple[FileInfo, float]:
    """What was made, and the CPU seconds."""
    started = cpu()
    made = work()
    return made, cpu() - started


@dataclass
class Work:
    """One thing that both can do.

    Attributes:
        name: for the table.
        present: the files of the replica before.
        levels: how many levels Litestream shall keep.
        ours: does it, given the replica; returns what was made and the CPU seconds.
        unit: bytes by which the CPU is divided.
    """

    name: str
    present: list[FileInfo]
    levels: int
    ours: Callable[[Replica], tuple[FileInfo, float]]
    unit: float


class Contest:
    """The same files for both.

    Args:
        root: a folder.
        value: makes the rows.
    """

    def __init__(self, root: Path, value: Callable[[], str]) -> None:
        self.root, self.database, self.store = root, root / "app.db", root / "store"
        self.connection = load(self.database, 60, value)
        self.replica = Replica(FileStore(self.store))
        with Database(self.database, self.replica) as source:
            source.sync_and_wait(120)
            for _ in range(FILES):
                change(self.connection, 8, value)
                source.sync()
            source.sync_and_wait(120)
        self.sums = PageSums(root / "sums")
        compactor = Compactor(self.replica, sums=self.sums)
        self.level_0 = sorted(self.replica.files(0))
        self.base = compactor.snapshot(self.level_0[:1])
        starts = range(1, len(self.level_0), 100)
        merges = [Merge(1, tuple(self.level_0[start : start + 100])) for start in starts]
        self.level_1 = [compactor.compact(merge)[0] for merge in merges]
        shutil.rmtree(self.database.with_name(f".{self.database.name}-litestream"))

    def folder(self, infos: Iterable[FileInfo]) -> Path:
        """A replica of these files; its snapshots were written two days ago."""
        folder = self.root / "replica"
        shutil.rmtree(folder, ignore_errors=True)
        for info in infos:
            path = folder / self.replica.key(info)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.store / self.replica.key(info), path)
            if info.level == 9 and info.max_txid == 1:
                os.utime(path, (time.time() - 172_800,) * 2)
        return folder

    def run_ours(self, work: Work) -> float:
        """CPU seconds; what was made stays in the store."""
        folder = self.folder(work.present)
        made, spent = work.ours(Replica(FileStore(folder)))
        kept = self.store / self.replica.key(made)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / self.replica.key(made), kept)
        self.made = made
        return spent

    def run_theirs(self, work: Work, made: FileInfo, *, done: bool) -> float:
        """CPU seconds of a `replicate` process from its start until the work is done and four more seconds."""
        folder = self.folder([*work.present, made] if done else work.present)
        if done:
            os.utime(folder / self.replica.key(made))
        level = folder / "ltx" / str(made.level)
        before = set(level.glob("*.ltx")) if level.exists() else set()
        shutil.rmtree(self.database.with_name(f".{self.database.name}-litestream"), ignore_errors=True)
        config = self.root / "litestream.yml"
        levels = ", ".join(["{interval: 24h}"] * work.levels)
        config.write_text(
            f"levels: [{levels}]\nsnapshot: {{interval: 24h, retention: 240h}}\nl0-retention: 24h\n"
            f"dbs:\n  - path: {self.database}\n    monitor-interval: 500ms\n"
            f"    replica: {{type: file, path: {folder}, sync-interval: 1h}}\n"
        )
        command = [LITESTREAM, "replicate", "-config", str(config)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while not done and set(level.glob("*.ltx")) <= before and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(4)
        child.send_signal(signal.SIGKILL)
        _, _, usage = os.wait4(child.pid, 0)
        child.returncode = -9
        if not done and set(level.glob("*.ltx")) <= before:
            raise SystemExit(f"Litestream did not do {work.name}")
        return usage.ru_utime + usage.ru_stime

    def compare(self, work: Work, rounds: int) -> None:
        """Run both in turn and print the median of each."""
        ours, both, without = [], [], []
        for _ in range(rounds):
            ours.append(self.run_ours(work))
            both.append(self.run_theirs(work, self.made, done=False))
            without.append(self.run_theirs(work, self.made, done=True))
        mine, size = median(ours), work.unit / 1e6
        theirs = median(both) - median(without)
        print(
            f"  {work.name:42} {size:4.0f} MB  {1000 * mine / size:5.2f} ms/MB  {1000 * theirs / size:5.2f} ms/MB  "
            f"{theirs / mine:4.1f}x",
            flush=True,
        )

    def works(self) -> list[Work]:
        """What is compared."""
        level_0, level_1, base = self.level_0, self.level_1, self.base
        to_1, to_2 = Merge(1, tuple(level_0)), Merge(2, tuple(level_1))
        plan = [base, *level_1]
        size_0, size_1, size_9 = (sum(i.size for i in infos) for infos in (level_0, level_1, plan))
        newest = [level_0[-1]]

        def compact(merge: Merge, sums: PageSums | None) -> Callable[[Replica], tuple[FileInfo, float]]:
            return lambda replica: timed(lambda: Compactor(replica, sums=sums).compact(merge)[0])

        def snapshot(sums: PageSums | None) -> Callable[[Replica], tuple[FileInfo, float]]:
            return lambda replica: timed(lambda: Compactor(replica, sums=sums).snapshot(plan))

        def from_database(replica: Replica) -> tuple[FileInfo, float]:
            with Database(self.database, replica) as source:
                source.sync_and_wait(120)
                return timed(lambda: snapshot_from_database(source))

        foreign = "  the same, written by another program"
        at_1, at_9 = [base, *level_1, *newest], [*plan, *newest]
        return [
            Work(f"level 0 -> 1, {len(level_0)} files", level_0, 1, compact(to_1, self.sums), size_0),
            Work(f"level 1 -> 2, {len(level_1)} files", at_1, 2, compact(to_2, self.sums), size_1),
            Work(foreign, at_1, 2, compact(to_2, None), size_1),
            Work(f"snapshot, merged from {len(plan)} files", at_9, 1, snapshot(self.sums), size_9),
            Work(foreign, at_9, 1, snapshot(None), size_9),
            Work("snapshot from the database", at_9, 1, from_database, size_9),
        ]


def compare_cpu(root: Path, value: Callable[[], str], rounds: int) -> None:
    """The same files, merged by both."""
    contest = Contest(root, value)
    pages = sum(info.size for info in contest.level_0) / 1e6
    kind = "cannot compress" if value is random_hex else "compresses"
    print(f"CPU per MB read, reading back included; content that LZ4 {kind}; level 0 of {pages:.0f} MB")
    print(f"  {'':42} {'read':>7}  {'vfsstream':>11}  {'litestream':>11}  ratio", flush=True)
    for work in contest.works():
        contest.compare(work, rounds)
    contest.connection.close()


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
    parser.add_argument("--rounds", type=int, default=5, help="of the CPU comparison")
    given = parser.parse_args()
    for value in (random_hex, sentence):
        with tempfile.TemporaryDirectory(prefix="vfsstream-bench-") as root:
            compare_cpu(Path(root), value, given.rounds)
    with tempfile.TemporaryDirectory(prefix="vfsstream-bench-") as root:
        compare_bytes(Path(root), given.seconds, not given.default_timetable)


if __name__ == "__main__":
    main()
