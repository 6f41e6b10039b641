"""Large files go to the disk while they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfsstream.stores import writeback
from vfsstream.stores.writeback import WriteBehind

MIB = 1 << 20


def test_every_eight_mebibytes_are_begun_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[int, int, int]] = []
    monkeypatch.setattr(writeback, "_starter", lambda: lambda *what: begun.append(what))
    behind = WriteBehind(7)
    for _ in range(18):
        behind.wrote(MIB)
    assert begun == [(7, 0, 8 * MIB), (7, 8 * MIB, 8 * MIB)]


def test_a_system_without_the_call_writes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writeback, "_starter", lambda: None)
    WriteBehind(-1).wrote(64 * MIB)


def test_the_real_call_takes_a_real_descriptor(tmp_path: Path) -> None:
    with open(tmp_path / "big", "wb", buffering=0) as file:
        behind = WriteBehind(file.fileno())
        for _ in range(9):
            behind.wrote(file.write(bytes(MIB)))
    assert os.path.getsize(tmp_path / "big") == 9 * MIB
