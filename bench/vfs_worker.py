"""One workload in a process of its own: on Litestream's extension or on ours; prints one JSON line.

The extension reads its environment when the process starts and disturbs other connections, so nothing is shared.
"""

from __future__ import annotations

import json
import random
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import apsw

HOT = 100
FLAGS = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI


def open_theirs(url: str) -> apsw.Connection:
    """A connection through Litestream's extension, which registers the same name in this SQLite."""
    import litestream_vfs

    if "litestream" not in apsw.vfs_names():
        loader = apsw.Connection(":memory:")
        loader.enable_load_extension(True)
        loader.load_extension(litestream_vfs.loadable_path(), "sqlite3_litestreamvfs_init")
    return apsw.Connection(f"file:bench.db?vfs=litestream&replica_url={quote(url, safe='')}", flags=FLAGS)


def open_ours(url: str) -> apsw.Connection:
    """A connection through this package."""
    import vfsstream

    return vfsstream.connect(url)


def open_file(url: str) -> apsw.Connection:
    """The database as a plain local file: the floor."""
    return apsw.Connection(url, flags=apsw.SQLITE_OPEN_READONLY)


def lookups(count: int, among: int | None = None) -> Callable[[apsw.Connection], object]:
    """Single rows, a transaction each: random ones, or a few again and again."""

    def work(db: apsw.Connection) -> object:
        dice = random.Random(5)
        (most,) = db.execute("SELECT max(id) FROM t").fetchall()[0]
        ids = [dice.randrange(1, most) for _ in range(among or count)]
        if among:
            for number in ids:
                db.execute("SELECT v FROM t WHERE id = ?", (number,)).fetchall()
        mark("start")
        for turn in range(count):
            db.execute("SELECT v FROM t WHERE id = ?", (ids[turn % len(ids)],)).fetchall()
        return None

    return work


def query(sql: str, warm: bool = False) -> Callable[[apsw.Connection], object]:
    """One statement, the first time or once more."""

    def work(db: apsw.Connection) -> object:
        if warm:
            db.execute(sql).fetchall()
        mark("start")
        return db.execute(sql).fetchall()

    return work


SCAN = "SELECT count(*), sum(length(v)) FROM t"
WORK: dict[str, Callable[[apsw.Connection], object]] = {
    "open and first row": query("SELECT v FROM t WHERE id = 1"),
    "200 random lookups": lookups(200),
    "1,000 warm lookups": lookups(1000, HOT),
    "1,001 consecutive rows": query("SELECT sum(length(v)) FROM t WHERE id BETWEEN 5000 AND 6000"),
    "index range, 300 rows": query("SELECT sum(length(v)) FROM (SELECT v FROM t ORDER BY k LIMIT 300)"),
    "one tenth of the table": query("SELECT sum(length(v)) FROM t WHERE id < (SELECT max(id) / 10 FROM t)"),
    "full scan": query(SCAN),
    "full scan again": query(SCAN, warm=True),
}

marks: dict[str, float] = {}


def mark(name: str) -> None:
    """Remember the time."""
    marks[name] = time.perf_counter()


def resident() -> float:
    """Resident memory now, MB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    side, url, name, other, server = sys.argv[1:6]
    opener = {"litestream": open_theirs, "vfsstream": open_ours, "file": open_file}[side]
    opener(other).close()  # the start of the program and the import of its parts are not the open
    urllib.request.urlopen(f"{server}/-/reset", timeout=60).close()
    before = resident()
    mark("open")
    db = opener(url)
    db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    mark("opened")
    WORK[name](db)
    mark("end")
    start = "open" if name == "open and first row" else "start"
    found = {
        "wall": marks["end"] - marks[start],
        "open": marks["opened"] - marks["open"],
        "rss": resident() - before,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
