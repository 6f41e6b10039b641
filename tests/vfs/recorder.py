"""A replica written step by step: each test decides which files exist at each moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from vfsstream.ltx import Header, encode, lock_pgno, merge
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica


class Recorder:
    """A database whose every ``commit`` becomes one level-0 file.

    Attributes:
        path: the database.
        url: of the replica.
        txid: the last one written.
        images: the database file after each TXID, for comparison.
    """

    def __init__(self, directory: Path, page_size: int = 4096, auto_vacuum: int = 0) -> None:
        self.path = directory / "primary.db"
        self.root = directory / "replica"
        self.url = self.root.as_uri()
        self.replica = Replica.open(self.url)
        self.page_size = page_size
        self.txid = 0
        self.clock = 1_700_000_000_000
        self.pages: dict[int, bytes] = {}
        self.images: dict[int, bytes] = {}
        self.db = sqlite3.connect(self.path, isolation_level=None)
        self.db.executescript(f"PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum};")

    def commit(self, *statements: str | tuple[str, Sequence[object]]) -> int:
        """Run statements in one transaction and write what changed."""
        alone = [s for s in statements if isinstance(s, str) and s.upper().startswith(("VACUUM", "PRAGMA"))]
        if not alone:
            self.db.execute("BEGIN")
        for statement in statements:
            sql, values = (statement, ()) if isinstance(statement, str) else statement
            self.db.execute(sql, values).fetchall()
        if not alone:
            self.db.execute("COMMIT")
        return self.record()

    def record(self) -> int:
        """Write the difference to the state before as the next transaction."""
        image = bytearray(self.path.read_bytes())
        # As in WAL mode: the change counter stands still, and the header says WAL.
        image[18:20], image[24:28], image[92:96] = b"\x02\x02", b"\0\0\0\2", b"\0\0\0\2"
        commit = len(image) // self.page_size
        lock = lock_pgno(self.page_size)
        now = {
            n: bytes(image[(n - 1) * self.page_size : n * self.page_size])
            for n in range(1, commit + 1)
            if n != lock
        }
        changed = {n: page for n, page in now.items() if self.pages.get(n) != page or self.txid == 0}
        self.txid += 1
        self.clock += 1000
        self.pages, self.images[self.txid] = now, bytes(image)
        self._write(0, self.txid, self.txid, commit, changed)
        return self.txid

    def _write(self, level: int, low: int, high: int, commit: int, pages: dict[int, bytes]) -> None:
        header = Header(self.page_size, commit, low, high, self.clock)
        self.replica.write(level, low, high, encode(header, sorted(pages.items())), timestamp=self.clock)

    def snapshot(self, level: int = 9) -> None:
        """The whole database as one file."""
        self._write(level, 1, self.txid, max(self.pages), self.pages)

    def compact(self, level: int, low: int, high: int) -> None:
        """Merge the level-0 files of a range into one file of a higher level."""
        files = [info for info in self.replica.files(0) if low <= info.min_txid and info.max_txid <= high]
        data = b"".join(merge([self.replica.stream(info) for info in files]))
        stamp = Header.unpack(data[:100]).timestamp
        self.replica.write(level, low, high, data, timestamp=stamp)

    def delete(self, level: int, low: int = 1, high: int = 1 << 60) -> list[FileInfo]:
        """Remove files of a level inside a range."""
        files = [info for info in self.replica.files(level) if low <= info.min_txid and info.max_txid <= high]
        self.replica.delete(files)
        return files

    def close(self) -> None:
        self.db.close()
        self.replica.close()


def recorder(directory: Path, page_size: int = 4096, auto_vacuum: int = 0) -> Iterator[Recorder]:
    """For fixtures."""
    from vfsstream.vfs.registry import registry

    made = Recorder(directory, page_size, auto_vacuum)
    yield made
    made.close()
    registry.close_idle()
