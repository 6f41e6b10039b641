"""A folder tells of its changes."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from vfsstream.stores import watch as module
from vfsstream.stores.file import FileStore

KEY = "ltx/0/0000000000000001-0000000000000001.ltx"


@pytest.fixture(params=["kernel", "comparison"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "comparison":
        monkeypatch.setattr(module.Inotify, "open", classmethod(lambda cls: None))
        monkeypatch.setattr(module, "_COMPARE_ALONE_SECONDS", 0.05)
    return str(request.param)


def test_a_put_and_a_delete_wake(tmp_path: Path, way: str) -> None:
    store = FileStore(tmp_path)
    store.put(KEY, b"x")
    woken = threading.Event()
    stop = store.watch("ltx/0/", woken.set)
    try:
        store.put(KEY.replace("1", "2"), b"y")
        assert woken.wait(20)
        woken.clear()
        store.delete([KEY])
        assert woken.wait(20)
    finally:
        stop()
    assert not [t for t in threading.enumerate() if t.name == "vfsstream-watch"]


def test_a_directory_that_does_not_exist_yet(tmp_path: Path, way: str) -> None:
    store = FileStore(tmp_path / "a" / "b")
    woken = threading.Event()
    stop = store.watch("ltx/0/", woken.set)
    try:
        (tmp_path / "stranger").write_text("of no interest")
        assert not woken.wait(0.3)
        store.put(KEY, b"x")
        assert woken.wait(20)
        woken.clear()
        store.put(KEY.replace("1", "2"), b"x")
        assert woken.wait(20), "the new directory is watched"
        woken.clear()
        shutil.rmtree(tmp_path / "a")
        assert woken.wait(20)
    finally:
        stop()


def test_an_unfinished_file_does_not_wake(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put(KEY, b"x")
    woken = threading.Event()
    stop = store.watch("ltx/0/", woken.set)
    try:
        (tmp_path / "ltx/0/something.tmp").write_bytes(b"half")
        assert not woken.wait(0.5)
    finally:
        stop()


def test_the_end_may_come_from_the_call_itself_and_twice(tmp_path: Path, way: str) -> None:
    store = FileStore(tmp_path)
    store.put(KEY, b"x")
    ended, stops = threading.Event(), []

    def wake() -> None:
        stops[0]()
        ended.set()

    stops.append(store.watch("ltx/0/", wake))
    store.put(KEY.replace("1", "2"), b"y")
    assert ended.wait(20)
    stops[0]()


def test_a_call_that_fails_does_not_end_the_watch(tmp_path: Path, way: str) -> None:
    store = FileStore(tmp_path)
    store.put(KEY, b"x")
    calls = threading.Semaphore(0)

    def wake() -> None:
        calls.release()
        raise RuntimeError("of the caller")

    stop = store.watch("ltx/0/", wake)
    try:
        for number in "23":
            store.put(KEY.replace("1", number), b"y")
            assert calls.acquire(timeout=20)
    finally:
        stop()
