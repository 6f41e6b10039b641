"""Completion in the shells themselves: a key pressed at a terminal, the completed command run."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

DEADLINE = 60.0
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(vfsstream completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; source <(vfsstream completion zsh)"),
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "vfsstream").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vfsstream "$@"\n')
    (tools / "vfsstream").chmod(0o755)
    found = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    return found | {"TERM": "dumb", "PS1": "ready> ", "COLUMNS": "200", "XDG_CONFIG_HOME": str(tmp_path)}


class Session:
    """A shell at a terminal."""

    def __init__(self, words: list[str], environment: dict[str, str], directory: Path) -> None:
        self.shown = ""
        self._main, side = pty.openpty()
        self.process = subprocess.Popen(
            words, stdin=side, stdout=side, stderr=side, env=environment, cwd=directory, start_new_session=True
        )
        os.close(side)

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def wait_for(self, text: str, *, after: int = 0) -> None:
        end = time.monotonic() + DEADLINE
        while text not in self.shown[after:]:
            assert time.monotonic() < end, f"{text!r} is not on the screen: {self.shown!r}"
            if select.select([self._main], [], [], 0.2)[0]:
                self.shown += os.read(self._main, 65536).decode(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_command_and_a_flag_are_completed(shell: str, environment: dict[str, str], tmp_path: Path) -> None:
    words, setup = SHELLS[shell]
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}: apt-get install {shell}")
    session = Session(words, environment, tmp_path)
    try:
        session.type(f"{setup}; echo set''up\r")
        session.wait_for("setup")
        session.type("vfsstream unreg\t")
        session.wait_for("unregister")
        before = len(session.shown)
        session.type("-tim\t")
        session.wait_for("timeout", after=before)
        session.type("x /a.db\r")
        session.wait_for("flag -timeout: invalid integer 'x'", after=before)
    finally:
        session.close()


def test_fish_completes_by_its_own_engine(environment: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish: apt-get install fish")
    script = "vfsstream completion fish | source; complete -C 'vfsstream unreg'; complete -C 'vfsstream sync -tim'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["unregister", "-timeout"], done.stderr
