"""Litestream's own invocations, unchanged, each run to its end against a replica, a configuration or a daemon.

What stands behind each part of the command line's contract:

* invocations that work unchanged: here, ``LINES`` without a daemon, ``CONTROL`` with one, and the replicators
* dashes, ``=``, booleans, ``--``: ``test_grammar``; ``interop/test_command_lines``, its ``lines_of_grammar``
* TXIDs, times, durations, sizes, paths: ``config/test_values``; ``lines_of_values``
* environment expansion: ``test_expansion``, ``test_every_key_can_come_from_the_environment``
* keys, defaults, refusals: ``config/test_load``, ``config/test_examples``; ``lines_of_configs``
* signals, the child, the end: ``daemon/test_run``
* the control socket, its routes and errors: ``daemon/test_control``, ``interop/test_control_socket``
* JSON shapes: ``interop/test_command_lines``, ``interop/test_control_socket``
* exit statuses and streams: ``test_app``, ``test_local``, ``interop/test_command_lines``
* metrics, their names, types and labels: ``interop/test_metrics``, ``test_litestreams_dashboard_finds_its_names``
* counters of failures: ``daemon/test_counters``
* MCP: ``daemon/test_mcp``
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.daemon.helpers import daemon, make_database, rows, until
from vfsstream.cli import app

LINES = """
restore {db}
restore -if-db-not-exists -if-replica-exists {db}
restore -o x.db -txid 0000000000000002 {url}
restore -o=x.db -timestamp={soon} -integrity-check quick -json {url}
restore -dry-run -json -o x.db {url}
restore -parallelism 16 -force=true -o x.db {url}
restore -parallelism 16 -force=true -o existing.db {url}
ltx -level all -json {url}
wal {db}
databases -json -config app.yml
status -json
status {db}
reset -dry-run {db}
reset -config app.yml {db}
version
version -verbose
"""
CONTROL = """
register -socket {socket} -replica file://{home}/second -json {home}/second.db
sync -wait -timeout 120 -socket {socket} {db}
list -json -socket {socket}
info -socket {socket}
stop -json -socket {socket} {db}
start -socket {socket} {db}
unregister -timeout 10 -socket {socket} {home}/second.db
"""


def words(line: str, **places: object) -> list[str]:
    return [word.format(**places) for word in line.split()]


def lines(block: str) -> list[str]:
    return block.strip().splitlines()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A database that was replicated and then lost, its configuration, and an empty directory to work in."""
    database, config = tmp_path / "app.db", tmp_path / "app.yml"
    url = f"file://{tmp_path}/replica"
    config.write_text(f"dbs: [{{path: {database}, replica: {{url: '{url}'}}}}]\n")
    monkeypatch.setenv("LITESTREAM_CONFIG", str(config))
    monkeypatch.chdir(tmp_path)
    make_database(database)
    assert app.execute(["replicate", "-once", str(database), url]) == 0
    make_database(database, 2)
    assert app.execute(["replicate", "-once", str(database), url]) == 0
    (tmp_path / "existing.db").write_bytes(b"something else")
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    return {"db": database, "url": url, "soon": soon, "home": tmp_path, "socket": tmp_path / "l.sock"}


def lose(database: Path) -> None:
    for side in ("", "-wal", "-shm"):
        Path(f"{database}{side}").unlink(missing_ok=True)


@pytest.mark.parametrize("line", lines(LINES))
def test_without_a_daemon(line: str, places: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    if line.startswith("restore {db}"):
        lose(places["db"])
    capsys.readouterr()
    assert app.execute(words(line, **places)) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    if "-json" in line:
        assert json.loads(out)
    if line.startswith("restore"):
        made = re.search(r"-o[ =](\S+)", line)
        target = places["home"] / made[1] if made else places["db"]
        if "-dry-run" in line:
            assert not target.exists()
        else:
            assert rows(target) == [0, 1, 2, 0, 1]


def test_following_until_stopped(places: dict[str, Any], tmp_path: Path) -> None:
    line = "restore -f -follow-interval 500ms -o ro.db {url}"
    command = [sys.executable, "-m", "vfsstream", *words(line, **places)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stderr=log, cwd=tmp_path, env=environment)
    try:
        copy = tmp_path / "ro.db"
        until(lambda: copy.exists() and (tmp_path / "ro.db-txid").exists(), "the copy")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    assert rows(copy) == [0, 1, 2, 0, 1]


def test_once_with_everything(places: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    line = "replicate -once -force-snapshot -enforce-retention {db} {url}"
    assert app.execute(words(line, **places)) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert app.execute(words("ltx -level 9 -json {url}", **places)) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "-config {home}/app.yml",
        "--config={home}/app.yml -no-expand-env -exec 'sleep 60'",
        "{db} {url}",
        "-restore-if-db-not-exists -log-level debug -exec 'sleep 60' {db} {url}",
    ],
)
def test_the_replicator(arguments: str, places: dict[str, Any], tmp_path: Path) -> None:
    if "restore-if" in arguments:
        lose(places["db"])
    with daemon(tmp_path, *shlex.split(arguments.format(**places))) as running:
        running.said("child started" if "-exec" in arguments else "replicating")
        with contextlib.closing(sqlite3.connect(places["db"], timeout=30)) as connection:
            connection.execute("INSERT INTO t VALUES ('while it ran')")
            connection.commit()
        assert running.stop() == 0, running.log
    assert app.execute(words("restore -o after.db {url}", **places)) == 0
    assert rows(tmp_path / "after.db") == [0, 1, 2, 0, 1, "while it ran"]


@pytest.fixture
def controlled(places: dict[str, Any], tmp_path: Path) -> Iterator[dict[str, Any]]:
    config = tmp_path / "daemon.yml"
    config.write_text(f"socket: {{enabled: true, path: {places['socket']}}}\n{(tmp_path / 'app.yml').read_text()}")
    make_database(tmp_path / "second.db")
    with daemon(tmp_path, "-config", config) as running:
        running.said("replicating")
        yield places
        assert running.stop() == 0, running.log


def test_with_a_daemon(controlled: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    for line in lines(CONTROL):
        capsys.readouterr()
        assert app.execute(words(line, **controlled)) == 0, f"{line}: {capsys.readouterr().err}"
        out = capsys.readouterr().out
        assert json.loads(out) if "-json" in line else ":" in out, line


def test_the_table_names_tests_that_exist() -> None:
    assert __doc__ is not None
    tests = ROOT / "tests"
    names = re.findall(r"``((?:\w+/)?test_\w+)``", __doc__)
    assert len(names) > 10
    for name in names:
        places = [tests / f"{name}.py", tests / "cli" / f"{name}.py"]
        functions = [path for path in tests.rglob("test_*.py") if f"def {name}(" in path.read_text()]
        assert functions or any(path.exists() for path in places), name
    for name in re.findall(r"``(lines_of_\w+)``", __doc__):
        assert f"def {name}(" in (tests / "interop" / "test_command_lines.py").read_text(), name
