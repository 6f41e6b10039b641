"""The control socket and its clients; what the replicator does behind it is tested elsewhere."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_app import Run, run
from vfsstream.daemon.control import ControlServer, rfc3339_nano
from vfsstream.daemon.manager import DatabaseState, NotManaged, NotRunning, SyncAnswer
from vfsstream.errors import ConflictError, UrlError, UsageError

__all__ = ["run"]


class Recorder:
    """A manager that remembers what it was asked."""

    def __init__(self) -> None:
        self.databases: dict[str, DatabaseState] = {}
        self.asked: list[Any] = []

    def _known(self, path: str) -> DatabaseState:
        if path not in self.databases:
            raise NotManaged(f"database not found: {path}")
        return self.databases[path]

    def states(self) -> Sequence[DatabaseState]:
        return list(self.databases.values())

    def register(self, path: str, replica_url: str) -> bool:
        if "://" not in replica_url:
            raise UrlError("no scheme in sftp://u:hunter2@h/x")
        new = path not in self.databases
        self.databases[path] = DatabaseState(path, "replicating", replica_url, "file", txid=7)
        return new

    def unregister(self, path: str, timeout: float) -> int | None:
        self.asked.append(timeout)
        found = self.databases.pop(path, None)
        return found.txid if found else None

    def start(self, path: str, timeout: float) -> tuple[bool, int]:
        return True, self._known(path).txid

    def stop(self, path: str, timeout: float) -> tuple[bool, int]:
        return False, self._known(path).txid

    def sync(self, path: str, wait: bool, timeout: float) -> SyncAnswer:
        state = self._known(path)
        if state.status == "stopped":
            raise NotRunning("not running")
        return SyncAnswer("synced" if wait else "synced_local", state.txid, 6)

    def diagnostics(self, path: str | None) -> list[dict[str, Any]]:
        return [{"path": state.path, "active": False} for state in self.databases.values()]


INFO = {"version": "1", "pid": 5, "uptime_seconds": 61, "started_at": "2026-01-01T00:00:00Z", "database_count": 1}


@pytest.fixture
def manager() -> Recorder:
    return Recorder()


@pytest.fixture
def path(manager: Recorder, tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "c.sock"
    server = ControlServer(str(where), 0o600, manager, lambda: INFO)
    yield where
    server.close()
    assert not where.exists()


def raw(path: Path, request: str) -> tuple[int, dict[str, str], str]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(request.encode())
        client.shutdown(socket.SHUT_WR)
        text = b""
        while chunk := client.recv(65536):
            text += chunk
    head, _, body = text.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, body


def test_register_list_and_the_rest(run: Run, path: Path, manager: Recorder, tmp_path: Path) -> None:
    flags = ("-socket", path, "-json")
    database = tmp_path / "a.db"
    answer = json.loads(run("register", *flags, "-replica", "file:///r", database)[1])
    assert answer == {
        "status": "registered",
        "db_path": str(database),
        "replica": "file:///r",
        "socket": str(path),
    }
    assert (
        json.loads(run("register", *flags, "-replica", "file:///r", database)[1])["status"] == "already_registered"
    )
    assert run("register", "-socket", path, "-replica", "file:///r", database)[1].startswith(
        "status: already registered\n"
    )
    assert json.loads(run("list", *flags)[1]) == {"databases": [{"path": str(database), "status": "replicating"}]}
    assert run("list", "-socket", path)[1] == f"{database} [replicating] (last sync: never)\n"
    assert list(json.loads(run("start", *flags, database)[1])) == ["status", "db_path", "state", "txid", "socket"]
    assert json.loads(run("stop", *flags, database)[1])["status"] == "already_stopped"
    synced = json.loads(run("sync", *flags, "-wait", database)[1])
    assert list(synced) == ["db_path", "txid", "replica_txid", "duration_ms"]
    assert list(json.loads(run("sync", *flags, database)[1])) == ["db_path", "txid", "duration_ms"]
    assert json.loads(run("info", *flags)[1]) == INFO
    assert "  Uptime: 1m1s\n" in run("info", "-socket", path)[1]
    answer = json.loads(run("unregister", *flags, "-timeout", "10", database)[1])
    assert answer == {"status": "unregistered", "db_path": str(database), "final_txid": 7, "socket": str(path)}
    assert manager.asked == [10.0]
    assert json.loads(run("unregister", *flags, database)[1])["status"] == "already_unregistered"
    assert run("list", "-socket", path)[1] == "no databases\n"


def test_errors_of_the_daemon_reach_the_user(run: Run, path: Path) -> None:
    for command in ("start", "stop", "sync"):
        status, out, err = run(command, "-socket", path, "/no.db")
        assert (status, out) == (1, "")
        assert f"{command} failed: database not found: /no.db" in err
    status, _, err = run("register", "-socket", path, "-replica", "x", "/a.db")
    assert status == 1
    assert "hunter2" not in err


@pytest.mark.parametrize("command", ["register", "unregister", "start", "stop", "sync"])
def test_a_path_is_required(run: Run, command: str) -> None:
    status, _, err = run(command)
    assert status == 1
    assert "database path required" in err
    assert "Try: vfsstream" in err


def test_no_daemon(run: Run, tmp_path: Path) -> None:
    status, out, err = run("list", "-socket", tmp_path / "none.sock")
    assert (status, out) == (1, "")
    assert "cannot reach the control socket" in err
    assert run("list", "-timeout", "0")[0] == 1
    assert "-timeout must be" in run("sync", "-timeout=-1", "/a")[2]


def test_unregister_dry_run_asks_nobody(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("unregister", "-dry-run", "-json", "-socket", tmp_path / "none", "/a.db")
    assert status == 0
    assert json.loads(out)["status"] == "dry_run"


def test_http_details(path: Path) -> None:
    assert raw(path, "GET /none HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 404
    status, headers, _ = raw(path, "GET /sync HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, headers["allow"]) == (405, "POST")
    assert raw(path, "HEAD /info HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
    assert raw(path, "GET /txid HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 400
    assert raw(path, "GET /txid?path=/x HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 404
    status, _, body = raw(path, "POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{")
    assert status == 400
    assert json.loads(body)["details"]
    for bad in ("[]", '{"path": 5}', '{"path": "/a", "timeout": "x"}'):
        request = f"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: {len(bad)}\r\n\r\n{bad}"
        assert raw(path, request)[0] == 400
    assert raw(path, "GET /debug/sync-status HTTP/1.1\r\nHost: x\r\n\r\n")[2] == '{"databases": []}\n'


def test_the_socket_is_its_owners_only(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_may_not_open_it(manager: Recorder) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        where = Path(directory) / "c.sock"
        server = ControlServer(str(where), 0o600, manager, lambda: INFO)
        try:
            # connect(2) needs write permission on the socket file.
            may_write = ["/bin/sh", "-c", 'test -w "$0"', str(where)]
            assert subprocess.run(may_write, user=65534, timeout=60, check=False).returncode == 1
            os.chmod(where, 0o666)
            assert subprocess.run(may_write, user=65534, timeout=60, check=False).returncode == 0
        finally:
            server.close()


def test_a_living_daemon_keeps_its_socket(path: Path, manager: Recorder, run: Run) -> None:
    with pytest.raises(ConflictError, match="another daemon"):
        ControlServer(str(path), 0o600, manager, lambda: INFO)
    assert run("info", "-socket", path)[0] == 0


def test_a_dead_daemons_socket_is_replaced_and_a_file_is_not(tmp_path: Path, manager: Recorder) -> None:
    where = tmp_path / "c.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(where))
    dead.close()
    ControlServer(str(where), 0o600, manager, lambda: INFO).close()
    where.write_text("mine")
    with pytest.raises(UsageError, match="not a socket"):
        ControlServer(str(where), 0o600, manager, lambda: INFO)
    assert where.read_text() == "mine"
    with pytest.raises(UsageError, match="cannot make"):
        ControlServer(str(tmp_path / "no" / "c.sock"), 0o600, manager, lambda: INFO)


def test_only_the_own_socket_is_removed(tmp_path: Path, manager: Recorder) -> None:
    where = tmp_path / "c.sock"
    first = ControlServer(str(where), 0o600, manager, lambda: INFO)
    where.unlink()
    second = ControlServer(str(where), 0o600, manager, lambda: INFO)
    first.close()
    assert where.exists()
    second.close()


def test_times() -> None:
    assert rfc3339_nano(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00Z"
    assert rfc3339_nano(datetime(2026, 1, 1, 0, 0, 0, 120000, tzinfo=UTC)) == "2026-01-01T00:00:00.12Z"
