"""Where Litestream 0.5.17 goes wrong: the same scene is played with it and with ours, which gets it right.

The four ways of losing commits without a word stand in ``test_silent_loss``: one restart of the log, or two, while
nobody watched; a tail of the log lost by the power; a database replaced under a running replicator. Here are the
others, all over the same command line. A scene that no longer shows the defect fails, too.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from tests.conftest import ROOT
from tests.replicate.live import clear, connect, contents, newest_txid, wait_until

pytestmark = pytest.mark.interop

QUICK = "levels: [{interval: 1h}]\nsnapshot: {interval: 24h, retention: 24h}\nshutdown-sync-timeout: 1s\n"


class Scene:
    """One application, one replica, and either program."""

    def __init__(self, root: Path, program: list[str], *, ours: bool) -> None:
        self.root, self.program, self.ours = root, program, ours
        self.path, self.replica, self.target = root / "app.db", root / "replica", root / "restored.db"
        self.writer = connect(self.path)
        self.writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        self.write(30)
        self.answer = 0

    def write(self, rows: int = 3) -> None:
        for _ in range(rows):
            self.writer.execute("INSERT INTO t(x) VALUES(randomblob(1500))")

    def environment(self) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return {**inherited, **keys, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [*self.program, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=self.environment())

    @contextmanager
    def replicating(
        self, *, url: str = "", options: str = "", globals_: str = QUICK, path: Path | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A replicator, stopped by SIGTERM; its exit status goes to ``answer``."""
        config = self.root / "config.yml"
        config.write_text(
            f"{globals_}dbs:\n  - path: {path or self.path}\n    monitor-interval: 50ms\n"
            f"    replica:\n      url: {url or f'file://{self.replica}'}\n      sync-interval: 50ms\n{options}"
        )
        with open(self.root / "log", "ab") as log:
            process = subprocess.Popen(
                [*self.program, "replicate", "-config", str(config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                try:
                    self.answer = process.wait(60)
                finally:
                    process.kill()

    def turn(self, *, snapshot: bool = False) -> None:
        """Replicate until something new is there, and a little longer."""
        before = newest_txid(self.replica)
        with self.replicating():
            wait_until(lambda: newest_txid(self.replica) > before, "something is replicated")
            if snapshot:
                wait_until(self.has_snapshot, "the first snapshot")
            time.sleep(0.3)

    def has_snapshot(self) -> bool:
        return any(self.replica.glob("ltx/9/*.ltx"))

    def short_turn(self) -> None:
        """Replicate for a while, whatever becomes of it."""
        with self.replicating():
            self.give(2)

    def give(self, seconds: float) -> None:
        """The time that the real program gets to fail in, and ours, on a busy machine, to bring the newest state."""
        end = time.monotonic() + (60 if self.ours else seconds)
        while time.monotonic() < end and not (self.ours and self.restores()):
            time.sleep(0.1)

    def restores(self) -> bool:
        """Whether the newest state comes back."""
        clear(self.target)
        answer = self.run("restore", "-o", self.target, f"file://{self.replica}")
        try:
            return answer.returncode == 0 and contents(self.target) == contents(self.writer)
        except apsw.Error:
            return False

    def level0(self) -> Path:
        return self.root / ".app.db-litestream" / "ltx" / "0"

    def log(self) -> str:
        return (self.root / "log").read_text()


@pytest.fixture(params=["litestream", "vfsstream"])
def scene(request: pytest.FixtureRequest, tmp_path: Path, litestream: str) -> Iterator[Scene]:
    ours = request.param == "vfsstream"
    made = Scene(tmp_path, [sys.executable, "-m", "vfsstream"] if ours else [litestream], ours=ours)
    yield made
    made.writer.close()


def name_of(txid: int) -> str:
    return f"{txid:016x}-{txid:016x}.ltx"


def test_recovery_from_a_lost_local_file_ruins_the_chain(scene: Scene) -> None:
    """There: automatic recovery begins again at TXID 1, and appends files of another history to the replica."""
    scene.turn(snapshot=True)
    for _ in range(4):
        scene.write()
        scene.turn()
    newest = newest_txid(scene.replica)
    for txid in range(newest - 1, newest + 1):
        (scene.replica / "ltx" / "0" / name_of(txid)).unlink()
    (scene.level0() / name_of(newest - 1)).unlink()
    scene.write()
    options = "" if scene.ours else "      auto-recover: true\n"
    with scene.replicating(options=options):
        for _ in range(newest + 3):
            scene.write(1)
            time.sleep(0.2)
        scene.give(1.5)
    assert scene.restores() is scene.ours


def test_a_change_of_the_page_size_stops_it_for_ever(scene: Scene) -> None:
    scene.turn()
    for statement in ("journal_mode=delete", "page_size=8192"):
        scene.writer.execute(f"PRAGMA {statement}")
    scene.writer.execute("VACUUM")
    scene.writer.execute("PRAGMA journal_mode=wal")
    scene.write()
    scene.short_turn()
    scene.write()
    scene.short_turn()
    assert scene.restores() is scene.ours


def test_a_restore_to_a_time_stops_at_a_gap_without_a_word(scene: Scene) -> None:
    for _ in range(5):
        scene.write()
        scene.turn()
    (scene.replica / "ltx" / "0" / name_of(3)).unlink()
    wanted = ("restore", "-timestamp", "2100-01-01T00:00:00Z")
    if scene.ours:
        scene.run(*wanted, "-o", scene.target, f"file://{scene.replica}")
    config = scene.root / "restore.yml"
    config.write_text(f"dbs:\n  - path: {scene.path}\n    replica:\n      url: file://{scene.replica}\n")
    answer = scene.run(*wanted, "-o", scene.target, "-config", config, scene.path)
    if scene.ours:
        assert answer.returncode != 0
        assert "0000000000000002" in answer.stderr
        assert not scene.target.exists()
    else:
        assert answer.returncode == 0
        assert contents(scene.target) != contents(scene.writer)


def test_two_histories_are_mixed_in_one_replica(scene: Scene) -> None:
    scene.turn()
    other = scene.root / "other" / "app.db"
    other.parent.mkdir()
    writer = connect(other)
    writer.execute("CREATE TABLE somebody(elses)")
    with scene.replicating(url=f"file://{scene.root}/elsewhere", path=other):
        for number in range(4):
            writer.execute("INSERT INTO somebody VALUES(randomblob(9000))")
            wait_until(lambda number=number: newest_txid(scene.root / "elsewhere") > number, "it has a history")  # type: ignore[misc]
    with scene.replicating(path=other):
        writer.execute("INSERT INTO somebody VALUES('appended to a history that is not its own')")
        if scene.ours:
            wait_until(lambda: "another" in scene.log(), "it sees whose replica this is")
        else:
            time.sleep(3)
    writer.close()
    if scene.ours:
        assert "another" in scene.log()
        assert scene.answer != 0
    assert scene.restores() is scene.ours, "the first one's data is intact, and only with ours"


def test_a_damaged_newest_local_file_stops_it_for_ever(scene: Scene) -> None:
    scene.turn()
    scene.write()
    scene.turn()
    newest = scene.level0() / name_of(newest_txid(scene.replica))
    newest.write_bytes(newest.read_bytes()[:60])
    scene.write()
    scene.short_turn()
    assert scene.restores() is scene.ours


def test_a_wiped_replica_gets_nothing_but_snapshots(scene: Scene) -> None:
    """There: no commit arrives any more until the next snapshot, at midnight."""
    for _ in range(3):
        scene.turn()
        scene.write()
    with scene.replicating():
        wait_until(lambda: newest_txid(scene.replica) >= 4, "the last write is replicated")
    shutil.rmtree(scene.replica)
    for path in sorted(scene.level0().iterdir())[:-1]:  # as local retention has it after a while
        path.unlink()
    scene.write()
    with scene.replicating():
        wait_until(scene.has_snapshot, "there, too, the first thing is a snapshot")
        scene.write()
        scene.give(2)
    assert scene.restores() is scene.ours


@pytest.mark.soak
def test_the_window_of_moments_to_return_to_collapses(scene: Scene) -> None:
    """There: the retention period is what may be left of it, down to nothing, whenever a snapshot was written."""
    timetable = (
        "levels: [{interval: 500ms}]\nsnapshot: {interval: 2s, retention: 2s}\nl0-retention: 1s\n"
        "l0-retention-check-interval: 500ms\n"
    )
    snapshots = scene.replica / "ltx" / "9"
    shortest = 100.0
    with scene.replicating(globals_=timetable):
        begun = time.time()
        end = time.monotonic() + 60
        while time.time() < begun + 9 and time.monotonic() < end:
            scene.write(1)
            time.sleep(0.05)
            times = [path.stat().st_mtime for path in list(snapshots.glob("*.ltx")) if path.exists()]
            if times and time.time() > begun + 6:
                shortest = min(shortest, time.time() - min(times))
    assert (shortest >= 2.0) is scene.ours, shortest


def test_following_cannot_be_resumed_beyond_the_newest_snapshot(scene: Scene) -> None:
    scene.turn(snapshot=True)
    scene.write()
    scene.turn()

    def follow() -> int | None:
        command = [*scene.program, "restore", "-f", "-follow-interval", "100ms", "-o", str(scene.target)]
        process = subprocess.Popen(
            [*command, f"file://{scene.replica}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=scene.environment(),
        )
        try:
            beside = Path(f"{scene.target}-txid")

            def arrived() -> bool:
                return beside.exists() and int(beside.read_text(), 16) == newest_txid(scene.replica)

            wait_until(lambda: process.poll() is not None or arrived(), "the follower is there")
            time.sleep(1)
            return process.poll()
        finally:
            process.terminate()
            process.wait(60)

    assert follow() is None
    scene.write()
    scene.turn()
    assert (follow() is None) is scene.ours


def test_force_removes_the_target_before_it_knows(scene: Scene) -> None:
    scene.turn()
    assert scene.restores()
    answer = scene.run("restore", "-force", "-txid", f"{99:016x}", "-o", scene.target, f"file://{scene.replica}")
    assert answer.returncode != 0
    assert scene.target.exists() is scene.ours


def test_a_stale_log_is_replayed_into_what_was_restored(scene: Scene) -> None:
    scene.turn()
    scene.write()
    saved = scene.root / "stale-wal"
    shutil.copyfile(f"{scene.path}-wal", saved)
    clear(scene.target)
    shutil.copyfile(saved, f"{scene.target}-wal")
    answer = scene.run("restore", "-o", scene.target, f"file://{scene.replica}")
    if scene.ours:
        assert answer.returncode != 0
        assert "restored.db-wal" in answer.stderr
        assert not scene.target.exists()
        return
    assert answer.returncode == 0
    restored = connect(scene.target)
    (rows,) = restored.execute("SELECT count(*) FROM t").fetchone()  # type: ignore[misc]
    restored.close()
    assert rows > 30, "rows that never were in the replica"


def test_it_exits_with_success_although_the_data_is_not_replicated(scene: Scene) -> None:
    scene.turn()
    shutil.rmtree(scene.replica)
    scene.replica.write_text("in the way")
    scene.write()
    with scene.replicating():
        if scene.ours:
            wait_until(lambda: "in the way" in scene.log() or str(scene.replica) in scene.log(), "it complains")
        time.sleep(2)
    assert (scene.answer != 0) is scene.ours


def test_nothing_is_captured_while_the_replica_is_away_at_the_start(scene: Scene) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"s3://bucket/app?endpoint=http://127.0.0.1:{unused.getsockname()[1]}&forcePathStyle=true&region=r"
        captured: Callable[[], bool] = lambda: any(scene.level0().glob("*.ltx"))  # noqa: E731
        with scene.replicating(url=url) as process:
            if scene.ours:
                wait_until(captured, "capture goes on")
            else:
                time.sleep(4)
                assert not captured()
            assert process.poll() is None
            process.kill()
