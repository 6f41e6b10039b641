"""The least SQLite needs to read through an engine: one immutable view, no follower, no options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from vfsstream.vfs.fetch import FetchEngine
from vfsstream.vfs.opening import read_plan_files
from vfsstream.vfs.options import Options
from vfsstream.vfs.pagemap import Incoming, build
from vfsstream.vfs.view import View


def view_of(replica, levels=(9, 0)) -> View:
    infos = [info for level in levels for info in replica.files(level)]
    loaded = read_plan_files(replica, infos)
    return build([Incoming(f.info, f.header, f.index) for f in loaded])


class EngineFile:
    """A main database file."""

    def __init__(self, engine: FetchEngine, view: View) -> None:
        self.engine, self.view, self.reads = engine, view, 0

    def xRead(self, amount: int, offset: int) -> bytes:
        self.reads += 1
        size, view = self.view.page_size, self.view
        pgno = offset // size + 1
        page = self.engine.hot(pgno, view.version(pgno)) or self.engine.read(view, pgno, lambda: None)
        if offset < 100:
            page = page[:18] + b"\1\1" + page[20:]
        start = offset % size
        return page if amount == size else page[start : start + amount]

    def xFileSize(self) -> int:
        return self.view.commit * self.view.page_size

    def xLock(self, level: int) -> None:
        self.engine.begin()

    def xUnlock(self, level: int) -> None: ...
    def xClose(self) -> None: ...
    def xSync(self, flags: int) -> bool:
        return True

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 0

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xWrite(self, data: bytes, offset: int) -> None:
        raise apsw.ReadOnlyError

    def xTruncate(self, size: int) -> None:
        raise apsw.ReadOnlyError


class _Vfs(apsw.VFS):
    def __init__(self, name: str, file: EngineFile) -> None:
        self.file = file
        super().__init__(name, "")

    def xOpen(self, name, flags):  # type: ignore[no-untyped-def]
        if not flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            return super().xOpen(name, flags)
        flags[1] = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB
        return self.file

    def xAccess(self, path: str, flags: int) -> bool:
        return False

    def xFullPathname(self, name: str) -> str:
        return name


@contextmanager
def connect(replica, wait_interior: bool = False, **options) -> Iterator[tuple[apsw.Connection, FetchEngine]]:  # type: ignore[no-untyped-def]
    """A connection over a fresh engine."""
    view = view_of(replica)
    engine = FetchEngine(replica, Options(replica_url="memory:", **options))
    vfs = _Vfs(f"shim-{id(engine)}", EngineFile(engine, view))
    engine.opened(view)
    connection = apsw.Connection("x", vfs=vfs.vfs_name if hasattr(vfs, "vfs_name") else f"shim-{id(engine)}")
    try:
        yield connection, engine
    finally:
        connection.close()
        engine.close()
