"""A copy under a name: nobody else's file is ever touched, and what is found is served only as far as it is proven."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import vfsstream
from tests.vfs.replicas import increment, make_database, snapshot
from tests.vfs.shim import view_of
from tests.vfs.test_hydrate import changed_pages, difference, done, hydrated, rows, wait_for
from vfsstream.errors import OptionError
from vfsstream.ltx import Header, encode
from vfsstream.replica import Replica
from vfsstream.stores.file import FileStore
from vfsstream.stores.memory import MemoryStore
from vfsstream.vfs.fetch import FetchEngine
from vfsstream.vfs.opening import read_plan_files
from vfsstream.vfs.options import Options
from vfsstream.vfs.pagemap import advance
from vfsstream.vfs.planning import incoming


@pytest.fixture
def pages(tmp_path: Path) -> list[bytes]:
    return make_database(tmp_path / "db", 3000, 1024)


def a_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (a)")
        db.execute("INSERT INTO mine VALUES ('precious')")
        db.commit()


def a_text(path: Path) -> None:
    path.write_text("dear diary\n")


def a_directory(path: Path) -> None:
    path.mkdir()


def a_link_to_a_database(path: Path) -> None:
    a_database(path.with_name("target"))
    path.symlink_to(path.with_name("target"))


def a_link_to_a_directory(path: Path) -> None:
    path.with_name("target").mkdir()
    path.symlink_to(path.with_name("target"))


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("target"))


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_partial_file(path: Path) -> None:
    path.with_name(path.name + "-partial").write_text("dear diary\n")


def a_state_file(path: Path) -> None:
    path.with_name(path.name + "-state").write_text("dear diary\n")


def a_journal(path: Path) -> None:
    path.with_name(path.name + "-journal").write_bytes(b"of a database that was moved away")


def a_wal(path: Path) -> None:
    path.with_name(path.name + "-wal").write_bytes(b"of a database that was moved away")


def a_few_rows_changed(tmp_path: Path, body: str) -> list[bytes]:
    """The pages after a change that leaves most of them as they were."""
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("UPDATE t SET body = ? WHERE id < 50", (body,))
        db.commit()
    data = (tmp_path / "db").read_bytes()
    return [data[n : n + 1024] for n in range(0, len(data), 1024)]


def everything_in(directory: Path) -> dict[str, object]:
    return {
        path.name: (path.lstat().st_ino, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in directory.iterdir()
    }


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (a_database, "an SQLite database that is no copy"),
        (a_text, "no copy"),
        (a_directory, "a directory"),
        (a_link_to_a_database, "symbolic link"),
        (a_link_to_a_directory, "symbolic link"),
        (a_link_to_nothing, "symbolic link"),
        (a_pipe, "not an ordinary file"),
        (a_partial_file, "copy.db-partial"),
        (a_state_file, "copy.db-state"),
        (a_journal, "copy.db-journal"),
        (a_wal, "copy.db-wal"),
    ],
)
def test_what_somebody_else_made_is_refused_untouched(
    tmp_path: Path, pages: list[bytes], make: Callable[[Path], None], found: str
) -> None:
    directory = tmp_path / "theirs"
    directory.mkdir()
    make(directory / "copy.db")
    before = everything_in(directory)
    with pytest.raises(OptionError, match=found) as caught:
        hydrated(snapshot(pages), directory / "copy.db")
    assert f"hydration_path={directory / 'copy.db'}" in str(caught.value)
    assert caught.value.hint
    assert everything_in(directory) == before


def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path, pages: list[bytes]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="hydration_path="):
        hydrated(snapshot(pages), tmp_path / "file" / "copy.db")


def test_the_refusal_reaches_who_opens_and_leaves_nothing_open(
    tmp_path: Path, pages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot(pages, store=FileStore(tmp_path / "replica"))
    a_text(tmp_path / "copy.db")
    closed: list[object] = []
    monkeypatch.setattr(FileStore, "close", lambda store: closed.append(store))
    with pytest.raises(OptionError, match="no copy"):
        vfsstream.connect(
            f"file://{tmp_path / 'replica'}", hydration_enabled=True, hydration_path=str(tmp_path / "copy.db")
        )
    assert closed


def test_a_refused_database_keeps_the_locks_that_this_process_holds_on_it(
    tmp_path: Path, pages: list[bytes]
) -> None:
    """Closing any descriptor of a file drops the POSIX locks that a process has on it."""
    path = tmp_path / "theirs.db"
    a_database(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("BEGIN EXCLUSIVE")
        for _ in range(2):
            with pytest.raises(OptionError):
                hydrated(snapshot(pages), path)
        script = f"import sqlite3\nsqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN EXCLUSIVE')"
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert "locked" in other.stderr


def test_an_empty_file_may_be_taken(tmp_path: Path, pages: list[bytes]) -> None:
    path = tmp_path / "copy.db"
    path.touch()
    engine = hydrated(snapshot(pages), path)
    wait_for(lambda: done(engine))
    assert rows(path) == rows(tmp_path / "db")
    engine.close()


def complete_copy(replica: Replica, path: Path) -> None:
    engine = hydrated(replica, path)
    wait_for(lambda: done(engine))
    engine.close()


def test_a_copy_that_another_program_wrote_to_is_theirs(tmp_path: Path, pages: list[bytes]) -> None:
    path = tmp_path / "copy.db"
    replica = snapshot(pages)
    complete_copy(replica, path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO t VALUES (999999, 'precious', '')")
        db.commit()
    before = everything_in(tmp_path)
    with pytest.raises(OptionError, match="no copy"):
        hydrated(replica, path)
    assert everything_in(tmp_path) == before


def test_a_copy_of_another_replica_is_not_overwritten(
    tmp_path: Path, pages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "copy.db"
    complete_copy(snapshot(pages), path)
    before = everything_in(tmp_path)
    other = snapshot(pages)
    monkeypatch.setattr(other, "describe", lambda: "memory:another")
    with pytest.raises(OptionError, match="no copy of memory:another"):
        hydrated(other, path)
    assert everything_in(tmp_path) == before


def fall_back(engine: FetchEngine, caplog: pytest.LogCaptureFixture) -> None:
    """The copy goes on without a name, and says so."""
    wait_for(lambda: engine.hydration() == (100.0, ""))
    assert "hydrating a file of our own" in caplog.text


@pytest.mark.parametrize("how", ["written to", "replaced", "removed"])
def test_a_copy_taken_away_while_it_is_followed_is_left_alone(
    tmp_path: Path, pages: list[bytes], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    directory = tmp_path / "copies"
    path = directory / "copy.db"
    replica = snapshot(pages)
    engine = hydrated(replica, path)
    wait_for(lambda: done(engine))
    if how == "written to":
        with closing(sqlite3.connect(path)) as db:
            db.execute("DELETE FROM t WHERE id > 10")
            db.commit()
    else:
        path.unlink()
    if how == "replaced":
        a_database(path)
        path.with_name("copy.db-journal").write_bytes(b"theirs")
    before = everything_in(directory)
    new_pages = changed_pages(tmp_path, "UPDATE t SET body = 'new' WHERE id < 500")
    increment(replica, len(new_pages), difference(pages, new_pages), 2)
    new = view_of(replica)
    with caplog.at_level(logging.WARNING, "vfsstream.vfs"):
        engine.advanced(new)
        fall_back(engine, caplog)
    for pgno in range(2, len(new_pages) + 1):
        assert engine.local.page(pgno, new.version(pgno)) == new_pages[pgno - 1]
    assert everything_in(directory) == before
    engine.close()
    assert everything_in(directory) == before


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_while_we_fetch_is_not_overwritten(
    tmp_path: Path,
    pages: list[bytes],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    links: bool,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "copies" / "copy.db"
    replica = snapshot(pages)
    gate = threading.Event()
    view = view_of(replica)
    replica.store.fault = lambda operation, key: gate.wait(30)  # type: ignore[attr-defined]
    options = Options("memory:", prefetch="off", hydration_enabled=True, hydration_path=str(path))
    engine = FetchEngine(replica, options)
    with caplog.at_level(logging.WARNING, "vfsstream.vfs"):
        engine.opened(view)
        a_database(path)
        before = path.read_bytes()
        gate.set()
        fall_back(engine, caplog)
    engine.close()
    assert path.read_bytes() == before
    assert not path.with_name("copy.db-partial").exists()


def test_without_hard_links_the_copy_gets_its_name_all_the_same(
    tmp_path: Path, pages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    complete_copy(snapshot(pages), tmp_path / "copy.db")
    assert rows(tmp_path / "copy.db") == rows(tmp_path / "db")


def test_another_history_under_known_names_is_not_believed(tmp_path: Path, pages: list[bytes]) -> None:
    """A replica that was set back to TXID 1 and went on from there: its TXID 2 is another one."""
    path = tmp_path / "copy.db"
    store = MemoryStore()
    replica = snapshot(pages, store=store)
    first = a_few_rows_changed(tmp_path, "first")
    increment(replica, len(first), difference(pages, first), 2)
    complete_copy(replica, path)

    second = a_few_rows_changed(tmp_path, "second")
    replica.delete(list(replica.files(0)))
    header = Header(1024, len(second), 2, 2, 1_700_000_000_999)
    body = b"".join(encode(header, sorted(difference(pages, second).items())))
    replica.write(0, 2, 2, body, timestamp=header.timestamp)
    view = view_of(replica)
    again = hydrated(replica, path)
    for pgno in range(2, len(second) + 1):
        found = again.local.page(pgno, view.version(pgno))
        assert found is None or found == second[pgno - 1]
    wait_for(lambda: done(again) and rows(path) == rows(tmp_path / "db"))
    again.close()


def test_a_compaction_that_was_seen_costs_the_next_process_nothing(tmp_path: Path, pages: list[bytes]) -> None:
    """The page images lie in another file and bear another version, but it is known to hold the same ones."""
    path = tmp_path / "copy.db"
    replica = snapshot(pages)
    new_pages = a_few_rows_changed(tmp_path, "new")
    increment(replica, len(new_pages), difference(pages, new_pages), 2)
    view = view_of(replica)
    engine = hydrated(replica, path)
    wait_for(lambda: done(engine))
    header = Header(1024, len(new_pages), 1, 2, 1_700_000_000_500)
    replica.write(9, 1, 2, b"".join(encode(header, enumerate(new_pages, 1))), timestamp=header.timestamp)
    (compacted,) = read_plan_files(replica, [max(replica.files(9), key=lambda info: info.max_txid)])
    engine.advanced(advance(view, incoming(compacted)))
    engine.close()
    replica.delete(list(replica.files(0)))
    replica.delete([info for info in replica.files(9) if info.max_txid == 1])
    again = hydrated(replica, path, prefetch="off")
    wait_for(lambda: done(again))
    assert again.transfer.counts["bytes"] < 2 * 1024  # page 1 is written anew
    wait_for(lambda: rows(path) == rows(tmp_path / "db"))
    again.close()


def test_a_crash_between_an_update_and_its_state_loses_nothing(tmp_path: Path, pages: list[bytes]) -> None:
    path = tmp_path / "copy.db"
    state = tmp_path / "copy.db-state"
    replica = snapshot(pages)
    complete_copy(replica, path)
    old_state = state.read_bytes()
    new_pages = a_few_rows_changed(tmp_path, "new")
    increment(replica, len(new_pages), difference(pages, new_pages), 2)
    complete_copy(replica, path)
    wait_for(lambda: rows(path) == rows(tmp_path / "db"))
    state.write_bytes(old_state)
    again = hydrated(replica, path)
    wait_for(lambda: done(again))
    wait_for(lambda: rows(path) == rows(tmp_path / "db"))
    assert again.hydration() == (100.0, str(path))
    again.close()
