"""Hydration: complete, resumed, current, isolated, and a database for everybody."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.vfs.replicas import increment, make_database, snapshot
from tests.vfs.shim import connect, view_of
from vfsstream.replica import Replica
from vfsstream.vfs.fetch import FetchEngine
from vfsstream.vfs.options import Options


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def hydrated(replica: Replica, path: Path | None, **options: object) -> FetchEngine:
    view = view_of(replica)
    text = str(path) if path else None
    engine = FetchEngine(replica, Options("memory:", hydration_enabled=True, hydration_path=text, **options))  # type: ignore[arg-type]
    engine.opened(view)
    return engine


def done(engine: FetchEngine) -> bool:
    assert engine.local.hydrator is not None
    return engine.hydration()[0] == 100.0


def rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
        return db.execute("SELECT count(*), sum(id), sum(length(body)) FROM t").fetchall()


@pytest.fixture
def pages(tmp_path: Path) -> list[bytes]:
    return make_database(tmp_path / "db", 3000, 1024)


def changed_pages(tmp_path: Path, statement: str) -> list[bytes]:
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute(statement)
        db.commit()
        db.execute("VACUUM")
    data = (tmp_path / "db").read_bytes()
    return [data[n : n + 1024] for n in range(0, len(data), 1024)]


def difference(old: list[bytes], new: list[bytes]) -> dict[int, bytes]:
    return {n: page for n, page in enumerate(new, 1) if n > len(old) or old[n - 1] != page}


def test_the_finished_file_is_a_database(tmp_path: Path, pages: list[bytes]) -> None:
    path = tmp_path / "copy" / "local.db"
    engine = hydrated(snapshot(pages), path)
    wait_for(lambda: done(engine))
    assert rows(path) == rows(tmp_path / "db")
    assert engine.hydration() == (100.0, str(path))
    engine.close()
    assert sorted(p.name for p in path.parent.iterdir()) == ["local.db", "local.db-state"]


def test_reads_then_need_no_request(pages: list[bytes]) -> None:
    replica = snapshot(pages)
    with connect(replica, hydration_enabled=True, cache_size=1, prefetch="off") as (db, engine):
        wait_for(lambda: done(engine))
        before = engine.transfer.counts["gets"]
        assert db.execute("PRAGMA integrity_check").get == "ok"
        assert engine.transfer.counts["gets"] == before


def test_without_a_path_nothing_is_left_behind(
    tmp_path: Path, pages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    engine = hydrated(snapshot(pages), None)
    wait_for(lambda: done(engine))
    assert not list((tmp_path / "tmp").iterdir())
    engine.close()


def test_an_update_reaches_the_file_and_readers_of_the_old_view_do_not_see_it(
    tmp_path: Path, pages: list[bytes]
) -> None:
    path = tmp_path / "local.db"
    replica = snapshot(pages)
    old = view_of(replica)
    engine = hydrated(replica, path)
    wait_for(lambda: done(engine))
    new_pages = changed_pages(tmp_path, "DELETE FROM t WHERE id % 2")
    increment(replica, len(new_pages), difference(pages, new_pages), 2)
    new = view_of(replica)
    engine.advanced(new)
    assert engine.local.hydrator is not None
    have = engine.local.hydrator
    wait_for(lambda: have.pages.have[1] == new.version(1) and not have._news.is_set())
    wait_for(lambda: rows(path) == rows(tmp_path / "db"))
    assert os.path.getsize(path) == len(new_pages) * 1024
    for pgno in range(2, len(new_pages) + 1):
        assert engine.read(new, pgno, lambda: None) == new_pages[pgno - 1]
    for pgno in range(2, len(pages) + 1):
        assert engine.read(old, pgno, lambda: None) == pages[pgno - 1]
    engine.close()


def test_an_update_during_hydration_is_not_lost(tmp_path: Path, pages: list[bytes]) -> None:
    path = tmp_path / "local.db"
    replica = snapshot(pages)
    gate = threading.Event()
    first = view_of(replica)
    replica.store.fault = lambda operation, key: gate.wait(30)  # type: ignore[attr-defined]
    engine = FetchEngine(
        replica, Options("memory:", prefetch="off", hydration_enabled=True, hydration_path=str(path))
    )
    engine.opened(first)
    new_pages = changed_pages(tmp_path, "UPDATE t SET body = 'new' WHERE id < 500")
    replica.store.fault = None  # type: ignore[attr-defined]
    increment(replica, len(new_pages), difference(pages, new_pages), 2)
    new = view_of(replica)
    engine.advanced(new)
    gate.set()
    wait_for(lambda: done(engine) and path.exists() and rows(path) == rows(tmp_path / "db"))
    assert engine.hydration()[0] <= 100
    engine.close()


def test_it_resumes_where_it_was_stopped(
    tmp_path: Path, pages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "local.db"
    replica = snapshot(pages)
    monkeypatch.setattr("vfsstream.vfs.hydrate.missing_ranges.__defaults__", (20_000,))
    reads = []

    def slow(operation: str, key: str) -> None:
        reads.append(key)
        time.sleep(0.1)

    replica.store.fault = slow  # type: ignore[attr-defined]
    engine = hydrated(replica, path, prefetch="off")
    assert engine.local.hydrator is not None
    hydrator = engine.local.hydrator
    wait_for(lambda: hydrator.pages.count > len(pages) // 3)
    engine.close()
    held = hydrator.pages.count
    assert not path.exists()
    assert held < len(pages)
    replica.store.fault = None  # type: ignore[attr-defined]
    again = hydrated(replica, path, prefetch="off")
    view_reads = again.transfer.counts
    wait_for(lambda: done(again))
    assert rows(path) == rows(tmp_path / "db")
    assert view_reads["bytes"] < sum(info.size for info in view_of(replica).files) * 0.8
    again.close()


@pytest.mark.parametrize("harm", ["state", "pages", "file", "history"])
def test_what_cannot_be_trusted_is_fetched_again(tmp_path: Path, pages: list[bytes], harm: str) -> None:
    path = tmp_path / "local.db"
    replica = snapshot(pages)
    engine = hydrated(replica, path)
    wait_for(lambda: done(engine))
    engine.close()
    if harm == "state":
        (tmp_path / "local.db-state").write_bytes(b"{}\nnonsense")
    elif harm == "pages":
        with path.open("r+b") as handle:
            handle.seek(50 * 1024)
            handle.write(bytes(3000))
    elif harm == "file":
        path.unlink()
    else:
        replica = snapshot(make_database(tmp_path / "other", 2000, 1024))
        (tmp_path / "other").replace(tmp_path / "db")
    again = hydrated(replica, path)
    wait_for(lambda: done(again) and path.exists())
    wait_for(lambda: rows(path) == rows(tmp_path / "db"))
    again.close()


def test_other_programs_see_one_transaction_after_another(tmp_path: Path, pages: list[bytes]) -> None:
    path = tmp_path / "local.db"
    replica = snapshot(pages)
    engine = hydrated(replica, path)
    wait_for(lambda: done(engine))
    import subprocess
    import sys

    script = (
        "import sqlite3,sys,time\n"
        f"db=sqlite3.connect('file:{path}?mode=ro',uri=True,timeout=30)\n"
        "print('ready',flush=True)\n"
        "begin=time.monotonic(); seen=set()\n"
        "while time.monotonic()<begin+3 or len(seen)<2:\n"
        "  a=set(db.execute('SELECT DISTINCT length(body) FROM t WHERE id<100'))\n"
        "  assert len(a)==1,a\n"
        "  seen|=a\n"
        "print(len(seen))\n"
    )
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("UPDATE t SET body = 'x' WHERE id < 100")
        db.commit()
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    current = pages
    for txid in range(2, 12):
        new_pages = changed_pages(tmp_path, f"UPDATE t SET body = '{'y' * txid}' WHERE id < 100")
        increment(replica, len(new_pages), difference(current, new_pages), txid)
        current = new_pages
        engine.advanced(view_of(replica))
        time.sleep(0.2)
    output, _ = program.communicate(timeout=60)
    assert program.returncode == 0
    assert int(output) > 1
    engine.close()
