"""Restore side by side with the real Litestream: a folder, a lone snapshot and a snapshot with many small files."""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import apsw
from rich.console import Console
from rich.table import Table

from bench.codec import sample_pages
from vfsstream.ltx import TXID, Decoder, Header, encode
from vfsstream.replica import Replica

ROOT = Path(__file__).resolve().parent.parent
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


def run(command: list[str]) -> Run:
    """Run a program to its end and account for it alone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {said.decode()}")
    scale = 1024 if resource.getrusage and sys.platform != "darwin" else 1 << 20
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)


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


def main(megabytes: int = 100, turns: int = 3) -> list[tuple[str, Run, Run]]:
    """Print the table; returns ``(case, Litestream, vfsstream)``."""
    litestream = shutil.which("litestream") or str(Path(sys.executable).with_name("litestream"))
    found = []
    with tempfile.TemporaryDirectory(prefix="vfsstream-bench-") as folder:
        base = Path(folder)
        make_database(base / "app.db", megabytes)
        url = f"file://{base}/replica"
        command = [litestream, "replicate", "-once", "-force-snapshot", str(base / "app.db"), url]
        subprocess.run(command, check=True, capture_output=True)
        for case in ("one snapshot", "snapshot + 1,000 files"):
            if case != "one snapshot":
                add_small_files(Replica.open(url), 1000)
            theirs, ours = [], []
            for _ in range(turns):
                for program, runs in (([litestream], theirs), ([sys.executable, "-m", "vfsstream"], ours)):
                    (base / "out.db").unlink(missing_ok=True)
                    runs.append(run([*program, "restore", "-o", str(base / "out.db"), url]))
            found.append((case, min(theirs, key=lambda r: r.wall), min(ours, key=lambda r: r.wall)))
    _print(megabytes, found)
    return found


def _print(megabytes: int, found: list[tuple[str, Run, Run]]) -> None:
    table = Table(title=f"restore of {megabytes} MB from a folder, best of several")
    for column in ("case", "program", "wall s", "CPU s", "peak MB"):
        table.add_column(column, justify="left" if column in ("case", "program") else "right")
    for case, theirs, ours in found:
        for name, one in (("litestream", theirs), ("vfsstream", ours)):
            table.add_row(case, name, f"{one.wall:.2f}", f"{one.cpu:.2f}", f"{one.rss:.0f}")
        ratios = (theirs.wall / ours.wall, theirs.cpu / ours.cpu, theirs.rss / ours.rss)
        table.add_row("", "ratio", *(f"{ratio:.1f}x" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.megabytes, arguments.turns)
