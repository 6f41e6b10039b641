"""Ours and the real Litestream take turns on one database and one replica, under load."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.replicate.live import (
    connect,
    contents,
    newest_txid,
    restore_ours,
    restore_theirs,
    run_python,
    running_litestream,
    wait_until,
)
from tests.replicate.test_kill import WRITER, finish, stop
from vfsstream.replicate.events import Event, FullImage, Rebased
from vfsstream.replicate.replicator import Replicator

pytestmark = pytest.mark.interop


def _alternate(tmp_path: Path, litestream: str, turns: int) -> list[Event]:
    path, replica, target = tmp_path / "app.db", tmp_path / "replica", tmp_path / "restored.db"
    events: list[Event] = []
    for turn in range(turns):
        writer = run_python(WRITER, path, 1000, stdout=subprocess.DEVNULL)
        before = newest_txid(replica)
        try:
            wait_until(path.exists, "the writer begins")
            if turn % 2:
                with running_litestream(litestream, path, replica):
                    wait_until(lambda before=before: newest_txid(replica) > before + 2, "litestream goes on")  # type: ignore[misc]
                    time.sleep(random.random() * 0.3)
                    stop(writer)
                    time.sleep(0.5)
            else:
                with Replicator(path, f"file://{replica}", observer=events.append):
                    wait_until(lambda before=before: newest_txid(replica) > before + 1, "ours goes on")  # type: ignore[misc]
                    time.sleep(random.random() * 0.3)
                    stop(writer)
        finally:
            finish(writer)
        source = connect(path)
        wanted = contents(source)
        source.close()
        assert contents(restore_theirs(litestream, replica, target)) == wanted, f"turn {turn}"
        assert contents(restore_ours(replica, target)) == wanted, f"turn {turn}"
    return events


def test_taking_turns(tmp_path: Path, litestream: str) -> None:
    events = _alternate(tmp_path, litestream, 5)
    assert not [event for event in events if isinstance(event, Rebased)]


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_taking_fifty_turns(tmp_path: Path, litestream: str) -> None:
    _alternate(tmp_path, litestream, int(os.environ.get("VFSSTREAM_SOAK_TURNS", "50")))


def test_without_a_writer_in_between_nobody_needs_a_full_image(tmp_path: Path, litestream: str) -> None:
    path, replica = tmp_path / "app.db", tmp_path / "replica"
    writer = connect(path)
    writer.execute("CREATE TABLE t(x)")
    for _ in range(50):
        writer.execute("INSERT INTO t VALUES(randomblob(1000))")
    with running_litestream(litestream, path, replica):
        wait_until(lambda: newest_txid(replica) >= 1, "first file")
        writer.execute("INSERT INTO t VALUES('seen by litestream')")
        wait_until(lambda: newest_txid(replica) >= 2, "second file")
    events: list[Event] = []
    writer.execute("INSERT INTO t VALUES('between')")
    with Replicator(path, f"file://{replica}", observer=events.append) as replicator:
        replicator.sync_and_wait()
    assert not [event for event in events if isinstance(event, FullImage)], events
    ours = newest_txid(replica)
    with running_litestream(litestream, path, replica):
        writer.execute("INSERT INTO t VALUES('and again')")
        wait_until(lambda: newest_txid(replica) > ours, "litestream continues")
        time.sleep(0.3)
    sizes = {file.name: file.stat().st_size for file in replica.glob("ltx/0/*.ltx")}
    first = sizes[min(sizes)]
    assert all(size < first / 2 for name, size in sizes.items() if name != min(sizes)), sizes
    assert contents(restore_theirs(litestream, replica, tmp_path / "restored.db")) == contents(writer)
    writer.close()
