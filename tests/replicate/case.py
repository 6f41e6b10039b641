"""The scene of most tests of failures: an application's database, a folder as replica, and a remote to switch off."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.replicate.live import connect, contents, restore_ours
from vfsstream.errors import StoreError
from vfsstream.replica import Replica
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Event, FullImage
from vfsstream.replicate.localfiles import meta_path_for
from vfsstream.replicate.replicator import once
from vfsstream.replicate.settings import Settings
from vfsstream.stores.memory import MemoryStore


class Case:
    """An application's database and a folder as replica."""

    def __init__(self, root: Path) -> None:
        self.root, self.path, self.replica = root, root / "app.db", root / "replica"
        self.target = root / "restored.db"
        self.events: list[Event] = []
        self.writer = connect(self.path)
        self.writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        self.write(20)

    def write(self, rows: int = 5) -> None:
        for _ in range(rows):
            self.writer.execute("INSERT INTO t(x) VALUES(randomblob(1500))")

    def database(self, **settings: object) -> Database:
        made = Database(
            self.path,
            f"file://{self.replica}",
            settings=Settings(**settings),  # type: ignore[arg-type]
            observer=self.events.append,
        )
        made.open()
        return made

    def turn(self, **settings: object) -> None:
        with self.database(**settings) as database:
            once(database)

    @property
    def level0(self) -> Path:
        return meta_path_for(self.path) / "ltx" / "0"

    def newest_local(self) -> Path:
        return max(self.level0.glob("*.ltx"))

    def reasons(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, FullImage)]

    def same(self) -> None:
        assert contents(restore_ours(self.replica, self.target)) == contents(self.writer)

    def lapse(self) -> None:
        """The lease of whoever wrote to the replica last has run out."""
        (self.replica / "lock.json").unlink(missing_ok=True)

    def crash(self, database: Database, *, keep_local_state: bool = True) -> None:
        """The replicator is gone without a last upload, perhaps with all that it knew."""
        with database._capture_lock:
            database._close_local()
        if not keep_local_state:
            shutil.rmtree(meta_path_for(self.path))
            self.lapse()


class Flaky:
    """A remote that can be switched off."""

    def __init__(self) -> None:
        self.up = True
        self.store = MemoryStore(fault=self.fault)
        self.replica = Replica(self.store)

    def fault(self, operation: str, key: str) -> None:
        if not self.up:
            raise StoreError("the remote is away", retryable=True)
