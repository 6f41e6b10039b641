"""The timetable of one replica, on clocks that we turn."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest

from tests.replicate.synthetic import Clock, Writer
from vfsstream.errors import AccessDenied, NotRestorable, StoreError, UsageError
from vfsstream.ltx import TXID, Decoder
from vfsstream.ltx.merging import merge_pages
from vfsstream.plan import FileInfo, restore_plan
from vfsstream.plan.retention import RetentionPolicy
from vfsstream.replica import Replica
from vfsstream.replicate.catalogue import Catalogue
from vfsstream.replicate.compactor import Compactor
from vfsstream.replicate.events import Event
from vfsstream.replicate.maintenance import Maintenance
from vfsstream.replicate.snapshot import take_snapshot
from vfsstream.replicate.timetable import (
    Compacted,
    FilesLost,
    MaintenanceFailed,
    MaintenanceSettings,
    ProblemsFound,
    Retired,
    SnapshotTaken,
)
from vfsstream.stores.memory import MemoryStore


class World:
    """A replica in memory, a writer and its maintenance."""

    def __init__(self, settings: MaintenanceSettings | None = None, kind: str = "memory") -> None:
        self.clock = Clock()
        self.store = MemoryStore(now=self.clock.wall)
        self.store.kind = kind  # type: ignore[misc]
        self.replica = Replica(self.store)
        self.writer = Writer(self.replica, self.clock)
        self.settings = settings or MaintenanceSettings()
        self.events: list[Event] = []
        self.restart()

    def restart(self) -> None:
        self.maintenance = Maintenance(
            self.writer,
            self.settings,
            observer=self.events.append,
            wall=self.clock.wall,
            monotonic=self.clock.monotonic,
        )
        self.writer.told = lambda info, full: self.maintenance.uploaded(info, full=full)

    def pass_time(self, seconds: float, step: float = 5.0, commit_every: float | None = None) -> None:
        """Let time go by; maintenance runs whenever it says that something is due."""
        since = 0.0
        while seconds > 0:
            self.clock.sleep(min(step, seconds))
            seconds -= step
            since += step
            if commit_every is not None and since >= commit_every:
                since = 0.0
                self.writer.commit({random.randrange(1, 21): random.randrange(256)})
            if self.maintenance.seconds_until_due() <= 0:
                self.maintenance.run()

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def files(self) -> dict[int, list[FileInfo]]:
        return self.replica.all_files()

    def content(self, plan: list[FileInfo]) -> dict[int, bytes]:
        _, pages = merge_pages([self.replica.stream(info) for info in plan])
        return {pgno: bytes(page) for pgno, page in pages}

    def check_latest(self) -> None:
        plan = restore_plan(self.files())
        assert plan[-1].max_txid == self.writer.position
        assert self.content(plan) == self.writer.states[int(self.writer.position)]


def test_an_hour_of_commits() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(3610, commit_every=10)
    files = world.files()
    (first,) = (e for e in world.of(SnapshotTaken))
    assert isinstance(first, SnapshotTaken)
    assert (first.way, int(first.info.max_txid)) == ("promoted", 1)
    assert world.writer.full_reads == 0
    assert [len(files[n]) for n in (1, 2, 3, 9)] == [120, 12, 1, 1]
    assert [int(files[n][0].min_txid) for n in (1, 2, 3)] == [2, 2, 2]  # the base is in one place
    assert 31 <= len(files[0]) <= 36  # five minutes of them, and the level-1 file that is half old
    for event in world.of(Compacted):
        assert isinstance(event, Compacted)
        assert event.at.second % 30 <= 8  # on the clock, but for the spread and our steps
    assert world.writer.forgotten >= world.writer.position - 6
    world.check_latest()


def test_notes_of_merged_files_stay_as_long_as_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy  # noqa: F401 - merges in bulk are the ones that note

    monkeypatch.setattr("vfsstream.replicate.pagesums.WORTH", 0)
    world = World(MaintenanceSettings(snapshot_interval=timedelta(hours=2)))
    world.writer.own_folder = tmp_path
    world.restart()
    world.writer.commit()
    world.pass_time(3610, commit_every=10)
    files = world.files()
    made = [info for level in (1, 2, 3, 9) for info in files[level]]
    notes = {f"{info.level}-{info.min_txid}-{info.max_txid}" for info in made}
    assert {path.name for path in (tmp_path / "sums").iterdir()} == notes
    world.pass_time(3 * 24 * 3600, step=60, commit_every=3600)
    left = [info for level in (1, 2, 3, 9) for info in world.files()[level]]
    assert not set(made) <= set(left)
    notes = {f"{info.level}-{info.min_txid}-{info.max_txid}" for info in left}
    assert {path.name for path in (tmp_path / "sums").iterdir()} == notes
    world.check_latest()


def test_a_snapshot_of_more_than_fits_in_memory_is_not_merged() -> None:
    world = World()
    world.writer.commit()
    world.writer.commit({1: 5})
    large = [FileInfo(TXID(n), TXID(n), 0, 1 << 20) for n in range(2, 60)]
    catalogue = Catalogue()
    catalogue.fill({0: large, 9: [FileInfo(TXID(1), TXID(1), 9, 1 << 20)]})
    world.store.calls.clear()
    info, way = take_snapshot(world.writer, Compactor(world.replica), catalogue)
    assert way == "database"
    (key,) = {key for operation, key in world.store.calls if operation == "get"}
    assert key == world.replica.key(info)  # read back


def test_an_idle_database_costs_nothing() -> None:
    world = World()
    world.writer.commit()
    for n in range(5):
        world.writer.commit({n + 1: 7})
    world.pass_time(3 * 3600)  # L3 has been made, level 0 is down to its newest
    assert [int(i.max_txid) for i in world.files()[0]] == [6]
    world.store.calls.clear()
    world.pass_time(5 * 24 * 3600, step=60)
    assert [operation for operation, _ in world.store.calls].count(
        "put"
    ) == 1  # the snapshot of the first midnight
    assert len([call for call in world.store.calls if call[0] != "list"]) <= 20
    world.store.calls.clear()
    world.pass_time(5 * 24 * 3600, step=60)
    assert {operation for operation, _ in world.store.calls} == {"list"}  # once a day: is it all there?
    assert len(world.store.calls) <= 6 * len([files for files in world.files().values() if files])


def test_requests_of_a_busy_minute() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(1500, commit_every=5)
    world.store.calls.clear()
    world.pass_time(60, commit_every=5)
    requests = [operation for operation, _ in world.store.calls]
    assert requests.count("list") <= 2 + 5  # is it all there? Once perhaps all levels
    assert requests.count("put") <= 12 + 2 + 1  # commits, level 1, perhaps level 2


def test_a_restart_does_not_compact_again() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(3600 + 40, commit_every=10)
    before = {level: len(files) for level, files in world.files().items() if level in (2, 3, 9)}
    world.restart()
    world.pass_time(10)
    assert {level: len(files) for level, files in world.files().items() if level in (2, 3, 9)} == before
    world.pass_time(24 * 3600, step=30, commit_every=600)
    assert len(world.files()[9]) == 2
    world.check_latest()


def test_a_snapshot_a_day_without_reading_the_database() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(4 * 24 * 3600, step=60, commit_every=1800)
    ways = [event.way for event in world.of(SnapshotTaken) if isinstance(event, SnapshotTaken)]
    assert ways == ["promoted"] + ["merged"] * 4
    assert world.writer.full_reads == 0
    for event in world.of(SnapshotTaken)[1:]:
        assert isinstance(event, SnapshotTaken)
        assert (event.at.hour, event.at.minute) in ((0, 0), (0, 1))


def test_in_a_remote_store_the_database_is_read_once_a_day() -> None:
    world = World(kind="gs")
    world.writer.commit()
    world.pass_time(3 * 24 * 3600, step=60, commit_every=1800)
    assert world.writer.full_reads == 3
    world.check_latest()


@pytest.mark.parametrize("kind", ["memory", "gs"])
def test_the_whole_window_is_restorable(kind: str) -> None:
    """Litestream's window collapses to nothing at midnight; ours never gets shorter than asked for."""
    policy = RetentionPolicy(l0=timedelta(minutes=5), snapshots=timedelta(hours=24))
    world = World(MaintenanceSettings(retention=policy), kind)
    world.writer.commit()
    world.pass_time(3 * 24 * 3600, step=60, commit_every=1200)
    for _ in range(40):
        world.pass_time(random.choice([60, 1800, 7200]), step=60, commit_every=1200)
        files = world.files()
        for hours in (24, 23.9, 18, 12, 6, 1):
            at = world.clock.at - timedelta(hours=hours)
            wanted = max(txid for txid, time in world.writer.times.items() if time < at)
            plan = restore_plan(files, timestamp=at)
            assert plan[-1].max_txid == wanted  # a commit every 20 minutes: each is a level-1 boundary
            assert world.content(plan) == world.writer.states[int(wanted)]
    assert 2 <= len(world.files()[9]) <= 3
    assert len(world.files()[1]) <= 4 * 72


def test_what_is_out_of_the_window_goes() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(6 * 24 * 3600, step=60, commit_every=1200)
    oldest = min(i.created_at for level in (1, 2, 9) for i in world.files()[level] if i.created_at)
    assert world.clock.at - oldest < timedelta(hours=24 * 3 + 1)


def test_a_gap_in_level_0_is_answered_with_a_snapshot_at_once() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(300, commit_every=10)
    lost = world.files()[0][-1]
    world.replica.delete([lost])
    world.pass_time(60, commit_every=10)
    taken = world.of(SnapshotTaken)
    assert isinstance(taken[-1], SnapshotTaken)
    assert taken[-1].way == "database"
    assert any(isinstance(event, MaintenanceFailed) for event in world.events)
    world.pass_time(600, commit_every=10)
    assert len(world.of(SnapshotTaken)) == len(taken)  # once
    assert world.maintenance.errors == {}
    world.check_latest()
    with pytest.raises(NotRestorable):
        restore_plan(world.files(), txid=int(lost.max_txid))


def test_a_wiped_replica_gets_a_new_base_at_once() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(600, commit_every=10)
    for files in world.files().values():
        world.replica.delete(files)
    world.writer.commit({1: 1})
    world.writer.needs_snapshot = True  # capture sees that its newest file is gone
    world.pass_time(5)
    assert len(world.of(SnapshotTaken)) == 2
    world.pass_time(600, commit_every=10)
    world.check_latest()
    assert not world.writer.needs_snapshot


@pytest.mark.parametrize(("level", "seconds"), [(0, 40), (9, 340)])
def test_a_loss_in_the_replica_of_a_busy_database_is_noticed_soon(level: int, seconds: int) -> None:
    world = World()
    world.writer.commit()
    world.pass_time(600, commit_every=10)
    lost = world.files()[level][-1]
    world.replica.delete([lost])
    world.pass_time(seconds, commit_every=10)
    told = world.of(FilesLost)
    assert [event.infos for event in told if isinstance(event, FilesLost)] == [(lost,)]
    assert world.writer.compared >= 1
    world.pass_time(60, commit_every=10)
    world.check_latest()


def test_a_loss_in_the_replica_of_an_idle_database_is_noticed_the_same_day() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(600, commit_every=10)
    world.pass_time(2 * 24 * 3600, step=60)
    lost = world.files()[9][-1]
    world.replica.delete([lost])
    world.pass_time(24 * 3600, step=60)
    told = world.of(FilesLost)
    assert [event.infos for event in told if isinstance(event, FilesLost)] == [(lost,)]
    world.check_latest()


def test_a_loss_that_retention_sees_first_is_told_too() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(600, commit_every=10)
    lost = [info for files in world.files().values() for info in files]
    world.replica.delete(lost)
    world.maintenance.enforce_retention()
    (told,) = world.of(FilesLost)
    assert isinstance(told, FilesLost)
    assert {*told.infos} == {*lost}
    assert world.writer.compared == 1
    world.pass_time(600, commit_every=10)
    assert len(world.of(FilesLost)) == 1
    world.check_latest()


def test_what_we_delete_ourselves_is_not_lost() -> None:
    world = World(MaintenanceSettings(audit_interval=timedelta(seconds=5)))
    world.writer.commit()
    world.pass_time(4 * 3600, step=30, commit_every=300)
    assert world.of(Retired)
    assert world.of(FilesLost) == []


def test_a_look_that_fails_is_made_again() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(300, commit_every=10)
    world.replica.delete(world.files()[0][-1:])
    world.store.fault = lambda operation, key: _away() if operation == "list" else None
    world.pass_time(60, commit_every=10)
    assert world.of(FilesLost) == []
    world.store.fault = None
    world.pass_time(60)
    assert len(world.of(FilesLost)) == 1


def test_no_snapshot_when_the_store_is_away_and_then_one() -> None:
    world = World()
    world.writer.commit()
    world.store.fault = lambda operation, key: _away() if "ltx/9" in key or operation == "list" else None
    world.pass_time(120, commit_every=10)
    assert set(world.maintenance.errors) >= {"level 9"}
    files = [i for level in (1, 9) for i in _quiet(world)[level]]
    assert files == []  # level 1 waits for the base
    world.store.fault = None
    world.pass_time(400, commit_every=10)
    assert world.maintenance.errors == {}
    failures = [e for e in world.events if isinstance(e, MaintenanceFailed)]
    assert len(failures) < 60
    world.check_latest()


def _away() -> None:
    raise StoreError("away", retryable=True)


def _quiet(world: World) -> dict[int, list[FileInfo]]:
    fault, world.store.fault = world.store.fault, None
    try:
        return world.files()
    finally:
        world.store.fault = fault


def test_objects_that_may_not_be_deleted_are_kept() -> None:
    world = World()
    denials: list[str] = []

    def fault(operation: str, key: str) -> None:
        if operation == "delete":
            denials.append(key)
            raise AccessDenied("locked")

    world.store.fault = fault
    world.writer.commit()
    world.pass_time(3000, commit_every=10)
    assert world.maintenance.errors == {}
    assert any(isinstance(e, Retired) and e.result.retained for e in world.events)
    assert len(world.files()[0]) == world.writer.position
    assert len(denials) <= 300  # each is tried once, and again only an hour later
    world.store.fault = None
    world.pass_time(2 * 3600, commit_every=10)
    assert len(world.files()[0]) < 40
    world.check_latest()


def test_nothing_is_deleted_because_of_a_file_that_is_damaged() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(270, commit_every=10)
    world.restart()  # what an earlier process wrote has to prove itself
    for info in world.files()[1]:
        data = bytearray(world.replica.fetch(info).data)
        data[150] ^= 255
        world.store.put(world.replica.key(info), bytes(data))
    before = world.files()[0]
    world.pass_time(900, step=5)
    assert [i for i in before[1:] if i not in world.files()[0]] == []  # (the base is in a sound snapshot)
    assert "level-0 retention" in world.maintenance.errors


def test_deletion_can_be_left_to_others() -> None:
    policy = RetentionPolicy(delete_remote=False)
    world = World(MaintenanceSettings(retention=policy))
    world.writer.commit()
    world.pass_time(3 * 24 * 3600, step=60, commit_every=3600)
    assert "delete" not in {operation for operation, _ in world.store.calls}
    assert world.writer.forgotten > 60  # local copies go all the same


def test_a_clock_that_steps_forward_deletes_nothing() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(2 * 24 * 3600, step=60, commit_every=1800)
    before = world.files()
    world.clock.at += timedelta(days=400)
    world.pass_time(600, step=5)
    after = world.files()
    assert set(before[9]) <= set(after[9])
    assert set(before[1]) <= set(after[1])
    world.clock.at -= timedelta(days=400)
    world.pass_time(600, commit_every=10)
    world.check_latest()


def test_a_clock_that_steps_back_stops_nothing() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(600, commit_every=10)
    world.clock.at -= timedelta(days=3)
    level_1 = len(world.files()[1])
    world.pass_time(600, commit_every=10)
    assert len(world.files()[1]) >= level_1 + 15
    world.check_latest()


def test_page_size_change_splits_and_gets_a_snapshot() -> None:
    world = World()
    world.writer.commit()
    world.pass_time(100, commit_every=10)
    from tests.replicate import synthetic

    old = synthetic.PAGE
    try:
        synthetic.PAGE = 1024
        world.writer.pages = {n: bytes([n]) * 1024 for n in range(1, 6)}
        world.writer.position = TXID(world.writer.position + 1)
        header = world.writer._header(int(world.writer.position))
        from vfsstream.ltx import encode

        info = world.replica.write(
            0,
            int(world.writer.position),
            int(world.writer.position),
            encode(header, sorted(world.writer.pages.items())),
            timestamp=header.timestamp,
        )
        world.writer.needs_snapshot = True
        world.maintenance.uploaded(info, full=True)
        world.pass_time(1)
        taken = world.of(SnapshotTaken)[-1]
        assert isinstance(taken, SnapshotTaken)
        assert (taken.way, taken.info.max_txid) == ("promoted", info.max_txid)
        world.writer.commit({2: 9})
        world.pass_time(600, step=5)
        sizes = [Decoder(world.replica.stream(i)).header.page_size for i in world.files()[1]]
        assert sizes == sorted(sizes)
        assert set(sizes) == {512, 1024}
        world.check_latest()
    finally:
        synthetic.PAGE = old


def test_one_shot_snapshot_and_retention() -> None:
    world = World()
    world.writer.commit()
    for n in range(3):
        world.writer.commit({n + 1: 9})
    made = world.maintenance.snapshot_now()
    assert made is not None
    assert (made.level, int(made.max_txid)) == (9, 4)
    assert world.maintenance.snapshot_now() is None
    world.clock.sleep(3600)
    assert world.maintenance.enforce_retention(dry_run=True) == []
    world.pass_time(3 * 24 * 3600, step=600, commit_every=3600)
    files = world.files()
    world.clock.sleep(3 * 24 * 3600)
    dry = world.maintenance.enforce_retention(dry_run=True)
    assert world.files() == files
    assert dry[0].deleted
    wet = world.maintenance.enforce_retention()
    assert wet[0].deleted == dry[0].deleted
    world.check_latest()


def test_validation_reports_what_it_sees() -> None:
    world = World(MaintenanceSettings(validation_interval=timedelta(minutes=10)))
    world.writer.commit()
    world.pass_time(900, commit_every=10)
    assert world.of(ProblemsFound) == []
    infos = world.files()[1]
    world.maintenance.catalogue.remove(infos[3:4])
    world.pass_time(900, step=5)
    found = world.of(ProblemsFound)
    assert found
    assert isinstance(found[0], ProblemsFound)
    assert found[0].problems[0].kind == "gap"


@pytest.mark.parametrize(
    "values",
    [
        {"levels": (timedelta(0),)},
        {"levels": (timedelta(1),) * 9},
        {"snapshot_interval": timedelta(0)},
        {"l0_check_interval": timedelta(-1)},
        {"audit_interval": timedelta(-1)},
    ],
)
def test_impossible_timetables(values: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        MaintenanceSettings(**values)  # type: ignore[arg-type]
