"""Sessions in a terminal, and what a command loads before it does anything."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.daemon.helpers import make_database

DEADLINE = 90.0


class Terminal:
    """A program with a pseudo-terminal as its controlling terminal; what it prints on stdout is kept apart."""

    def __init__(self, *words: object, env: dict[str, str] | None = None) -> None:
        self._main, side = pty.openpty()

        def own_terminal() -> None:
            fcntl.ioctl(2, termios.TIOCSCTTY, 0)

        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120", **(env or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vfsstream", *map(str, words)],
            stdin=side,
            stdout=subprocess.PIPE,
            stderr=side,
            env=environment,
            start_new_session=True,
            preexec_fn=own_terminal,
        )
        os.close(side)
        self.shown = ""

    def read(self, seconds: float) -> None:
        """Take in what the screen shows."""
        ready, _, _ = select.select([self._main], [], [], seconds)
        if ready:
            with contextlib.suppress(OSError):  # the other side is closed
                self.shown += os.read(self._main, 65536).decode(errors="replace")

    def wait_for(self, text: str) -> None:
        """Until the screen shows it."""
        end = time.monotonic() + DEADLINE
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} is not on the screen: {self.shown!r}"
            self.read(0.2)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._main, keys)

    def end(self) -> int:
        """The exit status."""
        end = time.monotonic() + DEADLINE
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.shown!r}"
            self.read(0.1)
        self.read(0.1)
        return self.process.returncode

    def close(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self._main)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: object, env: dict[str, str] | None = None) -> Terminal:
        opened.append(Terminal(*words, env=env))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_a_restore_shows_its_progress(
    terminal: Callable[..., Terminal], golden: Callable[[str], Path], tmp_path: Path
) -> None:
    session = terminal("restore", "-json", "-o", tmp_path / "x.db", f"file://{golden('levels')}")
    assert session.end() == 0
    assert "x.db" in session.shown
    assert "pages" in session.shown
    assert session.process.stdout is not None
    assert json.loads(session.process.stdout.read())["txid"]


def test_progress_as_json_lines(
    golden: Callable[[str], Path], tmp_path: Path, vfsstream: Callable[..., object]
) -> None:
    done = vfsstream("restore", "-progress=json", "-o", tmp_path / "x.db", f"file://{golden('levels')}")
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]  # type: ignore[attr-defined]
    assert lines
    assert lines[-1]["bytes"] == lines[-1]["total"] > 0


def test_ctrl_c_ends_a_restore_and_leaves_nothing(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    from bench.server import S3Server

    source, output = tmp_path / "app.db", tmp_path / "out" / "x.db"
    make_database(source, 200_000)
    with S3Server(latency=0.05, bandwidth=200_000) as server:
        env = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        url = server.url("bucket", "app")
        subprocess.run(
            [sys.executable, "-m", "vfsstream", "replicate", "-once", source, url],
            env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
            check=True,
            timeout=120,
        )
        output.parent.mkdir()
        output.write_bytes(b"")
        session = terminal("restore", "-o", output, url, env=env)
        session.wait_for("pages")
        session.type(b"\x03")
        assert session.end() == 130
    assert "Traceback" not in session.shown
    assert [path.name for path in output.parent.iterdir()] == ["x.db"]
    assert output.read_bytes() == b""


def test_ctrl_c_ends_following_cleanly(
    terminal: Callable[..., Terminal], golden: Callable[[str], Path], tmp_path: Path
) -> None:
    words = (
        "restore",
        "-f",
        "-json",
        "-follow-interval",
        "50ms",
        "-o",
        tmp_path / "x.db",
        f"file://{golden('levels')}",
    )
    session = terminal(*words)
    session.wait_for("follow restored")
    session.type(b"\x03")
    assert session.end() == 0
    assert session.process.stdout is not None
    assert json.loads(session.process.stdout.read())["txid"] == ""
    again = terminal(*words)
    again.wait_for("follow resumed")
    again.type(b"\x03")
    assert again.end() == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vfsstream res", "restore"),
        ("vfsstream restore -t", "-txid"),
        ("vfsstream restore --t", "--timestamp"),
        ("vfsstream sync -w", "-wait"),
    ],
)
def test_completion_offers(line: str, expected: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_VFSSTREAM_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    code = "import sys; sys.argv[0] = 'vfsstream'; from vfsstream.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert f"plain,{expected}" in done.stdout.split(), done.stderr


STARTUP = {
    name.partition(".")[0]
    for name in subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()
}

HEAVY = {
    "numpy",
    "boto3",
    "botocore",
    "rich",
    "prometheus_client",
    "mcp",
    "uvicorn",
    "starlette",
    "asyncio",
    "httpx",
    "paramiko",
    "google.cloud",
    "azure",
    "nats",
    "urllib3",
    "alibabacloud_oss_v2",
    "multiprocessing",
    "unittest",
}


@pytest.mark.parametrize(
    "line",
    [
        "version",
        "help",
        "restore -h",
        "replicate -h",
        "ltx -level all {url}",
        "ltx {url}",
        "points {url}",
        "restore -dry-run -o x {url}",
        "databases -config {config}",
        "status -config {config}",
        "config check {config}",
        "completion bash",
        "list -socket /none",
        "reset -dry-run {config}",
    ],
)
def test_a_local_command_loads_nothing_heavy(line: str, golden: Callable[[str], Path], tmp_path: Path) -> None:
    config = tmp_path / "c.yml"
    config.write_text(f"dbs: [{{path: {tmp_path}/a.db, replica: {{path: {tmp_path}/r}}}}]")
    words = line.format(url=f"file://{golden('levels')}", config=config).split()
    code = (
        "import sys, json\n"
        "from vfsstream.cli.app import execute\n"
        f"execute({words!r})\n"
        "sys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert not loaded & HEAVY
    if not line.startswith(("points", "restore -dry-run", "ltx -level all")):  # these list all levels at once
        assert not loaded & {"logging", "concurrent.futures", "secrets", "decimal"}
    roots = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    foreign = {name for name in roots if not name.startswith(("_cython", "cython", "_distutils", "__main"))}
    # Besides what site-packages loads into every process by .pth files.
    assert foreign - STARTUP <= {"vfsstream", "apsw", "click", "yaml", "lz4", "fastcrc"}
