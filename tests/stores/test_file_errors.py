"""What the file store says when the file system is not as it should be."""

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
