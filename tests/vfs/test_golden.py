"""Every golden replica through the VFS: the bytes of every restorable state, and what SQLite makes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

import vfsstream
from tests.conftest import GOLDEN
from vfsstream.errors import NotRestorable, VfsstreamError
from vfsstream.vfs.file import patch_first_page
from vfsstream.vfs.source import SimpleSource
from vfsstream.vfs.vfs import file_of

pytestmark = pytest.mark.modes

NAMES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def manifest(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GOLDEN / name / "manifest.json").read_text())
    return loaded


def image(connection: apsw.Connection) -> str:
    """The checksum of the database without what the VFS changes in page 1."""
    file = file_of(connection)
    assert file is not None
    pages = [bytes(file._page(pgno)) for pgno in range(1, file.moment.view.commit + 1)]
    if file.database.options.hydration_enabled:
        # A local copy holds page 1 as SQLite shall see it: what the primary had in those places is asked of the store.
        plain = SimpleSource(file.database.replica, 0, 30)
        first = plain.read(file.moment.view, 1, lambda: None)
        plain.close()
        assert patch_first_page(first, file.moment.view) == patch_first_page(pages[0], file.moment.view)
        pages[0] = first
    return hashlib.sha256(b"".join(pages)).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_every_restorable_txid_reads_as_a_restore(name: str, golden: Callable[[str], Path]) -> None:
    url = golden(name).as_uri()
    for txid, expected in manifest(name)["restore"]["txid"].items():
        if "error" in expected:
            with pytest.raises(VfsstreamError) as failure:
                vfsstream.connect(url, txid=txid)
            assert isinstance(failure.value, NotRestorable)
            continue
        connection = vfsstream.connect(url, txid=txid)
        assert image(connection) == expected["sha256"], txid
        assert connection.pragma("integrity_check") == "ok"
        connection.close()


@pytest.mark.parametrize("name", NAMES)
def test_times_read_as_a_restore(name: str, golden: Callable[[str], Path]) -> None:
    url = golden(name).as_uri()
    live = vfsstream.connect(url)
    for entry in manifest(name)["restore"]["timestamp"]:
        if "error" in entry:
            continue
        moment = entry["timestamp"]
        connection = vfsstream.connect(url, time=moment)
        assert image(connection) == entry["sha256"], moment
        connection.close()
        live.pragma("litestream_time", moment)
        assert image(live) == entry["sha256"], moment
    live.pragma("litestream_time", "LATEST")
    assert image(live) == manifest(name)["restore"]["latest"]["sha256"]
    live.close()
