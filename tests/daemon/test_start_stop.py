"""Starting and stopping, over and over, at every moment of the start."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.daemon.helpers import daemon, make_database


def cycles(directory: Path, number: int) -> None:
    dice = random.Random(1)
    make_database(directory / "app.db")
    config = directory / "c.yml"
    config.write_text(
        f"""addr: 127.0.0.1:0
socket: {{enabled: true, path: {directory}/s}}
heartbeat-url: http://127.0.0.1:1/
verify: {{interval: 100ms}}
dbs:
- {{path: {directory}/app.db, replica: {{path: {directory}/replica}}}}
- {{dir: {directory}, pattern: "tenant*.db", watch: true, replica: {{path: {directory}/tenants}}}}
"""
    )
    for turn in range(number):
        child = ("-exec", "sleep 0.2") if turn % 3 == 1 else ()
        with daemon(directory, "-config", config, *child) as running:
            if turn % 3 == 0:
                time.sleep(dice.random())  # anywhere in the start
                assert running.stop() in (0, -signal.SIGTERM), running.log
            elif turn % 3 == 2:
                running.said("replicating")
                assert running.stop() == 0, running.log
            else:
                assert running.wait() == 0, running.log
        assert "Traceback" not in running.log
        assert "internal error" not in running.log


def test_six_starts_and_stops(tmp_path: Path) -> None:
    cycles(tmp_path, 6)


@pytest.mark.soak
def test_two_hundred_starts_and_stops(tmp_path: Path) -> None:
    cycles(tmp_path, 200)
