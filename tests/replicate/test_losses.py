"""Somebody deletes files of the replica while we run: noticed by itself, soon, and repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from tests.replicate.killed_service import fast
from tests.replicate.live import connect, contents, wait_until
from vfsstream.errors import MissingError
from vfsstream.replica import Replica
from vfsstream.replicate.events import Event
from vfsstream.replicate.restore import restore
from vfsstream.replicate.service import Service
from vfsstream.replicate.servicestatus import ServiceSettings
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.timetable import FilesLost, MaintenanceSettings
from vfsstream.stores.memory import MemoryStore


class Scene:
    """A service that replicates one database into a store in memory."""

    def __init__(self, root: Path, maintenance: MaintenanceSettings) -> None:
        self.path, self.target = root / "app.db", root / "restored.db"
        self.writer: apsw.Connection = connect(self.path)
        self.writer.execute("CREATE TABLE t(x)")
        self.store = MemoryStore()
        self.events: list[Event] = []
        settings = ServiceSettings(maintenance=maintenance, database=Settings(lease=False))
        self.service = Service(settings, observer=self.events.append)
        self.service.register(self.path, lambda: Replica(self.store))
        self.service.start()

    def commit(self, rows: int = 3) -> None:
        for _ in range(rows):
            self.writer.execute("INSERT INTO t VALUES(randomblob(2000))")
        self.service.sync(self.path)

    def lose(self, choose: Callable[[list[str]], list[str]], lost: list[str] | None = None) -> None:
        with self.store._lock:
            keys = sorted(key for key in self.store._objects if key.endswith(".ltx"))
            for key in choose(keys):
                if lost is not None:
                    lost.append(key)
                del self.store._objects[key]

    def is_whole(self) -> bool:
        self.target.unlink(missing_ok=True)
        try:
            restore(Replica(self.store), self.target, integrity_check="quick")
        except MissingError:
            return False
        return contents(self.target) == contents(self.writer)

    def told(self) -> bool:
        return any(isinstance(event, FilesLost) for event in self.events)

    def close(self) -> None:
        self.service.close()
        self.writer.close()


slow = MaintenanceSettings(audit_interval=timedelta(seconds=0.3), idle_audit_interval=timedelta(0))


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    made = Scene(tmp_path, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("scene", [slow, replace(slow, levels=())], indirect=True)
@pytest.mark.parametrize("what", ["everything", "the newest", "the first"])
def test_while_the_database_changes(scene: Scene, what: str) -> None:
    for _ in range(3):
        scene.commit()
    choose = {"everything": slice(None), "the newest": slice(-1, None), "the first": slice(1)}[what]
    lost: list[str] = []
    scene.lose(lambda keys: [key for key in keys if "/0/" in key][choose] if what != "everything" else keys, lost)
    scene.commit()
    wait_until(scene.told, "the loss to be noticed")
    wait_until(scene.is_whole, "the repair")
    if what == "the newest":  # the local file is still there, so it takes no snapshot
        wait_until(lambda: lost[0] in scene.store._objects, "the same file again")
    scene.commit()
    assert scene.is_whole()


@pytest.mark.parametrize("scene", [replace(slow, idle_audit_interval=timedelta(seconds=0.5))], indirect=True)
def test_while_nothing_happens(scene: Scene) -> None:
    for _ in range(3):
        scene.commit()
    scene.lose(lambda keys: keys)
    wait_until(scene.told, "the loss to be noticed")
    wait_until(scene.is_whole, "the repair")


@pytest.mark.parametrize("scene", [replace(fast(), audit_interval=timedelta(seconds=0.3))], indirect=True)
def test_under_compaction_and_retention_nothing_is_taken_for_lost_and_a_wipe_is(scene: Scene) -> None:
    for _ in range(40):
        scene.commit()
    assert not scene.told()
    scene.lose(lambda keys: keys)
    scene.commit()
    wait_until(scene.told, "the loss to be noticed")
    wait_until(scene.is_whole, "the repair")
    for _ in range(10):
        scene.commit()
    wait_until(scene.is_whole, "the newest state")
