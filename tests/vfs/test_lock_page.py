"""A database beyond 1 GiB: the page of SQLite's lock bytes is in no file, its neighbours are."""

from __future__ import annotations

from pathlib import Path

import pytest

import vfsstream
from vfsstream.errors import CorruptError
from vfsstream.ltx import Header, encode, lock_pgno
from vfsstream.replica import Replica
from vfsstream.vfs.registry import registry
from vfsstream.vfs.vfs import file_of

pytestmark = pytest.mark.modes

SIZE = 65536


def test_reads_around_the_lock_page(tmp_path: Path) -> None:
    lock = lock_pgno(SIZE)
    commit = lock + 3
    zeros = bytes(SIZE)
    header = Header(SIZE, commit, 1, 1, 1_700_000_000_000)

    def page(pgno: int) -> bytes:
        if pgno == 1:
            header_bytes = b"SQLite format 3\0\0\1\2\2\0\x40\x20\x20"
            return (header_bytes.ljust(100, b"\0") + b"\r").ljust(SIZE, b"\0")
        return pgno.to_bytes(4, "big") * (SIZE // 4) if abs(pgno - lock) < 4 else zeros

    pages = ((n, page(n)) for n in range(1, commit + 1) if n != lock)
    with Replica.open(tmp_path.as_uri()) as replica:
        replica.write(9, 1, 1, encode(header, pages), timestamp=header.timestamp)
    db = vfsstream.connect(tmp_path.as_uri(), poll_interval="1h")
    assert db.pragma("page_count") == commit
    file = file_of(db)
    assert file is not None
    for pgno in range(lock - 3, commit + 1):
        wanted = zeros if pgno == lock else page(pgno)
        assert bytes(file.xRead(SIZE, (pgno - 1) * SIZE)) == wanted, pgno
        assert bytes(file.xRead(100, (pgno - 1) * SIZE + 500)) == wanted[500:600]
    assert file.database.zeros_read == 0
    assert file.xFileSize() == commit * SIZE > 1 << 30
    assert file.xRead(SIZE, commit * SIZE) == b""
    with pytest.raises(CorruptError, match="beyond"):
        file._page(commit + 1)
    db.close()
    registry.close_idle()
