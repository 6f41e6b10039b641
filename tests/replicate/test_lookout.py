"""Finding what has something to capture: nothing is missed, whatever the kernel tells or does not tell."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from tests.replicate.test_service import connect, eventually, insert
from vfsstream.replicate.database import Database
from vfsstream.replicate.directorytime import directory_of
from vfsstream.replicate.lookout import Lookout
from vfsstream.replicate.pacing import LINGER, Attention, after_look, pause_untold, round_for
from vfsstream.replicate.service import Service
from vfsstream.replicate.servicestatus import ServiceSettings
from vfsstream.replicate.watching import Alarm

# --- pure -----------------------------------------------------------------------------------------------------


def test_after_a_sign_looks_come_at_growing_pauses_and_then_it_is_left_to_the_kernel() -> None:
    attention = Attention()
    attention.told(100.0)
    now, pauses = 100.0, []
    while (pause := after_look(attention, now, 0.01, armed=True)) is not None:
        pauses.append(pause)
        now += pause
    assert pauses[0] == 0.001
    assert pauses == sorted(pauses)
    assert max(pauses) == 0.01
    assert LINGER <= now - 100.0 < LINGER + 0.02
    assert len(pauses) < 30


def test_what_the_kernel_does_not_tell_is_looked_at_all_the_time() -> None:
    attention = Attention(sign_at=100.0)
    assert after_look(attention, 101.0, 0.01, armed=False) == pytest.approx(0.01)
    assert after_look(attention, 200.0, 0.01, armed=False) == pytest.approx(0.1)
    assert after_look(attention, 200.0, 0.01, armed=True) is None
    attention.missed(200.0)
    assert after_look(attention, 300.0, 0.01, armed=True) is None, "once may be a write that was under way"
    attention.missed(300.0)
    assert after_look(attention, 400.0, 0.01, armed=True) == pytest.approx(0.1), (
        "twice is a kernel that tells nothing"
    )
    attention.told(400.0)
    assert after_look(attention, 500.0, 0.01, armed=True) is None


def test_what_has_to_wait_is_not_looked_at_meanwhile() -> None:
    assert after_look(Attention(sign_at=100.0), 100.0, 0.01, armed=False, held=0.7) == 0.7


def test_an_untold_database_is_looked_at_less_often_when_it_is_quiet() -> None:
    assert pause_untold(1.0, 0.01) == pytest.approx(0.01)
    assert pause_untold(100.0, 0.01) == pytest.approx(0.1)


@pytest.mark.parametrize(("intervals", "expected"), [([], 1.0), ([5.0, 0.4], 0.4), ([0.01], 0.1), ([60.0], 1.0)])
def test_the_round_obeys_the_shortest_interval_without_a_flood(intervals: list[float], expected: float) -> None:
    assert round_for(intervals) == expected


# --- with real databases --------------------------------------------------------------------------------------


@contextmanager
def opened(tmp_path: Path, name: str = "a.db") -> Iterator[tuple[Database, apsw.Connection]]:
    writer = connect(tmp_path / name)
    database = Database(tmp_path / name, f"file://{tmp_path}/replica-{name}")
    database.open()
    database.step()
    yield database, writer
    database.close()
    writer.close()


def rest(lookout: Lookout[str], seconds: float) -> list[str]:
    """What becomes due within a time, with captures done as a scheduler would."""
    found: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found += lookout.due()
    return found


def settle(lookout: Lookout[str], database: Database) -> None:
    """Until the lookout sleeps up to its round."""
    lookout.watch([(database, "a")])
    end = time.monotonic() + 30
    while not (lookout._posts and not lookout._lively):
        assert time.monotonic() < end
        if lookout.due():
            database.step_capture()
            lookout.stir(database)


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="inotify is Linux's")
def test_a_commit_is_found_long_before_the_round(tmp_path: Path) -> None:
    with opened(tmp_path) as (database, writer):
        lookout: Lookout[str] = Lookout(0.01, 3600.0)
        settle(lookout, database)
        insert(writer)
        end = time.monotonic() + 30
        found: list[str] = []
        while not found and time.monotonic() < end:
            found = lookout.due()
        assert found == ["a"]
        lookout.close()


def test_a_kernel_that_tells_nothing_delays_a_commit_by_one_round_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as (database, writer):
        # Watches are set, and no event ever comes: as on a file system that another kernel writes to.
        monkeypatch.setattr(Alarm, "arm", lambda self, path, item: True)
        lookout: Lookout[str] = Lookout(0.01, 0.2)
        settle(lookout, database)
        for misses in (1, 2):
            insert(writer)
            assert "a" in rest(lookout, 0.5)
            database.step_capture()
            assert lookout._posts[database].attention.misses == misses
            lookout.stir(database)
            rest(lookout, 0.5)
        assert lookout._lively, "after two such commits the kernel is not trusted any more"
        lookout.close()


def test_an_overflow_makes_everything_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as (database, writer):
        lookout: Lookout[str] = Lookout(0.01, 3600.0)
        settle(lookout, database)
        insert(writer)
        monkeypatch.setattr(lookout._alarm, "wait", lambda seconds: None)
        assert lookout.due() == ["a"]
        lookout.close()


def test_a_commit_between_the_last_look_and_the_watch_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as (database, writer):
        lookout: Lookout[str] = Lookout(0.01, 3600.0)
        arm = Alarm.arm

        def late(self: Alarm[object], path: str, item: object) -> bool:
            insert(writer)
            return arm(self, path, item)

        monkeypatch.setattr(Alarm, "arm", late)
        lookout.watch([(database, "a")])
        found: list[str] = []
        end = time.monotonic() + 30
        while not found and time.monotonic() < end:
            found = lookout.due()
        assert found == ["a"]
        lookout.close()


def test_a_database_that_is_let_go_is_not_looked_at(tmp_path: Path) -> None:
    with opened(tmp_path) as (database, writer):
        lookout: Lookout[str] = Lookout(0.01, 0.05)
        settle(lookout, database)
        lookout.watch([])
        insert(writer)
        assert rest(lookout, 0.2) == []
        lookout.close()


def reached(service: Service, wanted: Mapping[str, int]) -> bool:
    positions = service.positions()
    return all(positions.get(path, 0) >= txid for path, txid in wanted.items())


def test_a_new_database_is_looked_at_at_once_and_the_others_are_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as (database, _), opened(tmp_path, "b.db") as (other, writer):
        lookout: Lookout[str] = Lookout(0.01, 3600.0)
        settle(lookout, database)
        looks: list[object] = []
        database.poll_capture = lambda **how: bool(looks.append(how))  # type: ignore[method-assign]
        insert(writer)
        lookout.watch([(database, "a"), (other, "b")])
        assert lookout.due() == ["b"]
        assert looks == [], "registering a thousand would cost half a million looks"
        del database.poll_capture
        lookout.close()


@pytest.mark.parametrize("kernel", [True, False])
def test_a_service_replicates_with_and_without_the_kernels_help(tmp_path: Path, kernel: bool) -> None:
    paths = [tmp_path / f"{number}.db" for number in range(5)]
    writers = [connect(path) for path in paths]
    with Service(ServiceSettings(kernel_events=kernel)) as service:
        for path in paths:
            service.register(path, f"file://{tmp_path}/replica/{path.stem}")
        for _ in range(3):
            for writer in writers:
                insert(writer)
            wanted = {str(path): service.sync(path, wait=False) for path in paths}
            eventually(lambda wanted=wanted: reached(service, wanted), "all in the replicas")  # type: ignore[misc]
        before = service.positions()
        for writer in writers:
            insert(writer)
        eventually(lambda: reached(service, {path: txid + 1 for path, txid in before.items()}), "unasked too")
    for writer in writers:
        writer.close()


def test_an_unexpected_failure_does_not_end_the_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([OSError("no more of it")])
    wait = Alarm.wait

    def failing(self: Alarm[object], seconds: float) -> list[object] | None:
        for failure in failures:
            raise failure
        return wait(self, seconds)

    monkeypatch.setattr(Alarm, "wait", failing)
    writer = connect(tmp_path / "a.db")
    with Service() as service:
        service.register(tmp_path / "a.db", f"file://{tmp_path}/replica")
        insert(writer)
        eventually(lambda: service.positions().get(str(tmp_path / "a.db"), 0) > 0, "it goes on")
    assert "looking for work failed" in caplog.text
    writer.close()


# --- exchanged files ------------------------------------------------------------------------------------------


def test_while_a_directory_keeps_its_time_no_entry_was_exchanged(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "a.db").write_bytes(b"a")
    directory = directory_of(place / "a.db")
    assert directory is directory_of(place / "b.db")
    assert directory.mark(1000.0) is None, "changed just now: the same time may stand for two changes"
    os.utime(place, (1_000_000_000, 1_000_000_000))
    mark = directory.mark(1001.0)
    assert mark is not None
    with open(place / "a.db", "ab") as file:
        file.write(b"written to")
    assert directory.mark(1002.0) == mark
    (place / "new").write_bytes(b"b")
    os.replace(place / "new", place / "a.db")
    assert directory.mark(1003.0) != mark
    (tmp_path / "link").symlink_to(place / "a.db")
    assert directory_of(tmp_path / "link").mark(1003.0) is None, "it can be exchanged elsewhere"


def test_an_idle_database_asks_for_its_files_only_when_the_directory_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with opened(place) as (database, _):
        assert database._source is not None
        asked: list[object] = []
        real = database._source.changed_underneath
        monkeypatch.setattr(database._source, "changed_underneath", lambda: asked.append(1) or real())
        database.step_capture()
        os.utime(place, (1_000_000_000, 1_000_000_000))
        asked.clear()
        for _ in range(5):
            time.sleep(0.25)
            assert not database.poll_capture(thorough=True)
        assert len(asked) == 1
        (place / "a.db").rename(place / "gone.db")
        time.sleep(0.25)
        assert database.poll_capture(thorough=True), "the database went away"
        (place / "gone.db").rename(place / "a.db")
