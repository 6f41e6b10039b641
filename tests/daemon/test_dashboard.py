"""The page in a real browser, against a real daemon."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.daemon.helpers import add_row, daemon, make_database, until

FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1120,900"
)


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing: apt-get install chromium")
        pytest.skip("chromium is missing: apt-get install chromium")
    return found


def browse(chromium: str, *arguments: str) -> str:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [chromium, *FLAGS.split(), f"--user-data-dir={profile}", *arguments]
        # A group of its own, so that its helpers can be ended with it.
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        ) as browser:
            try:
                out, _ = browser.communicate(timeout=120)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(browser.pid, signal.SIGKILL)
    return out


@pytest.mark.timeout(400)
def test_the_page_shows_what_happens(tmp_path: Path, chromium: str) -> None:
    entries = []
    figure = os.environ.get("VFSSTREAM_SAVE_FIGURES")  # an empty directory whose name may be seen in the picture
    top = Path(figure) if figure else tmp_path
    for number in range(3):
        path = top / f"tenant-{number}.db"
        make_database(path, 200)
        entries.append(f"  - {{path: {path}, replica: {{path: {top}/replica/{number}}}}}\n")
    config = tmp_path / "app.yml"
    config.write_text("addr: ':0'\nlevels: [{interval: 2s}]\nverify: {interval: 1s}\ndbs:\n" + "".join(entries))
    with daemon(tmp_path, "-config", config) as running:
        running.said("serving metrics")
        running.said("snapshot complete")
        for number in range(12):
            add_row(top / f"tenant-{number % 3}.db", number)
        running.said("compaction complete")
        until(lambda: running.log.count("msg=verified") >= 3, "a look at each replica")
        url = running.log.split("url=")[1].split()[0]
        page = browse(chromium, "--virtual-time-budget=6000", "--dump-dom", url)
        picture = tmp_path / "dashboard.png"
        browse(chromium, "--virtual-time-budget=6000", f"--screenshot={picture}", url)
        if figure:
            figures = ROOT / "docs" / "figures"
            figures.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, figures / "dashboard.png")
        assert running.stop() == 0, running.log
    assert picture.read_bytes().startswith(b"\x89PNG")
    state = re.search(r'id="state" class="(\w+)">([^<]*)', page)
    assert state is not None
    assert state[1] == "ok"
    assert "healthy" in state[2]
    for number in range(3):
        assert f"tenant-{number}.db" in page
    assert page.count(">whole ") == 3
    assert "level 1" in page
    assert "<polyline" in page
    assert "<td>PUT</td>" in page
    assert "<form" not in page
    assert "<button" not in page


def test_the_page_without_a_replicator(tmp_path: Path, golden: Callable[[str], Path], chromium: str) -> None:
    url = f"file://{golden('levels')}"
    words = [sys.executable, "-m", "vfsstream", "dashboard", "-addr", "127.0.0.1:0", "-interval", "200ms", url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as program:
        try:
            assert program.stderr is not None
            address = program.stderr.readline().split(": ", 1)[1].strip()
            page = browse(chromium, "--virtual-time-budget=4000", "--dump-dom", address)
            program.send_signal(signal.SIGINT)
            assert program.wait(60) == 0
        finally:
            program.kill()
    assert url in page
    assert "snapshots" in page
    assert "level 1" in page
