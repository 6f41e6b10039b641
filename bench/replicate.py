"""Replication side by side with the real Litestream, both with their default settings, into a folder."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
from rich.console import Console
from rich.table import Table

from bench.environment import environment

TICK = os.sysconf("SC_CLK_TCK")
PROGRAMS = {
    "litestream": [str(Path(sys.executable).with_name("litestream"))],
    "vfsstream": [sys.executable, "-m", "vfsstream"],
}


def connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(20_000)
    connection.execute("PRAGMA journal_mode=wal")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


@contextmanager
def replicating(
    program: str, root: Path, databases: list[Path], *, together: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """The program with every database into a folder of its own; ``together`` as one directory of databases."""
    config = root / "config.yml"
    entries = [f"  - path: {path}\n    replica:\n      url: file://{replica_of(path)}\n" for path in databases]
    if together:
        directory = databases[0].parent
        entries = [f"  - dir: {directory}\n    pattern: '*.db'\n    replica:\n      path: {root / 'replicas'}\n"]
    config.write_text("dbs:\n" + "".join(entries))
    command = [*PROGRAMS[program], "replicate", "-config", str(config)]
    with open(root / "log", "ab") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def replica_of(path: Path) -> Path:
    return path.parent / f"{path.stem}-replica"


def files(path: Path) -> int:
    try:
        return sum(1 for name in os.listdir(replica_of(path) / "ltx" / "0") if name.endswith(".ltx"))
    except FileNotFoundError:
        return 0


def stored(path: Path) -> int:
    return sum(file.stat().st_size for file in replica_of(path).rglob("*.ltx"))


def wait_for(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("timed out")
        time.sleep(0.001)


def cpu(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def peak_mb(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def make(path: Path, megabytes: float = 0.1) -> apsw.Connection:
    writer = connect(path)
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    for start in range(0, max(1, int(megabytes * 1000)), 1000):
        with writer:
            for _ in range(min(1000, int(megabytes * 1000) - start) or 1):
                text = random.randbytes(250).hex()
                writer.execute("INSERT INTO t(x) VALUES(?)", (text + text[:480],))
    return writer


def idle(program: str, root: Path, count: int, seconds: float) -> dict[str, float]:
    """CPU seconds per minute of databases that nobody touches."""
    paths = [root / f"idle{number}.db" for number in range(count)]
    writers = [make(path) for path in paths]
    with replicating(program, root, paths) as process:
        wait_for(lambda: all(files(path) for path in paths))
        time.sleep(5)
        before = cpu(process)
        time.sleep(seconds)
        used = cpu(process) - before
    for writer in writers:
        writer.close()
    return {f"idle CPU, {count} databases (s/min)": used * 60 / seconds}


def latency(program: str, root: Path, commits: int) -> dict[str, float]:
    """From a commit to its file in the replica, commits about a second apart."""
    path = root / "latency.db"
    writer = make(path)
    times = []
    with replicating(program, root, [path]):
        wait_for(lambda: files(path) > 0)
        time.sleep(2)
        for _ in range(commits):
            time.sleep(random.uniform(1.0, 2.0))
            before = files(path)
            writer.execute("INSERT INTO t(x) VALUES('x')")
            started = time.perf_counter()
            wait_for(lambda before=before: files(path) > before)  # type: ignore[misc]
            times.append((time.perf_counter() - started) * 1000)
    writer.close()
    times.sort()
    return {"latency median (ms)": statistics.median(times), "latency p90 (ms)": times[int(len(times) * 0.9)]}


def load(program: str, root: Path, per_second: int, seconds: float) -> dict[str, float]:
    """CPU per commit under constant writing, files written and the longest a commit took."""
    path = root / f"load{per_second}.db"
    writer = make(path)
    with replicating(program, root, [path]) as process:
        wait_for(lambda: files(path) > 0)
        time.sleep(2)
        before, count, longest = cpu(process), 0, 0.0
        start = time.perf_counter()
        while (now := time.perf_counter() - start) < seconds:
            if now * per_second <= count:
                time.sleep(0.0005)
                continue
            began = time.perf_counter()
            writer.execute("INSERT INTO t(x) VALUES(?)", ("x" * 200,))
            longest = max(longest, time.perf_counter() - began)
            count += 1
        used = cpu(process) - before
    writer.close()
    return {
        f"{per_second}/s: CPU per commit (ms)": used * 1000 / count,
        f"{per_second}/s: longest commit (ms)": longest * 1000,
        f"{per_second}/s: files": files(path),
    }


def settle(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Until levels and snapshot are written: nothing stored and no CPU used for a while."""
    deadline, quiet = time.monotonic() + 120, 0
    while quiet < 35 and time.monotonic() < deadline:  # longer than the interval of level 1
        before = stored(path), cpu(process)
        time.sleep(1)
        quiet = quiet + 1 if stored(path) == before[0] and cpu(process) - before[1] < 0.3 else 0


def many(program: str, root: Path, count: int, seconds: float, commits: int) -> dict[str, float]:
    """A directory of databases: start, memory, idle CPU, and latency of a commit to any of them."""
    directory = root / "many"
    directory.mkdir()
    paths = [directory / f"{number}.db" for number in range(count)]
    for path in paths:
        make(path, 0.01).close()
    os.sync()

    def level0(path: Path) -> int:
        try:
            return sum(name.endswith(".ltx") for name in os.listdir(root / "replicas" / path.name / "ltx" / "0"))
        except FileNotFoundError:
            return 0

    started = time.perf_counter()
    times = []
    with replicating(program, root, paths, together=True) as process:
        for path in paths:
            wait_for(lambda path=path: level0(path) > 0)  # type: ignore[misc]
        begun = time.perf_counter() - started
        time.sleep(35)  # longer than the interval of level 1
        before = cpu(process)
        time.sleep(seconds)
        used = cpu(process) - before
        for path in random.sample(paths, commits):
            writer, files_before = connect(path), level0(path)
            writer.execute("INSERT INTO t(x) VALUES('x')")
            committed = time.perf_counter()
            wait_for(lambda path=path, old=files_before: level0(path) > old)  # type: ignore[misc]
            times.append((time.perf_counter() - committed) * 1000)
            writer.close()
            time.sleep(random.uniform(0.2, 1.2))
        memory = peak_mb(process)
    return {
        f"directory of {count}: all replicated after (s)": begun,
        f"directory of {count}: idle CPU (s/min)": used * 60 / seconds,
        f"directory of {count}: latency median (ms)": statistics.median(times),
        f"directory of {count}: peak RSS (MB)": memory,
    }


def first_sync(program: str, root: Path, megabytes: int) -> dict[str, float]:
    """From the start of the program to the complete first file; then a restart with nothing changed."""
    path = root / "big.db"
    writer = make(path, megabytes)
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.sync()
    started = time.perf_counter()
    with replicating(program, root, [path]) as process:
        wait_for(lambda: files(path) > 0)
        wall = time.perf_counter() - started
        used, rss = cpu(process), peak_mb(process)
        settle(path, process)
    before = stored(path)
    with replicating(program, root, [path]) as process:
        time.sleep(8)
        again = cpu(process)
    writer.close()
    return {
        f"first sync of {megabytes} MB (s)": wall,
        f"first sync of {megabytes} MB: CPU (s)": used,
        f"first sync of {megabytes} MB: peak RSS (MB)": rss,
        "restart unchanged: CPU in 8 s (s)": again,
        "restart unchanged: stored (KB)": (stored(path) - before) / 1024,
    }


Part = Callable[[str, Path, argparse.Namespace], dict[str, float]]
PARTS: dict[str, Part] = {
    "idle1": lambda name, root, options: idle(name, root, 1, options.seconds),
    "idle": lambda name, root, options: idle(name, root, options.databases, options.seconds),
    "latency": lambda name, root, options: latency(name, root, options.commits),
    "load100": lambda name, root, options: load(name, root, 100, options.seconds),
    "load1000": lambda name, root, options: load(name, root, 1000, options.seconds),
    "many": lambda name, root, options: many(name, root, options.many, options.seconds, options.commits),
    "first": lambda name, root, options: first_sync(name, root, options.size),
}


def measure(program: str, names: list[str], options: argparse.Namespace) -> dict[str, float]:
    results: dict[str, float] = {}
    for name in names:
        root = Path(tempfile.mkdtemp(prefix="vfsstream-bench-"))
        try:
            results.update(PARTS[name](program, root, options))
        finally:
            shutil.rmtree(root, ignore_errors=True)
    return results


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[[], *PARTS], help="all without; each takes less than five minutes"
    )
    parser.add_argument("--alone", action="store_true", help="leave the peer out")
    parser.add_argument("--size", type=int, default=1000, help="megabytes of the first sync")
    parser.add_argument("--databases", type=int, default=100)
    parser.add_argument("--many", type=int, default=1000, help="databases in one directory")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each idle and load measurement")
    parser.add_argument("--commits", type=int, default=20)
    options = parser.parse_args()
    names = options.parts or list(PARTS)
    ours = measure("vfsstream", names, options)
    theirs = {} if options.alone else measure("litestream", names, options)
    table = Table("", "litestream", "vfsstream", "ratio")
    for name, mine in ours.items():
        value = theirs.get(name)
        ratio = f"{value / mine:.1f}×" if mine and value is not None else ""
        table.add_row(name, "" if value is None else f"{value:.3f}", f"{mine:.3f}", ratio)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
