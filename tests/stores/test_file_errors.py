"""What only a folder can do wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfsstream.errors import NotFound, StoreError
from vfsstream.stores.file import FileStore


def test_a_file_in_the_way_of_a_directory_is_no_missing_object(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("in the way")
    store = FileStore(tmp_path / "root")
    with pytest.raises(StoreError, match="cannot write"):
        store.put("a/b", b"x")
    with pytest.raises(NotFound):
        store.get("a/b")


def test_keys_cannot_leave_the_folder(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "root")
    for key in ("../x", "a/../../x", "/x", "a//b", ""):
        with pytest.raises(StoreError, match="invalid key"):
            store.put(key, b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_put_leaves_no_temporary_file(tmp_path: Path) -> None:
    def source():  # type: ignore[no-untyped-def]
        yield b"half"
        raise RuntimeError("the source broke")

    store = FileStore(tmp_path)
    with pytest.raises(RuntimeError):
        store.put("d/k", source())
    assert list((tmp_path / "d").iterdir()) == []
