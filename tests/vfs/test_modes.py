"""The modes are what they promise to be, and the everyday run has some of each."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.conftest import ROOT
from tests.vfs.modes import DEFAULT, MODES, PREFETCH, Mode
from vfsstream.vfs.options import Options


def test_each_part_is_met_with_each_other() -> None:
    assert len(set(MODES)) == len(MODES)
    assert len({str(mode) for mode in MODES}) == len(MODES)
    assert DEFAULT in MODES
    bare = {(mode.prefetch, mode.tiny) for mode in MODES if not mode.disk and not mode.copy}
    assert bare == set(itertools.product(PREFETCH, (False, True)))
    local = {(mode.disk, mode.copy) for mode in MODES}
    assert local == set(itertools.product(("", "ample", "small"), ("", "private", "native")))
    for prefetch in PREFETCH:
        assert any(mode.prefetch == prefetch and (mode.disk or mode.copy) for mode in MODES)
    for tiny, kept in itertools.product((False, True), ("disk", "copy")):
        assert any(mode.tiny == tiny and getattr(mode, kept) for mode in MODES)


def test_a_mode_is_what_a_replica_is_opened_with(tmp_path: Path) -> None:
    mode = Mode("seq", True, "small", "native")
    found = Options.resolve({"replica_url": "memory:"}, {}, mode.environment(tmp_path))
    assert (found.prefetch, found.cache_size, found.window_budget) == ("seq", 8192, 8192)
    assert (found.cache_dir, found.disk_cache_size) == (str(tmp_path / "kept"), 1)
    assert (found.hydration_enabled, found.hydration_path) == (True, str(tmp_path / "copy.db"))


def test_every_mode_is_in_the_everyday_run() -> None:
    command = [sys.executable, "-m", "pytest", "tests/vfs", "--collect-only", "-q", "-m"]
    command += ["modes and not soak and not default_mode"]
    command += ["-o", "addopts=--import-mode=importlib"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    parameters = [line.partition("[")[2] for line in done.stdout.splitlines() if "::" in line]
    names = sorted(map(str, MODES), key=len, reverse=True)
    seen = Counter(next(name for name in names if f"-{name}-" in f"-{text.strip(']')}-") for text in parameters)
    assert set(seen) == set(names), seen
