"""Each program's clients against the other's daemon."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.helpers import daemon, make_database, rows, until

pytestmark = pytest.mark.interop

Vfsstream = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Any]:
    database = tmp_path / "app.db"
    make_database(database)
    where, config = tmp_path / "c.sock", tmp_path / "app.yml"
    config.write_text(
        f"socket: {{enabled: true, path: {where}}}\n"
        f"dbs: [{{path: {database}, replica: {{url: 'file://{tmp_path}/replica'}}}}]\n"
    )
    return {"database": database, "socket": where, "config": config}


def session(ask: Callable[..., Any], place: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Everything that a client can ask for, in an order that makes sense."""
    database, second, flags = place["database"], tmp_path / "second.db", ("-json", "-socket", place["socket"])
    make_database(second)
    return {
        "sync": ask("sync", "-wait", *flags, database),
        "info": ask("info", *flags),
        "list": ask("list", *flags),
        "register": ask("register", *flags, "-replica", f"file://{tmp_path}/second", second),
        "again": ask("register", *flags, "-replica", f"file://{tmp_path}/second", second),
        "wait": ask("sync", "-wait", *flags, second),
        "stop": ask("stop", *flags, second),
        "stopped": ask("stop", *flags, second),
        "start": ask("start", *flags, second),
        "started": ask("start", *flags, second),
        "unregister": ask("unregister", *flags, second),
        "unknown": ask("unregister", *flags, second),
        "text": ask("list", "-socket", place["socket"]),
    }


def check(answers: dict[str, Any], place: dict[str, Any]) -> None:
    assert answers["sync"]["txid"] == answers["sync"]["replica_txid"] > 0
    assert set(answers["info"]) == {"version", "pid", "uptime_seconds", "started_at", "database_count"}
    assert answers["list"]["databases"][0]["path"] == str(place["database"])
    assert answers["list"]["databases"][0]["status"] == "replicating"
    words = {
        name: answers[name]["status"] for name in answers if name not in ("sync", "info", "list", "wait", "text")
    }
    assert words == {
        "register": "registered",
        "again": "already_registered",
        "stop": "stopped",
        "stopped": "already_stopped",
        "start": "started",
        "started": "already_running",
        "unregister": "unregistered",
        "unknown": "already_unregistered",
    }
    assert answers["wait"]["replica_txid"] > 0
    assert "[replicating]" in answers["text"]


def parsed(done: subprocess.CompletedProcess[str], words: tuple[object, ...]) -> Any:
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout) if "-json" in words else done.stdout


def test_litestreams_clients_with_our_daemon(place: dict[str, Any], tmp_path: Path, litestream: str) -> None:
    def ask(*words: object) -> Any:
        command = [litestream, *map(str, words)]
        return parsed(subprocess.run(command, capture_output=True, text=True, timeout=60, check=False), words)

    with daemon(tmp_path, "-config", place["config"]) as running:
        running.said("replicating")
        check(session(ask, place, tmp_path), place)
        assert running.stop() == 0, running.log


def test_our_clients_with_litestreams_daemon(
    place: dict[str, Any], tmp_path: Path, litestream: str, vfsstream: Vfsstream
) -> None:
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([litestream, "replicate", "-config", place["config"]], stdout=log, stderr=log)
    try:
        until(lambda: vfsstream("list", "-socket", place["socket"]).returncode == 0, "Litestream's socket")
        check(session(lambda *words: parsed(vfsstream(*words), words), place, tmp_path), place)
    finally:
        process.terminate()
        process.wait(60)
    # And ours goes on where it stopped.
    with daemon(tmp_path, "-config", place["config"]) as running:
        running.said("replicating")
        assert running.stop() == 0, running.log
    output = tmp_path / "out.db"
    assert vfsstream("restore", "-o", output, f"file://{tmp_path}/replica").returncode == 0
    assert rows(output) == [0, 1, 2]
