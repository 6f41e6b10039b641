"""The daemon as a process: signals, the child, shutdown, reload, systemd, and what a second one may not do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.helpers import add_row, daemon, make_database, rows, until

Vfsstream = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    make_database(path)
    return path


def restored(vfsstream: Vfsstream, url: str, output: Path) -> list[object]:
    output.unlink(missing_ok=True)
    done = vfsstream("restore", "-o", output, url)
    assert done.returncode == 0, done.stderr
    return rows(output)


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "app.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_brings_everything_into_the_replica(
    tmp_path: Path, database: Path, vfsstream: Vfsstream, number: int
) -> None:
    url = f"file://{tmp_path}/replica"
    with daemon(tmp_path, database, url) as running:
        running.said("replicating")
        add_row(database, "last")
        assert running.stop(number) == 0, running.log
    assert restored(vfsstream, url, tmp_path / "out.db") == [0, 1, 2, "last"]
    assert running.output == ""


def test_once(tmp_path: Path, database: Path, vfsstream: Vfsstream) -> None:
    url = f"file://{tmp_path}/replica"
    done = vfsstream("replicate", "-once", "-force-snapshot", "-enforce-retention", "-json", database, url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["snapshot"]
    assert len(json.loads(vfsstream("ltx", "-json", "-level", "9", url).stdout)) == 1
    assert restored(vfsstream, url, tmp_path / "out.db") == [0, 1, 2]
    before = vfsstream("ltx", "-json", "-level", "all", url).stdout
    assert vfsstream("replicate", "-once", database, url).returncode == 0
    assert vfsstream("ltx", "-json", "-level", "all", url).stdout == before
    missing = vfsstream("replicate", "-once", tmp_path / "none.db", url)
    assert missing.returncode == 1
    assert "does not exist" in missing.stderr


def test_a_child_however_short_is_captured(tmp_path: Path, database: Path, vfsstream: Vfsstream) -> None:
    url = f"file://{tmp_path}/replica"
    code = f"import sqlite3; c = sqlite3.connect({str(database)!r}); c.execute('INSERT INTO t VALUES (99)'); c.commit()"
    script = tmp_path / "child.py"
    script.write_text(code)
    done = vfsstream("replicate", "-exec", f"'{sys.executable}' '{script}'", database, url)
    assert done.returncode == 0, done.stderr
    assert restored(vfsstream, url, tmp_path / "out.db") == [0, 1, 2, 99]


def test_the_childs_status_is_passed_on(tmp_path: Path, database: Path, vfsstream: Vfsstream) -> None:
    url = f"file://{tmp_path}/replica"
    done = vfsstream("replicate", "-exec", "sh -c 'exit 7'", database, url)
    assert done.returncode == 7, done.stderr
    assert restored(vfsstream, url, tmp_path / "out.db") == [0, 1, 2]


def test_a_signal_reaches_the_child_and_the_last_sync_is_made(
    tmp_path: Path, database: Path, vfsstream: Vfsstream
) -> None:
    url = f"file://{tmp_path}/replica"
    script = tmp_path / "child.py"
    script.write_text(
        "import signal, sqlite3, sys, time\n"
        "def end(*_):\n"
        f"    c = sqlite3.connect({str(database)!r}); c.execute(\"INSERT INTO t VALUES ('bye')\"); c.commit()\n"
        "    sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(0.1)\n"
    )
    with daemon(tmp_path, "-exec", f"'{sys.executable}' '{script}'", database, url) as running:
        running.said("child started")
        assert running.process.stdout is not None
        assert running.process.stdout.readline() == b"up\n"
        assert running.stop() == 3, running.log
    assert restored(vfsstream, url, tmp_path / "out.db") == [0, 1, 2, "bye"]


def test_a_child_that_ignores_signals_is_killed_by_the_third(tmp_path: Path, database: Path) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    with daemon(tmp_path, "-exec", f'sh -c "{script}"', database, f"file://{tmp_path}/replica") as running:
        running.said("child started")
        assert running.process.stdout is not None
        assert running.process.stdout.readline() == b"up\n"
        for _ in range(2):
            before = running.log.count("passed on")
            running.process.send_signal(signal.SIGTERM)
            until(lambda before=before: running.log.count("passed on") > before, "the signal")  # type: ignore[misc]
        assert running.stop() == 0, running.log


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (" ", "the command to run is empty"),
        ("sh -c 'x", "cannot understand the command"),
        ("true; false", "without a shell"),
        ("/no/such/program", "cannot run /no/such/program"),
    ],
)
def test_impossible_commands(
    tmp_path: Path, database: Path, vfsstream: Vfsstream, command: str, message: str
) -> None:
    done = vfsstream("replicate", "-exec", command, database, f"file://{tmp_path}/replica")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_exit_status_says_when_the_replica_lacks_something(tmp_path: Path, database: Path) -> None:
    in_the_way = tmp_path / "replica"
    in_the_way.write_text("a file where a directory must be")
    path = config(
        tmp_path,
        f"shutdown-sync-timeout: 1s\ndbs: [{{path: {database}, replica: {{url: file://{in_the_way}}}}}]\n",
    )
    with daemon(tmp_path, "-config", path) as running:
        running.said("replicating")
        until(lambda: "failed" in running.log, "the failure")
        assert running.stop() == 4, running.log
    assert "not everything is in the replica" in running.log


def test_control_reload_and_metrics(tmp_path: Path, database: Path, vfsstream: Vfsstream) -> None:
    second = tmp_path / "second.db"
    make_database(second)
    where = tmp_path / "c.sock"
    head = f"socket: {{enabled: true, path: {where}}}\naddr: '127.0.0.1:0'\n"
    one = f"  - {{path: {database}, replica: {{url: file://{tmp_path}/r1}}}}\n"
    two = f"  - {{path: {second}, replica: {{url: file://{tmp_path}/r2}}}}\n"
    path = config(tmp_path, f"{head}dbs:\n{one}")

    def listed() -> set[str]:
        answer = json.loads(vfsstream("list", "-json", "-socket", where).stdout)
        return {entry["path"] for entry in answer["databases"]}

    with daemon(tmp_path, "-config", path) as running:
        running.said("replicating")
        running.said("serving metrics")
        synced = json.loads(vfsstream("sync", "-wait", "-json", "-socket", where, database).stdout)
        assert synced["replica_txid"] == synced["txid"] > 0
        third = tmp_path / "third.db"
        make_database(third)
        registered = vfsstream("register", "-socket", where, "-replica", f"file://{tmp_path}/r3", third)
        assert registered.returncode == 0, registered.stderr
        taken = vfsstream("register", "-socket", where, "-replica", f"file://{tmp_path}/r3", tmp_path / "4.db")
        assert taken.returncode == 1
        path.write_text(f"{head}dbs:\n{two}")
        running.process.send_signal(signal.SIGHUP)
        running.said("configuration read again")
        assert listed() == {str(second), str(third)}
        path.write_text("nonsense: true\n")
        running.process.send_signal(signal.SIGHUP)
        running.said("configuration not changed")
        assert listed() == {str(second), str(third)}
        stopped = json.loads(vfsstream("stop", "-json", "-socket", where, second).stdout)
        assert stopped["status"] == "stopped"
        assert vfsstream("sync", "-socket", where, second).returncode == 1
        assert json.loads(vfsstream("start", "-json", "-socket", where, second).stdout)["status"] == "started"
        gone = json.loads(vfsstream("unregister", "-json", "-socket", where, third).stdout)
        assert gone["final_txid"] > 0
        held = {link.readlink() for link in Path(f"/proc/{running.process.pid}/fd").glob("*") if link.is_symlink()}
        assert not [path for path in held if path.name.startswith("third.db")], "its volume can be unmounted"
        assert [path for path in held if path.name.startswith("second.db")]
        url = running.log.split("url=")[1].split()[0]
        with urllib.request.urlopen(f"{url}metrics", timeout=30) as answer:
            text = answer.read().decode()
        assert f'litestream_txid{{db="{second}"}} 1.0' in text
        with urllib.request.urlopen(f"{url}healthz", timeout=30) as answer:
            assert answer.read() == b"ok\n"
        # A second daemon may not take the socket.
        other = vfsstream("replicate", "-config", config(tmp_path, f"{head}dbs: []\n"))
        assert other.returncode == 1
        assert "another daemon listens" in other.stderr
        assert vfsstream("info", "-socket", where).returncode == 0
        assert running.stop() == 0, running.log
    assert not where.exists()


def test_a_reload_brings_new_intervals_and_credentials(tmp_path: Path, database: Path) -> None:
    def text(more: str) -> str:
        return f"{more}dbs: [{{path: {database}, replica: {{path: {tmp_path}/replica}}}}]\n"

    def reload() -> None:
        before = running.log.count("configuration read again")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.log.count("configuration read again") > before, "the reload")

    path = config(tmp_path, text(f"socket: {{enabled: true, path: {tmp_path}/s}}\n"))
    with daemon(tmp_path, "-config", path) as running:
        running.said("replicating")
        running.said("snapshot complete")
        reload()
        assert running.log.count("replicating") == 1  # nothing changed, nothing restarted
        more = "socket: {enabled: true, path: /elsewhere}\naddr: ':0'\nverify: {interval: 100ms}\n"
        path.write_text(text(f"{more}levels: [{{interval: 100ms}}]\nl0-retention: 1ms\n"))
        reload()
        until(lambda: running.log.count("replicating") == 2, "the database under its new settings")
        running.said("msg=verified")
        for value in range(3):
            add_row(database, value)
        running.said("compaction complete")  # the default interval is half a minute, aligned
        for key in ("addr", "socket.path"):
            assert f'msg="this change needs a restart" key={key}' in running.log
        assert 'restart" key=levels' not in running.log
        assert running.stop() == 0, running.log


def test_a_target_differs_by_what_only_the_configuration_knows(tmp_path: Path) -> None:
    from vfsstream.config.load import load_text
    from vfsstream.daemon.fleet import targets

    def target(key: str, more: str = "") -> object:
        replica = f"{{url: 's3://bucket/app', secret-access-key: {key}}}"
        return next(targets(load_text(f"{more}dbs: [{{path: /a.db, replica: {replica}}}]", "", environ={})))

    assert target("one").same(target("one"))  # type: ignore[attr-defined]
    assert not target("one").same(target("two"))  # type: ignore[attr-defined]
    assert not target("one").same(target("one", "snapshot: {interval: 1h}\n"))  # type: ignore[attr-defined]
    assert not target("one").same(target("one", "retention: {enabled: false}\n"))  # type: ignore[attr-defined]


def test_restore_before_the_start(tmp_path: Path, database: Path, vfsstream: Vfsstream) -> None:
    url = f"file://{tmp_path}/replica"
    assert vfsstream("replicate", "-once", database, url).returncode == 0
    database.unlink()
    for name in database.parent.glob("app.db-*"):
        name.unlink()
    with daemon(tmp_path, "-restore-if-db-not-exists", database, url) as running:
        running.said("restored")
        running.said("replicating")
        add_row(database, "after")
        assert running.stop() == 0, running.log
    assert restored(vfsstream, url, tmp_path / "out.db") == [0, 1, 2, "after"]
    fresh = tmp_path / "fresh.db"
    with daemon(tmp_path, "-restore-if-db-not-exists", fresh, f"file://{tmp_path}/none") as running:
        running.said("no backup to restore")
        assert running.stop() == 0, running.log


def test_systemd_is_told(tmp_path: Path, database: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(60)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"}
        with daemon(tmp_path, database, f"file://{tmp_path}/replica", env=env) as running:
            assert server.recv(1000) == b"READY=1"
            assert server.recv(1000) == b"WATCHDOG=1"
            running.process.terminate()
            while (word := server.recv(1000)) == b"WATCHDOG=1":
                pass
            assert word == b"STOPPING=1"
            assert running.wait() == 0


def test_secrets_appear_nowhere(tmp_path: Path, database: Path, vfsstream: Vfsstream) -> None:
    secret = "hunter2SECRETvalue"
    path = config(
        tmp_path,
        "addr: '127.0.0.1:0'\n"
        f"secret-access-key: {secret}\naccess-key-id: {secret}\nheartbeat-url: http://127.0.0.1:9/{secret}\n"
        "logging: {level: trace}\nshutdown-sync-timeout: 0s\n"
        f"dbs:\n  - path: {database}\n    replica: {{url: 'sftp://user:{secret}@127.0.0.1:9/x'}}\n",
    )
    seen = []
    with daemon(tmp_path, "-config", path) as running:
        running.said("serving metrics")
        running.said("storage request failed")
        url = running.log.split("url=")[1].split()[0]
        for page in ("", "api/status", "metrics", "healthz"):
            try:
                with urllib.request.urlopen(url + page, timeout=30) as answer:
                    seen.append(answer.read().decode())
            except urllib.error.HTTPError as error:
                seen.append(error.read().decode())
                error.close()
        running.stop()
        seen.append(running.log)
    for words in (("config", "check", path), ("databases", "-config", path), ("ltx", "-config", path, database)):
        done = vfsstream(*words)
        seen += [done.stdout, done.stderr]
    assert all(secret not in text for text in seen)
    assert any("sftp" in text for text in seen)


def test_json_logs_and_levels(tmp_path: Path, database: Path) -> None:
    path = config(
        tmp_path,
        f"logging: {{type: json, level: error}}\ndbs: [{{path: {database}, replica: {{path: {tmp_path}/r}}}}]\n",
    )
    with daemon(tmp_path, "-config", path, "-log-level", "debug") as running:
        running.said('"msg": "upload"')
        assert running.stop() == 0
    for line in running.log.splitlines():
        assert list(json.loads(line))[:3] == ["time", "level", "msg"]


@pytest.mark.skipif(not os.environ.get("PATH"), reason="no programs")
def test_usage_errors_of_replicate(vfsstream: Vfsstream) -> None:
    for words, message in [
        (["a.db"], "a replica URL is required"),
        (["a.db", "file:///x", "file:///y"], "too many arguments"),
        (["a.db", "/x"], "not a replica URL"),
        (["a.db", "ftp://x"], "unknown scheme"),
        (["-config", "x", "a.db", "file:///x"], "cannot be combined"),
        (["-force-snapshot", "a.db", "file:///x"], "-force-snapshot needs -once"),
        (["-once", "-exec", "true", "a.db", "file:///x"], "-once cannot be combined"),
        (["-log-level", "loud", "a.db", "file:///x"], "unknown log level"),
    ]:
        done = vfsstream("replicate", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr


def test_reset_keeps_off_a_living_replicator(tmp_path: Path, database: Path, vfsstream: Vfsstream) -> None:
    url = f"file://{tmp_path}/replica"
    with daemon(tmp_path, database, url, "-log-level", "debug") as running:
        running.said("msg=upload")
        refused = vfsstream("reset", database)
        assert refused.returncode == 1
        assert "being replicated now" in refused.stderr
        assert running.stop() == 0, running.log
    assert vfsstream("reset", database).returncode == 0


def test_a_secret_is_hidden_even_where_nobody_expects_it(tmp_path: Path) -> None:
    """A directory that happens to be called like the key: log, page and metrics replace the value itself."""
    secret = "hunter2SECRETvalue"
    database = tmp_path / secret / "app.db"
    database.parent.mkdir()
    make_database(database)
    path = config(
        tmp_path,
        f"addr: '127.0.0.1:0'\nsecret-access-key: {secret}\naccess-key-id: x\nlogging: {{level: trace}}\n"
        f"dbs:\n  - path: {database}\n    replica: {{path: {tmp_path}/replica}}\n",
    )
    with daemon(tmp_path, "-config", path) as running:
        running.said("snapshot complete")
        url = running.log.split("url=")[1].split()[0]
        pages = []
        for page in ("api/status", "metrics"):
            with urllib.request.urlopen(url + page, timeout=30) as answer:
                pages.append(answer.read().decode())
        assert running.stop() == 0, running.log
    for text in (running.log, *pages):
        assert "***/app.db" in text
        assert secret not in text
