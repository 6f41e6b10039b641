"""Restore side by side with the real Litestream: a lone snapshot, and a snapshot with many small files.

    python -m bench.restore [--megabytes 1000] [--turns 2]        from a folder
    python -m bench.restore --s3 [--connection 60e6]              over S3 at 20 ms
    python -m bench.restore --all                                 what the results show

The stand-in for S3 limits the bandwidth of each connection, as real stores do (a lone connection to S3 gets 50 to 90
MB/s, many together the whole line); ``--connection 0`` lifts the limit, ``--bandwidth`` sets one for all together.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import apsw
from rich.console import Console
from rich.table import Table

from bench.codec import sample_pages
from bench.environment import environment
from bench.server import ServerProcess
from vfsstream.ltx import TXID, Decoder, Header, encode
from vfsstream.replica import Replica

PAGE = 4096


@dataclass
class Run:
    """One run of a program.

    Attributes:
        wall: seconds.
        cpu: user and system seconds.
        rss: peak resident memory, MB.
    """

    wall: float
    cpu: float
    rss: float


# The peak of a process counts that of whoever forked it, so a small one must do that.
_LAUNCHER = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
said = process.stderr.read()
_, status, usage = os.wait4(process.pid, 0)
wall = time.perf_counter() - started
process.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps([wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, process.returncode, said.decode()]))
"""


def run(command: list[str]) -> Run:
    """Run a program to its end and account for it alone."""
    launcher = [sys.executable, "-S", "-E", "-c", _LAUNCHER, *command]
    done = subprocess.run(launcher, env=environment(), stdout=subprocess.PIPE, check=True)
    wall, cpu, peak, code, said = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{command[0]} failed: {said}")
    return Run(wall, cpu, peak / (1024 if sys.platform != "darwin" else 1 << 20))


def make_database(path: Path, megabytes: int) -> None:
    """A database of documents with one index."""
    source = random.Random(2)
    texts = [page.rstrip(b"\0").decode() for page in sample_pages(400)]
    database = apsw.Connection(str(path))
    database.execute("PRAGMA page_size=4096")
    database.execute("PRAGMA synchronous=off")
    database.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, k INT, v TEXT)")
    rows = megabytes * 1_000_000 // 640
    with database:
        database.executemany(
            "INSERT INTO t VALUES(?, ?, ?)",
            ((row, source.randrange(1 << 30), texts[row % 400][row % 3000 :][:600]) for row in range(rows)),
        )
        database.execute("CREATE INDEX k ON t(k)")
    database.execute("PRAGMA journal_mode=wal").fetchall()
    database.close()


def add_small_files(replica: Replica, count: int, pages_each: int = 10) -> None:
    """Raw files after the snapshot, as a busy database leaves them; every page keeps its content."""
    snapshot = next(iter(replica.files(9)))
    decoder = Decoder(replica.stream(snapshot))
    header = decoder.header
    kept = dict(page for page in decoder if page[0] <= 4000)
    source = random.Random(3)
    for txid in range(int(snapshot.max_txid) + 1, int(snapshot.max_txid) + 1 + count):
        chosen = sorted(source.sample(sorted(kept), min(pages_each, len(kept))))
        head = Header(PAGE, header.commit, TXID(txid), TXID(txid), header.timestamp + txid)
        body = encode(head, [(pgno, kept[pgno]) for pgno in chosen])
        replica.write(0, txid, txid, body, timestamp=head.timestamp)


CASES = ("one snapshot", "snapshot + 999 files")


def prepare(base: Path, megabytes: int) -> dict[str, Path]:
    """The replica of each case, in folders below ``base``."""
    litestream = _litestream()
    make_database(base / "app.db", megabytes)
    one, many = (base / case.replace(" ", "-") for case in CASES)
    command = [litestream, "replicate", "-once", "-force-snapshot", str(base / "app.db"), f"file://{one}"]
    subprocess.run(command, check=True, capture_output=True)
    (base / "app.db").unlink()
    shutil.copytree(one, many, copy_function=os.link)
    add_small_files(Replica.open(f"file://{many}"), 999)
    return dict(zip(CASES, (one, many), strict=True))


def _litestream() -> str:
    return shutil.which("litestream") or str(Path(sys.executable).with_name("litestream"))


def compare(urls: dict[str, str], output: Path, turns: int) -> list[tuple[str, Run, Run]]:
    """Both programs in turn on each URL, the best run of each."""
    found = []
    for case, url in urls.items():
        theirs, ours = [], []
        for _ in range(turns):
            for program, runs in (([_litestream()], theirs), ([sys.executable, "-m", "vfsstream"], ours)):
                output.unlink(missing_ok=True)
                runs.append(run([*program, "restore", "-o", str(output), url]))
        found.append((case, min(theirs, key=lambda r: r.wall), min(ours, key=lambda r: r.wall)))
    return found


def main(
    megabytes: int = 100,
    turns: int = 3,
    s3: bool = False,
    latency: float = 0.02,
    bandwidth: float = 0.0,
    per_connection: float = 60e6,
) -> list[tuple[str, Run, Run]]:
    """Print the table; returns ``(case, Litestream, vfsstream)``."""
    with tempfile.TemporaryDirectory(prefix="vfsstream-bench-") as folder:
        base = Path(folder)
        folders = prepare(base, megabytes)
        if not s3:
            found = compare({case: f"file://{path}" for case, path in folders.items()}, base / "out.db", turns)
            _print(f"restore of {megabytes} MB from a folder, best of {turns}", found)
            return found
        with ServerProcess() as server:
            urls = {}
            for number, (case, path) in enumerate(folders.items()):
                as_s3(path, base / "flat" / str(number), only_snapshot=number == 0)
                urls[case] = server.url("bench", str(number))
            server.load("bench", "", base / "flat")
            server.set(latency, bandwidth, per_connection)
            found = compare(urls, base / "out.db", turns)
        limits = [(per_connection, " a connection"), (bandwidth, " in all")]
        limit = ", ".join(f"{rate / 1e6:g} MB/s{what}" for rate, what in limits if rate) or "no limit"
        _print(f"restore of {megabytes} MB over S3 at {latency * 1000:g} ms, {limit}, best of {turns}", found)
        return found


def as_s3(source: Path, target: Path, only_snapshot: bool = False) -> None:
    """The files of a folder under the keys that S3 replicas have."""
    for level in (source / "ltx").iterdir():
        if not only_snapshot or level.name == "9":
            shutil.copytree(level, target / f"{int(level.name):04x}", copy_function=os.link)


def _print(title: str, found: list[tuple[str, Run, Run]]) -> None:
    table = Table(title=title)
    for column in ("case", "program", "wall s", "CPU s", "peak MB"):
        table.add_column(column, justify="left" if column in ("case", "program") else "right")
    for case, theirs, ours in found:
        for name, one in (("litestream", theirs), ("vfsstream", ours)):
            table.add_row(case, name, f"{one.wall:.2f}", f"{one.cpu:.2f}", f"{one.rss:.0f}")
        ratios = (theirs.wall / ours.wall, theirs.cpu / ours.cpu, theirs.rss / ours.rss)
        table.add_row("", "ratio", *(f"{ratio:.1f}x" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--s3", action="store_true", help="over S3 instead of from a folder")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before each answer of S3")
    parser.add_argument(
        "--bandwidth", type=float, default=0.0, help="bytes per second of all connections together"
    )
    parser.add_argument("--connection", type=float, default=60e6, help="bytes per second of each connection")
    parser.add_argument("--all", action="store_true", help="100 MB and 1 GB from a folder, 100 MB over S3")
    given = parser.parse_args()
    if given.all:
        main(100, 3)
        main(1000, 2)
        main(100, 2, s3=True)
        raise SystemExit
    main(given.megabytes, given.turns, given.s3, given.latency, given.bandwidth, given.connection)
