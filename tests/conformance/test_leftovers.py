"""What killed writers left unfinished on a server goes at the next write, and nothing else does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from vfsstream.stores.url import open_store

pytestmark = [pytest.mark.server]

DAY = 86400


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.xdist_group(kind)) for kind in ("sftp", "webdav")]
)
def test_leftovers_of_killed_writers(kind: str, server: Callable[[str], Any]) -> None:
    daemon = server(kind)
    store = open_store(daemon.url("left"), dict(daemon.options))
    store.put("ltx/0/a", b"complete")
    folder = daemon.data / "left" / "ltx" / "0"
    now = time.time()

    def leave(begun: float, touched: float, name: str = "b.77.{}.tmp") -> str:
        path = folder / name.format(int(begun * 1e9))
        path.write_bytes(b"unfinished")
        if os.geteuid() == 0:
            status = folder.stat()
            os.chown(path, status.st_uid, status.st_gid)
        os.utime(path, (touched, touched))
        return path.name

    stale = leave(now - 2 * DAY, now - 2 * DAY)
    kept = {
        leave(now - 3 * DAY, now - 60),  # it still grows
        leave(now - 60, now - 3 * DAY),  # complete, about to get its own time and its name
        leave(now, now - 9 * DAY, "somebody's.tmp"),
    }
    assert [info.key for info in store.list("ltx/0/")] == ["ltx/0/a"]
    assert {path.name for path in folder.iterdir()} == {"a", stale, *kept}, "who only reads removes nothing"
    store.put("ltx/0/c", b"complete")
    assert {path.name for path in folder.iterdir()} == {"a", "c", *kept}
    store.put("ltx/0/d", b"complete")
    store.close()
