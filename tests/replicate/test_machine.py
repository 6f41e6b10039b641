"""Everything at once: writers, checkpoints of others, crashes, restarts, an unreliable remote; and restores.

A shadow remembers the digest of every committed state. Whatever is restored must be one of them, the state of a
TXID that was acknowledged must be exactly the one at its acknowledgement, and nothing acknowledged may be missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.replicate.live import connect, contents
from vfsstream.errors import DatabaseError, NotRestorable, StoreError
from vfsstream.plan import FileInfo, restore_plan
from vfsstream.replica import Replica
from vfsstream.replicate.database import Database
from vfsstream.replicate.replicator import ensure_base
from vfsstream.replicate.restore import restore
from vfsstream.replicate.settings import Settings
from vfsstream.stores.memory import MemoryStore

POINTS = [
    *("capture:encoded", "capture:published", "capture:recorded"),
    *("checkpoint:sealed", "checkpoint:released"),
    *("upload:before-put", "upload:after-put"),
]
SETTINGS = Settings(min_checkpoint_pages=60, truncate_pages=150, max_sync_wal_bytes=200_000, upload_concurrency=2)


class Crash(BaseException):
    """The process is gone."""


class ReplicatorMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="vfsstream-machine-"))
        self.path = self.root / "app.db"
        self.store = MemoryStore(fault=self.fault)
        self.replica = Replica(self.store)
        self.remote_is_up = True
        self.crash_at: str | None = None
        self.readers: list[apsw.Connection] = []
        self.database: Database | None = None
        self.states: set[str] = set()
        self.acknowledged: dict[int, str] = {}
        self.holes = False
        self.unmet = False  # numbers given without local state are provisional until the replica was seen
        self.writer = connect(self.path)

    @initialize(page_size=st.sampled_from([512, 4096, 65536]))
    def begin(self, page_size: int) -> None:
        self.writer.close()
        self.path.unlink()
        self.writer = connect(self.path, page_size=page_size)
        self.change("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        self.start()

    def fault(self, operation: str, key: str) -> None:
        if not self.remote_is_up:
            raise StoreError("the remote is away", retryable=True)

    def at_point(self, point: str) -> None:
        if point == self.crash_at:
            raise Crash

    def change(self, sql: str, *values: object) -> None:
        with contextlib.suppress(apsw.BusyError):
            self.writer.execute(sql, values)
        self.states.add(contents(self.writer))

    # --- the application

    @rule(rows=st.integers(1, 30), size=st.sampled_from([10, 900, 6000]))
    def insert(self, rows: int, size: int) -> None:
        with self.writer:
            for _ in range(rows):
                self.writer.execute("INSERT INTO t(x) VALUES(randomblob(?))", (size,))
        self.states.add(contents(self.writer))

    @rule(step=st.integers(2, 7))
    def update(self, step: int) -> None:
        self.change("UPDATE t SET x=randomblob(length(x)) WHERE id % ? = 0", step)

    @rule(step=st.integers(1, 4))
    def delete(self, step: int) -> None:
        self.change("DELETE FROM t WHERE id % ? = 0", step)

    @rule()
    def vacuum(self) -> None:
        if not self.readers:
            self.change("VACUUM")

    @rule(rows=st.integers(1, 40))
    def roll_back(self, rows: int) -> None:
        self.writer.execute("PRAGMA cache_size=5")
        self.writer.execute("BEGIN")
        for _ in range(rows):
            self.writer.execute("INSERT INTO t(x) VALUES(randomblob(3000))")
        self.writer.execute("ROLLBACK")

    @rule(mode=st.sampled_from(["PASSIVE", "FULL", "RESTART", "TRUNCATE"]))
    def checkpoint_by_the_application(self, mode: str) -> None:
        self.writer.set_busy_timeout(1)
        with contextlib.suppress(apsw.BusyError):
            self.writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        self.writer.set_busy_timeout(10_000)

    @rule()
    def open_reader(self) -> None:
        if len(self.readers) < 2:
            reader = connect(self.path)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM t").fetchall()
            self.readers.append(reader)

    @rule()
    def close_readers(self) -> None:
        for reader in self.readers:
            reader.close()
        self.readers.clear()

    @precondition(lambda self: not self.readers)
    @rule()
    def reopen_the_application(self) -> None:
        self.writer.close()
        self.writer = connect(self.path)

    @precondition(lambda self: self.database is None and not self.readers)
    @rule()
    def replace_the_database_by_a_copy(self) -> None:
        copy = self.root / "copy.db"
        copy.unlink(missing_ok=True)
        self.writer.execute("VACUUM INTO ?", (str(copy),))
        self.writer.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        os.replace(copy, self.path)
        self.writer = connect(self.path)
        self.states.add(contents(self.writer))

    @precondition(lambda self: self.database is not None and self.remote_is_up)
    @rule(data=st.data(), sync_before=st.booleans(), clean=st.booleans())
    def downtime(self, data: st.DataObject, sync_before: bool, clean: bool) -> None:
        """The replicator is away while the application goes through laps of its own."""
        assert self.database is not None
        if sync_before:
            self.insert(60, 500)
            self.replicate()
        if clean:
            self.stop()
        else:
            self.database._close_local()
            self.database = None
        for _ in range(data.draw(st.integers(1, 4), "laps")):
            for _ in range(data.draw(st.integers(0, 3), "changes")):
                self.change("UPDATE t SET x=randomblob(20) WHERE id=?", data.draw(st.integers(1, 60), "id"))
            if data.draw(st.booleans(), "grow"):
                self.change("INSERT INTO t(x) VALUES(randomblob(9000))")
            if data.draw(st.integers(0, 3), "checkpoint"):
                self.checkpoint_by_the_application("PASSIVE")
        self.start()
        self.replicate()
        assert self.database is not None
        self.check_restored(int(self.database.position))

    # --- the replicator

    @precondition(lambda self: self.database is None)
    @rule()
    def start(self) -> None:
        self.database = Database(self.path, self.replica, settings=SETTINGS, at_point=self.at_point)
        self.database.open()

    @precondition(lambda self: self.database is not None)
    @rule()
    def stop(self) -> None:
        assert self.database is not None
        self.database.interrupt()
        result = self.database.close()
        if result.uploaded:
            self.acknowledged[int(result.position)] = contents(self.writer)
        self.database = None

    @precondition(lambda self: self.database is not None)
    @rule()
    def sync(self) -> None:
        assert self.database is not None
        position = int(self.database.sync())
        if not self.unmet:
            self.acknowledge(position)

    @precondition(lambda self: self.database is not None)
    @rule()
    def step(self) -> None:
        assert self.database is not None
        self.database.step()

    @precondition(lambda self: self.database is not None)
    @rule(wait=st.booleans())
    def checkpoint(self, wait: bool) -> None:
        assert self.database is not None
        if not (wait and self.readers):
            self.database.checkpoint(wait_for_readers=wait)

    @precondition(lambda self: self.database is not None and self.remote_is_up)
    @rule()
    def replicate(self) -> None:
        assert self.database is not None
        position = int(self.database.sync_and_wait(5))
        self.unmet = False
        ensure_base(self.database)
        assert self.database.replica_position == position
        self.acknowledge(position)

    def acknowledge(self, position: int) -> None:
        known = self.acknowledged.setdefault(position, contents(self.writer))
        assert known == contents(self.writer), f"TXID {position} stands for two states"

    @precondition(lambda self: self.database is not None and self.crash_at is None)
    @rule(point=st.sampled_from(POINTS), act=st.sampled_from(["sync", "checkpoint", "upload"]))
    def crash(self, point: str, act: str) -> None:
        assert self.database is not None
        self.crash_at = point
        try:
            if act == "checkpoint":
                self.database.checkpoint()
            else:
                self.database.sync()
            if act == "upload":
                self.database.upload()
        except (Crash, DatabaseError, StoreError):
            pass
        finally:
            self.crash_at = None
            with self.database._capture_lock:
                self.database._close_local()
            self.database = None

    @rule(up=st.booleans())
    def remote(self, up: bool) -> None:
        self.remote_is_up = up

    @precondition(lambda self: self.database is not None)
    @rule(data=st.data())
    def forget_local_files(self, data: st.DataObject) -> None:
        assert self.database is not None
        self.database.forget_local(data.draw(st.integers(0, 50)))

    @precondition(lambda self: self.database is None)
    @rule(what=st.sampled_from(["state.json", "pages.base", "pages.journal"]))
    def lose_a_hint(self, what: str) -> None:
        (self.root / ".app.db-litestream" / "vfsstream" / what).unlink(missing_ok=True)

    @property
    def meta(self) -> Path:
        return self.root / ".app.db-litestream"

    @precondition(lambda self: self.database is None)
    @rule()
    def lose_the_local_state(self) -> None:
        """What was captured and not uploaded is gone; its numbers are given anew."""
        shutil.rmtree(self.meta, ignore_errors=True)
        up, self.remote_is_up = self.remote_is_up, True
        self.store.delete(["lock.json"])  # the lease of before has run out meanwhile
        self.remote_is_up = up
        self.unmet = True
        self.forget_what_is_not_uploaded()

    @precondition(lambda self: self.database is None)
    @rule(data=st.data(), size=st.integers(0, 300))
    def damage_a_local_file(self, data: st.DataObject, size: int) -> None:
        files = sorted((self.meta / "ltx" / "0").glob("*.ltx"))
        if files:
            chosen = data.draw(st.sampled_from(files))
            if data.draw(st.booleans(), "truncate"):
                os.truncate(chosen, min(size, max(0, chosen.stat().st_size - 1)))
            else:
                chosen.unlink()
            self.holes = True
            self.forget_what_is_not_uploaded()

    def forget_what_is_not_uploaded(self) -> None:
        reached = max((int(info.max_txid) for level in (0, 9) for info in self.everything(level)), default=0)
        self.acknowledged = {txid: state for txid, state in self.acknowledged.items() if txid <= reached}

    @precondition(lambda self: self.database is None and not self.readers)
    @rule(page_size=st.sampled_from([512, 4096, 65536]))
    def change_the_page_size(self, page_size: int) -> None:
        for statement in ("PRAGMA journal_mode=delete", f"PRAGMA page_size={page_size}", "VACUUM"):
            self.writer.execute(statement)
        self.writer.execute("PRAGMA journal_mode=wal")

    @precondition(lambda self: self.database is not None and self.remote_is_up)
    @rule()
    def upload_without_a_base(self) -> None:
        assert self.database is not None
        with contextlib.suppress(StoreError):  # a damaged file was found; the next contact goes on without it
            self.database.upload()

    # --- the proof

    @precondition(lambda self: self.remote_is_up)
    @rule(data=st.data())
    def restore_somewhere(self, data: st.DataObject) -> None:
        infos = list(self.replica.files(0))
        if infos:
            chosen = int(data.draw(st.sampled_from(infos)).max_txid)
            if self.leads_to(chosen):
                self.check_restored(chosen)

    def leads_to(self, txid: int) -> bool:
        """After the loss of local files a file may wait for the snapshot that leads beyond the hole."""
        if not self.holes:
            return True
        try:
            restore_plan(self.replica.all_files(), txid=txid)
        except NotRestorable:
            return False
        return True

    def check_restored(self, txid: int) -> None:
        target = self.root / "restored.db"
        target.unlink(missing_ok=True)
        restore(self.replica, target, txid=txid, integrity_check="full")
        found = contents(target)
        assert found in self.states, f"TXID {txid} restores to a state that never was"
        if txid in self.acknowledged:
            assert found == self.acknowledged[txid], f"TXID {txid} restores to another state than acknowledged"

    @invariant()
    def level_0_is_contiguous(self) -> None:
        txids = [int(info.min_txid) for info in self.everything(0)]
        if self.database is not None and not self.holes and (reached := self.database.replica_position):
            have = set(txids)
            assert all(txid in have for txid in range(1, int(reached) + 1))

    def everything(self, level: int) -> list[FileInfo]:
        up, self.remote_is_up = self.remote_is_up, True
        try:
            return list(self.replica.files(level))
        finally:
            self.remote_is_up = up

    def teardown(self) -> None:
        try:
            self.remote_is_up = True
            self.crash_at = None
            if self.database is None:
                self.start()
            self.replicate()
            assert self.database is not None
            self.check_restored(int(self.database.position))
            self.stop()
        finally:
            self.close_readers()
            if self.database is not None:
                self.database._close_local()
            self.writer.close()
            shutil.rmtree(self.root, ignore_errors=True)


CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def test_the_machine() -> None:
    profile = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=CHECKS)
    run_state_machine_as_test(ReplicatorMachine, settings=profile)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_machine_for_long() -> None:
    examples = int(os.environ.get("VFSSTREAM_SOAK_EXAMPLES", "1500"))
    profile = settings(max_examples=examples, stateful_step_count=80, deadline=None, suppress_health_check=CHECKS)
    run_state_machine_as_test(ReplicatorMachine, settings=profile)
