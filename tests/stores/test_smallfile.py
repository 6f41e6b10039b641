"""Small files are replaced as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfsstream.stores.smallfile import replace_file


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_made_and_replaced(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "state.json"
    for content in (b"old", b"newer"):
        replace_file(path, content, shared=shared)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["state.json"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_failure_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"old")

    def refuse(source: object, target: object) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        replace_file(path, b"new", shared=shared)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.json"]


def test_what_a_crash_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "state.json.tmp").write_bytes(b"half")
    replace_file(tmp_path / "state.json", b"whole")
    assert os.listdir(tmp_path) == ["state.json"]
    assert (tmp_path / "state.json").read_bytes() == b"whole"


def test_two_writers_do_not_share_a_temporary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    really = os.replace

    def note(source: Path, target: Path) -> None:
        names.append(source.name)
        really(source, target)

    monkeypatch.setattr(os, "replace", note)
    for _ in range(2):
        replace_file(tmp_path / "plan.json", b"{}", shared=True)
    assert len(set(names)) == 2
    assert "plan.json.tmp" not in names
