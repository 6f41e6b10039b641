"""``vfsstream check`` at the command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_folder(vfsstream: Run, tmp_path: Path) -> None:
    done = vfsstream("check", "-json", "-quick", f"file://{tmp_path}/replica")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"]
    assert {check["name"] for check in answer["checks"]} >= {"put", "ranged get", "conditional put", "latency"}
    text = vfsstream("check", "-quick", f"file://{tmp_path}/replica").stdout
    assert "replicate: retention frees space" in text


def test_a_place_that_cannot_be_written(vfsstream: Run, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a file, not a folder")
    done = vfsstream("check", f"file://{tmp_path}/plain/replica")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "impossible here" in done.stdout
