"""What is published is a committed state, or nothing is published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from vfsstream.errors import LtxError
from vfsstream.replica import Replica
from vfsstream.replicate.capture import Capture
from vfsstream.replicate.database import Database
from vfsstream.stores import MemoryStore


def test_an_increment_that_lacks_a_page_of_the_growth_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = tmp_path / "app.db", MemoryStore()
    with closing(apsw.Connection(str(path))) as writer:
        writer.pragma("journal_mode", "wal")
        writer.execute("CREATE TABLE t (x)")
        database = Database(path, Replica(store))
        database.open()
        assert database.sync() == 1
        writer.execute("INSERT INTO t VALUES (zeroblob(60000))")
        whole = Capture._grown

        def short(self: Capture, *arguments: object) -> Iterator[tuple[int, bytes | memoryview]]:
            pages = list(whole(self, *arguments))  # type: ignore[arg-type]
            return iter(pages[:-1])

        monkeypatch.setattr(Capture, "_grown", short)
        with pytest.raises(LtxError, match=r"refused to publish TXID 0000000000000002: \d+ of the \d+ pages"):
            database.sync()
        assert [int(info.max_txid) for info in database.local_files()] == [1]
        monkeypatch.undo()
        assert database.sync() == 2
        database.upload()
        assert database.close().uploaded
