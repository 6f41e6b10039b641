"""The metrics and the diagnosis of both programs, side by side."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import sqlite3
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.helpers import daemon, make_database, until

pytestmark = pytest.mark.interop
_SAMPLE = re.compile(r"([a-z_]+)(?:\{(.*)\})? \S+")
_LABEL = re.compile(r'(\w+)="')


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def names_and_types(text: str) -> dict[str, tuple[str, frozenset[str]]]:
    """``{name: (type, label names)}`` of everything that is Litestream's."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    found = {}
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match and match[1].startswith("litestream_"):
            family = re.sub(r"_(bucket|sum|count)$", "", match[1])
            kind = types.get(match[1]) or types[family]
            found[match[1]] = (kind, frozenset(_LABEL.findall(match[2] or "")))
    return found


def scrape(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def ask(path: Path, route: str) -> Any:
    """One request over a control socket."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    with contextlib.closing(connection):
        connection.sock.settimeout(30)
        connection.sock.connect(str(path))
        connection.request("GET", route)
        return json.loads(connection.getresponse().read())


def configuration(home: Path, port: int) -> Path:
    home.mkdir()
    make_database(home / "app.db")
    path = home / "c.yml"
    path.write_text(
        f"""addr: 127.0.0.1:{port}
socket: {{enabled: true, path: {home}/s}}
levels: [{{interval: 1s}}]
l0-retention-check-interval: 1s
verify-compaction: true
dbs:
- path: {home}/app.db
  checkpoint-interval: 1s
  min-checkpoint-page-count: 1
  replica: {{url: "file://{home}/replica"}}
"""
    )
    return path


def written_until(home: Path, port: int, wanted: Callable[[str], bool]) -> str:
    """Scrapes while the database is written, until what is wanted is there."""
    seen = [""]

    def look() -> bool:
        with contextlib.closing(sqlite3.connect(home / "app.db", timeout=30)) as connection:
            connection.execute("INSERT INTO t VALUES (randomblob(5000))")
            connection.commit()
        seen[0] = scrape(port)
        return wanted(seen[0])

    until(look, "the metrics")
    return seen[0]


@pytest.fixture
def both(tmp_path: Path, litestream: str) -> Iterator[dict[str, tuple[Path, int]]]:
    theirs, ours = (tmp_path / "theirs", free_port()), (tmp_path / "ours", free_port())
    words = [litestream, "replicate", "-config", str(configuration(*theirs))]
    with open(tmp_path / "log", "wb") as log:
        peer = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        with daemon(tmp_path, "-config", configuration(*ours)) as running:
            running.said("replicating")
            yield {"theirs": theirs, "ours": ours}
            assert running.stop() == 0, running.log
    finally:
        peer.terminate()
        peer.wait(60)


def test_every_metric_of_litestream_is_there(both: dict[str, tuple[Path, int]]) -> None:
    def complete(text: str) -> bool:
        return "litestream_checkpoint_count{" in text and "litestream_l0_retention_files_total{" in text

    theirs = names_and_types(written_until(*both["theirs"], complete))
    ours = names_and_types(written_until(*both["ours"], complete))
    assert len(theirs) >= 10
    assert {name: value for name, value in theirs.items() if ours.get(name) != value} == {}


def test_the_diagnosis_has_litestreams_fields(both: dict[str, tuple[Path, int]]) -> None:
    def fields(home: Path, port: int) -> dict[str, Any]:
        written_until(home, port, lambda text: "litestream_txid" in text)
        found: list[dict[str, Any]] = []

        def ready() -> bool:
            found[:] = ask(home / "s", "/debug/sync-status")["databases"]
            return bool(found[0].get("txid") and found[0].get("last_synced_wal_offset"))

        until(ready, "the diagnosis")
        return found[0]

    theirs, ours = fields(*both["theirs"]), fields(*both["ours"])
    wanted = {"levels", "replica_txid"}
    until(lambda: wanted <= set(ask(both["ours"][0] / "s", "/debug/sync-status")["databases"][0]), "what is ours")
    volatile = {"operation", "phase", "started_at", "updated_at", "elapsed_seconds", "snapshotting", "error"}
    volatile |= {name for name in theirs if name.startswith(("executor_", "checkpoint_"))} | {"reason"}
    assert set(theirs) - volatile <= set(ours)
    for name in set(theirs) & set(ours):
        assert type(theirs[name]) is type(ours[name]), name
