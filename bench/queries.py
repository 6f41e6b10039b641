"""More kinds of queries, cold against Litestream's extension and warm against a local file."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.picture import bars
from bench.server import ServerProcess
from bench.workloads import WORKLOADS, make_database

__all__ = ["run"]

ROOT = Path(__file__).resolve().parent.parent
SLOW = ("full scan", "full scan out of order")
"""Workloads that take Litestream many minutes on a large database, one request a page: only with ``--slow``."""

Row = dict[str, Any]


def measure(
    reader: str, url: str, control: str, rows: int, limit: float, work: list[str], *extra: str
) -> dict[str, Row]:
    """Run the workloads with one reader in a process of its own."""
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    environment.pop("AWS_CA_BUNDLE", None)
    environment |= {"LITESTREAM_REPLICA_URL": url, "LITESTREAM_LOG_FILE": os.devnull, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench.workloads", reader, url, "--rows", str(rows), "--control", control]
    command += ["--limit", str(limit), *extra, *(part for name in work for part in ("--work", name))]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=limit + 900)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not found:
        raise RuntimeError(f"{reader} failed: {done.stderr[-2000:]}")
    return {row["name"]: row for row in found}


def replica_of(database: Path, server: ServerProcess, bucket: str) -> str:
    """Replicate a database with the real Litestream to the server."""
    url = server.url(bucket, "db")
    litestream = Path(sys.executable).with_name("litestream")
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    environment.pop("AWS_CA_BUNDLE", None)
    command = [str(litestream), "replicate", "-once", str(database), url]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return url


def table(ours: dict[str, Row], theirs: dict[str, Row]) -> list[str]:
    """The two side by side, as Markdown."""
    lines = [
        "| workload | Litestream | requests | vfsstream | requests | MB | faster | fewer requests |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in ours.items():
        other = theirs.get(name)
        gets = row["GET"] + row["LIST"]
        mine = f"{row['seconds'] * 1000:,.0f} ms | {gets:,} | {row['bytes'] / 1e6:.2f}"
        if other is None:
            lines.append(f"| {name} | not run | | {mine} | | |")
            continue
        asked = other["GET"] + other["LIST"]
        ratio = other["seconds"] / max(row["seconds"], 1e-6)
        fewer = asked / gets if gets else float("inf")
        theirs_ms = f"{other['seconds'] * 1000:,.0f} ms"
        lines.append(f"| {name} | {theirs_ms} | {asked:,} | {mine} | {ratio:,.1f}× | {fewer:,.1f}× |")
    return lines


def run(
    megabytes: float, latency: float, page_size: int, limit: float, figures: Path | None, slow: bool
) -> list[str]:
    """One database at one latency; returns Markdown."""
    lines = [f"### {megabytes:g} MB, {page_size} byte pages, {latency * 1000:g} ms, 100 MB/s", ""]
    with tempfile.TemporaryDirectory() as directory, ServerProcess() as server:
        path = Path(directory) / "bench.db"
        rows = make_database(path, megabytes, page_size)
        url = replica_of(path, server, "bench")
        server.set(latency, 100e6)
        names = list(WORKLOADS)
        ours = measure("vfsstream", url, server.endpoint, rows, limit, names)
        asked = [n for n in names if slow or n not in SLOW]
        theirs = measure("litestream", url, server.endpoint, rows, limit, asked)
        lines += table(ours, theirs)
        warm = [n for n in names if n not in SLOW or n == "full scan"]
        big = "&cache_size=1GB"
        hot = measure("vfsstream", url, server.endpoint, rows, limit, warm, "--again", f"--options={big}")
        plain = measure("local", str(path), "", rows, limit, warm, "--again")
        lines += ["", "Everything cached, against a local file:", ""]
        lines += ["| workload | local file | vfsstream | ratio |", "|---|---:|---:|---:|"]
        for name in warm:
            if name in hot and name in plain:
                a, b = plain[name]["seconds"] * 1000, hot[name]["seconds"] * 1000
                lines.append(f"| {name} | {a:.2f} ms | {b:.2f} ms | {b / a:.2f} |")
        if figures is not None:
            both = [(n, theirs[n]["seconds"], ours[n]["seconds"]) for n in ours if n in theirs]
            title = f"Seconds, {megabytes:g} MB over S3 at {latency * 1000:g} ms (logarithmic)"
            figures.mkdir(parents=True, exist_ok=True)
            name = f"queries-{megabytes:g}mb-{page_size}-{latency * 1000:g}ms.svg"
            (figures / name).write_text(bars(title, "s", both))
    return [*lines, ""]


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--latency", type=float, nargs="*", default=[0.02])
    parser.add_argument("--page-size", type=int, nargs="*", default=[4096])
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds after which a reader begins nothing more"
    )
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--slow", action="store_true", help="full scans with Litestream, too")
    given = parser.parse_args()
    for page_size in given.page_size:
        for latency in given.latency:
            print(
                "\n".join(run(given.megabytes, latency, page_size, given.limit, given.figures, given.slow)),
                flush=True,
            )


if __name__ == "__main__":
    main()
