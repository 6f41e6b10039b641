"""The reader side by side with Litestream's extension: the same statements over S3 with a latency."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.environment import ROOT, environment
from bench.picture import bars
from bench.restore import add_small_files, make_database
from bench.server import ServerProcess
from bench.vfs_worker import WORK
from vfsstream.replica import Replica

SLOW = {"one tenth of the table": 1 / 10, "full scan": 1.0, "full scan again": 2.0}
"""Workloads that take the extension minutes, in parts of a full scan."""


@dataclass
class Measured:
    """One workload on one side.

    Attributes:
        wall: seconds.
        requests: LIST and GET together, from the open on.
        megabytes: received.
        rss: growth of resident memory, MB.
    """

    wall: float
    requests: int
    megabytes: float
    rss: float


def measure(server: ServerProcess, side: str, url: str, name: str) -> Measured:
    """Run a workload in a process of its own, which opens a tiny replica first."""
    tiny = server.url("bench", "tiny")
    settings = environment(LITESTREAM_REPLICA_URL=url)
    command = [sys.executable, "-m", "bench.vfs_worker", side, url, name, tiny, server.endpoint]
    done = subprocess.run(
        command, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{side}, {name}: {done.stderr[-2000:]}")
    found = json.loads(lines[-1])
    state = server.state()
    requests = sum(state["counts"].get(kind, 0) for kind in ("LIST", "GET", "HEAD"))
    return Measured(found["wall"], requests, state["sent"] / 1e6, found["rss"])


def main(
    megabytes: int = 100,
    latency: float = 0.02,
    bandwidth: float = 100e6,
    names: list[str] | None = None,
    peer_scan: bool = False,
) -> list[tuple[str, Measured | None, Measured]]:
    """Print the table; returns ``(workload, Litestream, vfsstream)``.

    Args:
        peer_scan: run the full scan on the extension too, which takes it ten minutes at 20 ms; the second one of
            the same connection, which takes it as long again, stays ours alone.
    """
    litestream = shutil.which("litestream") or str(Path(sys.executable).with_name("litestream"))
    found: list[tuple[str, Measured | None, Measured]] = []
    with tempfile.TemporaryDirectory(prefix="vfsstream-bench-") as folder, ServerProcess() as server:
        base = Path(folder)
        make_database(base / "app.db", megabytes)
        local = f"file://{base}/replica"
        command = [litestream, "replicate", "-once", "-force-snapshot", str(base / "app.db"), local]
        subprocess.run(command, check=True, capture_output=True)
        _as_s3(base / "replica", base / "flat" / "one", only_snapshot=True)
        add_small_files(Replica.open(local), 999)
        _as_s3(base / "replica", base / "flat" / "many")
        _as_s3(ROOT / "tests" / "golden" / "litestream-0.5.17" / "empty", base / "flat" / "tiny")
        server.load("bench", "", base / "flat")
        server.set(latency, bandwidth)
        for name in names or list(WORK):
            skip = SLOW.get(name, 0) >= (2 if peer_scan else 1)
            theirs = None if skip else measure(server, "litestream", server.url("bench", "one"), name)
            found.append((name, theirs, measure(server, "vfsstream", server.url("bench", "one"), name)))
        if not names:
            many = "open, snapshot + 999 files"
            sides = [
                measure(server, side, server.url("bench", "many"), "open and first row")
                for side in ("litestream", "vfsstream")
            ]
            found.append((many, sides[0], sides[1]))
    show(f"{megabytes} MB over S3, {latency * 1000:g} ms and {bandwidth / 1e6:g} MB/s", found)
    return found


def _as_s3(source: Path, target: Path, only_snapshot: bool = False) -> None:
    """The files of a folder under the keys that S3 replicas have."""
    for level in (source / "ltx").iterdir():
        if only_snapshot and level.name != "9":
            continue
        shutil.copytree(level, target / f"{int(level.name):04x}")


def show(title: str, found: list[tuple[str, Measured | None, Measured]]) -> None:
    """Print both sides and their ratios; grown = resident memory at the end less that before the open, MB."""
    table = Table(title=title)
    table.add_column("workload")
    for column in (
        "litestream s",
        "requests",
        "MB",
        "grown",
        "vfsstream s",
        "requests",
        "MB",
        "grown",
        "faster",
        "fewer requests",
    ):
        table.add_column(column, justify="right")
    for name, theirs, ours in found:
        cells = [f"{ours.wall:.3f}", str(ours.requests), f"{ours.megabytes:.1f}", f"{ours.rss:.0f}"]
        if theirs is None:
            table.add_row(name, "-", "-", "-", "-", *cells, "-", "-")
        else:
            peer = [f"{theirs.wall:.3f}", str(theirs.requests), f"{theirs.megabytes:.1f}", f"{theirs.rss:.0f}"]
            ratios = [f"{theirs.wall / ours.wall:.1f}x", f"{theirs.requests / max(1, ours.requests):.1f}x"]
            table.add_row(name, *peer, *cells, *ratios)
    Console(width=140).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds")
    parser.add_argument("--bandwidth", type=float, default=100e6, help="bytes per second")
    parser.add_argument("--peer-scan", action="store_true", help="the full scan on the extension too")
    parser.add_argument("--figure", type=Path, help="draw the pairs into this SVG file")
    parser.add_argument("names", nargs="*", help="workloads; all without")
    given = parser.parse_args()
    rows = main(given.megabytes, given.latency, given.bandwidth, given.names or None, given.peer_scan)
    if given.figure:
        title = f"Seconds over S3 at {given.latency * 1000:g} ms, {given.megabytes} MB database"
        pairs = [(name, theirs.wall, ours.wall) for name, theirs, ours in rows if theirs is not None]
        given.figure.write_text(bars(title, "s", pairs))
