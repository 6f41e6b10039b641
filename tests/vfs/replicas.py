"""Small databases as replicas, and an engine over them without SQLite in the path."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

from vfsstream.ltx import Header, encode
from vfsstream.replica import Replica
from vfsstream.stores.base import Store
from vfsstream.stores.memory import MemoryStore


def _body(n: int) -> str:
    return random.Random(n).randbytes(100).hex() + " text that compresses " * 8


def make_database(path: Path, rows: int = 3000, page_size: int = 4096, *, fragmented: bool = False) -> list[bytes]:
    """A database of one table and one index; returns its pages."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute("PRAGMA journal_mode=delete")
        kind = " WITHOUT ROWID" if fragmented else ""
        db.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, body TEXT){kind}")
        order = [(n * 7919) % rows for n in range(rows)] if fragmented else range(rows)
        db.executemany(
            "INSERT INTO t VALUES (?, ?, ?)", ((n, f"name {n * 7919 % rows:08}", _body(n)) for n in order)
        )
        if not fragmented:
            db.execute("CREATE INDEX t_name ON t (name)")
        db.commit()
    data = path.read_bytes()
    return [data[start : start + page_size] for start in range(0, len(data), page_size)]


def snapshot(pages: list[bytes], txid: int = 1, store: Store | None = None) -> Replica:
    """A replica that holds the pages as one snapshot."""
    replica = Replica(store or MemoryStore())
    header = Header(len(pages[0]), len(pages), 1, txid, 1_700_000_000_000)
    replica.write(9, 1, txid, b"".join(encode(header, enumerate(pages, 1))), timestamp=header.timestamp)
    return replica


def increment(replica: Replica, commit: int, changed: dict[int, bytes], txid: int) -> None:
    """One more transaction at level 0."""
    size = len(next(iter(changed.values())))
    header = Header(size, commit, txid, txid, 1_700_000_000_000 + txid)
    body = b"".join(encode(header, sorted(changed.items())))
    replica.write(0, txid, txid, body, timestamp=header.timestamp)
