"""Many kinds of queries: cold and with every level of cache against Litestream's extension, warm and hydrated
against a local file.

Each workload runs in a process of its own for each reader and level. The extension asks for one page at a time: its
full scans are run on a fiftieth of the table and multiplied, and marked with ``~``; ``--slow`` runs them whole.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.environment import ROOT, environment
from bench.picture import bars
from bench.server import ServerProcess
from bench.workloads import LEVELS, WORKLOADS, make_database

__all__ = ["Setting", "run"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        megabytes: size of the database.
        latency: seconds before each answer.
        page_size: bytes.
        work: names of workloads.
        levels: what is cached before.
        slow: the extension's full scans whole.
        limit: seconds that one process may take.
    """

    megabytes: float
    latency: float
    page_size: int
    work: Sequence[str]
    levels: Sequence[str]
    slow: bool = False
    limit: float = 300.0

    @property
    def title(self) -> str:
        return f"{self.megabytes:g} MB, {self.page_size // 1024} KiB pages, {self.latency * 1000:g} ms"


def measure(reader: str, url: str, control: str, rows: int, limit: float, *extra: str) -> dict[str, Row]:
    """Run workloads with one reader in a process of its own; nothing when it takes too long or fails."""
    settings = environment(LITESTREAM_REPLICA_URL=url)
    command = [
        sys.executable,
        "-m",
        "bench.workloads",
        reader,
        url,
        "--rows",
        str(rows),
        "--control",
        control,
        *extra,
    ]
    try:
        done = subprocess.run(command, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {}
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not found:
        raise RuntimeError(f"{reader} failed: {done.stderr[-2000:]}")
    return {row["name"]: row for row in found}


def replica_of(database: Path, server: ServerProcess, bucket: str) -> str:
    """Replicate a database with the real Litestream to the server."""
    url = server.url(bucket, "db")
    litestream = Path(sys.executable).with_name("litestream")
    command = [str(litestream), "replicate", "-once", str(database), url]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    return url


def _shown(row: Row | None) -> str:
    if row is None:
        return "not run | "
    mark = "~" if row.get("sampled") else ""
    return f"{mark}{row['seconds'] * 1000:,.0f} ms | {mark}{row['GET'] + row['LIST']:,}"


def remote_table(
    setting: Setting, url: str, control: str, rows: int
) -> tuple[list[str], list[tuple[str, float, float]]]:
    """Both readers at every level, as Markdown, and the pairs of the first level for a picture."""
    lines = [
        "| workload | cached | Litestream | requests | vfsstream | requests | MB | faster |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    pairs: list[tuple[str, float, float]] = []
    for name in setting.work:
        for level in setting.levels:
            chosen = ("--work", name, "--level", level)
            big = ("--options=&cache_size=1GB",) if level == "everything" else ()
            sample = () if setting.slow else ("--sample",)
            mine = measure("vfsstream", url, control, rows, setting.limit, *chosen, *big).get(name)
            other = measure("litestream", url, control, rows, setting.limit, *chosen, *sample).get(name)
            if mine is None:
                lines.append(f"| {name} | {level} | {_shown(other)} | not run | | | |")
                continue
            ratio = f"{other['seconds'] / max(mine['seconds'], 1e-6):,.1f}×" if other else ""
            lines.append(
                f"| {name} | {level} | {_shown(other)} | {_shown(mine)} | {mine['bytes'] / 1e6:.2f} | {ratio} |"
            )
            if other and level == setting.levels[0]:
                pairs.append((name, other["seconds"], mine["seconds"]))
            print(lines[-1], file=sys.stderr, flush=True)
    return lines, pairs


def local_table(setting: Setting, path: Path, url: str, control: str, rows: int) -> list[str]:
    """Everything cached, and hydrated, against a plain local file: medians of ten runs or more."""
    lines = [
        "| workload | local file | everything cached | ratio | hydrated | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    work = [part for name in setting.work for part in ("--work", name)]
    plain = measure("local", str(path), "", rows, setting.limit, "--again", *work)
    cached = measure("vfsstream", url, control, rows, setting.limit, "--again", "--options=&cache_size=1GB", *work)
    hydrated = f"--options=&hydration_enabled=1&hydration_path={path}-copy"
    native = measure("vfsstream", url, control, rows, setting.limit, "--again", hydrated, "--hydrated", *work)
    for name in setting.work:
        if name in plain and name in cached and name in native:
            a, b, c = (found[name]["seconds"] * 1000 for found in (plain, cached, native))
            lines.append(f"| {name} | {a:.3f} ms | {b:.3f} ms | {b / a:.2f} | {c:.3f} ms | {c / a:.2f} |")
    return lines


def run(setting: Setting, figures: Path | None, local: bool) -> list[str]:
    """One database at one latency; returns Markdown."""
    lines = [f"### {setting.title}, 100 MB/s", ""]
    with tempfile.TemporaryDirectory(prefix="vfsstream-bench-") as directory, ServerProcess() as server:
        path = Path(directory) / "bench.db"
        rows = make_database(path, setting.megabytes, setting.page_size)
        url = replica_of(path, server, "bench")
        server.set(setting.latency, 100e6)
        if setting.levels:
            table, pairs = remote_table(setting, url, server.endpoint, rows)
            lines += [*table, ""]
            if figures is not None and pairs:
                figures.mkdir(parents=True, exist_ok=True)
                name = f"queries-{setting.megabytes:g}mb-{setting.page_size // 1024}k-{setting.latency * 1000:g}ms.svg"
                (figures / name).write_text(bars(f"Seconds, {setting.title}, nothing cached", "s", pairs))
        if local:
            lines += [
                "Against a local file, medians of ten runs or more:",
                "",
                *local_table(setting, path, url, server.endpoint, rows),
                "",
            ]
    return lines


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.queries", description=main.__doc__)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--latency", type=float, nargs="*", default=[0.02], help="seconds")
    parser.add_argument("--page-size", type=int, nargs="*", default=[4096])
    parser.add_argument(
        "--level", choices=LEVELS, nargs="*", default=list(LEVELS), help="cached before; none skips"
    )
    parser.add_argument("--work", choices=list(WORKLOADS), nargs="*", default=list(WORKLOADS))
    parser.add_argument("--limit", type=float, default=300, help="seconds that one process may take")
    parser.add_argument("--figures", type=Path, help="draw pictures into this directory")
    parser.add_argument("--slow", action="store_true", help="the extension's full scans whole, not a fiftieth")
    parser.add_argument("--no-local", action="store_true", help="without the comparison to a local file")
    parser.add_argument("--output", type=Path, help="append the tables to this file, too")
    given = parser.parse_args()
    for page_size in given.page_size:
        for latency in given.latency:
            setting = Setting(
                given.megabytes, latency, page_size, given.work, given.level, given.slow, given.limit
            )
            started = time.monotonic()
            text = "\n".join(run(setting, given.figures, not given.no_local))
            print(text, flush=True)
            print(f"{setting.title}: {time.monotonic() - started:.0f} s", file=sys.stderr)
            if given.output is not None:
                with given.output.open("a") as out:
                    out.write(text + "\n")


if __name__ == "__main__":
    main()
