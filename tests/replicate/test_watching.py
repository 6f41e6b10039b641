"""Being told that a file is written: real files, the kernel's real notification, and life without it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfsstream.replicate.watching import Alarm
from vfsstream.stores import inotify

kernel = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux's")


@pytest.fixture
def alarm() -> Iterator[Alarm[str]]:
    alarm: Alarm[str] = Alarm()
    yield alarm
    alarm.close()


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"frame")


@kernel
def test_a_write_is_told_once_until_it_is_armed_again(alarm: Alarm[str], tmp_path: Path) -> None:
    path = tmp_path / "a-wal"
    path.touch()
    assert alarm.arm(str(path), "a")
    append(path)
    assert alarm.wait(5.0) == ["a"]
    append(path)
    assert alarm.wait(0.0) == [], "constant writing wakes nobody"
    assert alarm.arm(str(path), "a")
    append(path)
    assert alarm.wait(5.0) == ["a"]


@kernel
def test_many_files_are_told_apart_and_disarmed(alarm: Alarm[str], tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
        assert alarm.arm(str(tmp_path / name), name)
    alarm.disarm("b")
    for name in "abc":
        append(tmp_path / name)
    assert sorted(alarm.wait(5.0) or []) == ["a", "c"]


@kernel
def test_a_missing_file_cannot_be_promised(alarm: Alarm[str], tmp_path: Path) -> None:
    assert not alarm.arm(str(tmp_path / "nothing"), "a")


@kernel
def test_a_deleted_file_is_forgotten(alarm: Alarm[str], tmp_path: Path) -> None:
    path = tmp_path / "a-wal"
    path.touch()
    alarm.arm(str(path), "a")
    path.unlink()
    assert alarm.wait(5.0) == []
    path.touch()
    assert alarm.arm(str(path), "a")
    append(path)
    assert alarm.wait(5.0) == ["a"]


@kernel
def test_when_the_kernel_loses_count_any_file_may_have_been_written(
    alarm: Alarm[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").touch()
    alarm.arm(str(tmp_path / "a"), "a")
    overflow = inotify.OVERFLOW
    monkeypatch.setattr(alarm._inotify, "events", lambda: iter([(-1, overflow, b"")]))
    assert alarm.wait(0.0) is None


def test_a_wake_ends_the_sleep_from_another_thread(alarm: Alarm[str]) -> None:
    timer = threading.Timer(0.05, alarm.wake)
    timer.start()
    started = time.monotonic()
    assert alarm.wait(60.0) == []
    assert time.monotonic() - started < 30
    timer.join()
    for _ in range(100_000):  # more than the pipe holds
        alarm.wake()
    assert alarm.wait(60.0) == []


def test_without_the_kernel_nothing_is_promised_and_waking_works(tmp_path: Path) -> None:
    alarm: Alarm[str] = Alarm(kernel=False)
    (tmp_path / "a").touch()
    assert not alarm.arm(str(tmp_path / "a"), "a")
    alarm.wake()
    assert alarm.wait(60.0) == []
    alarm.close()
    alarm.close()
    alarm.wake()


@kernel
def test_a_used_up_limit_of_instances_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Full:
        def inotify_init1(self, flags: int) -> int:
            return -1

    monkeypatch.setattr(inotify.ctypes, "CDLL", lambda *args, **kwargs: Full())
    alarm: Alarm[str] = Alarm()
    (tmp_path / "a").touch()
    assert not alarm.arm(str(tmp_path / "a"), "a")
    assert alarm.wait(0.0) == []
    alarm.close()


@kernel
def test_descriptors_are_given_back() -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        Alarm().close()
    assert len(os.listdir("/dev/fd")) == before
