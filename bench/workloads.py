"""The database and the queries that both readers run, and the process in which one reader runs them."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

__all__ = ["LEVELS", "SAMPLES", "WORKLOADS", "make_database"]

WORDS = [f"word{n * 7919 % 10007}" for n in range(3000)]


def make_database(path: Path, megabytes: float, page_size: int) -> int:
    """A table with text, an index in another order, a table in random key order, a full-text index; returns rows."""
    chance = random.Random(1)
    rows = int(megabytes * 1600)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute("PRAGMA journal_mode=wal")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, body TEXT)")
        table = ((n, f"n{n * 7919 % rows:08}", _body(chance)) for n in range(rows))
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", table)
        db.execute("CREATE INDEX t_name ON t (name)")
        db.execute("CREATE TABLE f (id INTEGER PRIMARY KEY, body TEXT) WITHOUT ROWID")
        keys = list(range(rows // 8))
        chance.shuffle(keys)
        db.executemany("INSERT INTO f VALUES (?, ?)", ((key, _body(chance)) for key in keys))
        db.execute("CREATE VIRTUAL TABLE s USING fts5(body)")
        db.execute("INSERT INTO s (rowid, body) SELECT id, json_extract(body, '$.a') FROM t WHERE id % 10 = 0")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return rows


def _body(chance: random.Random) -> str:
    words = " ".join(chance.choices(WORDS, k=24))
    return json.dumps({"a": words, "n": chance.randrange(10**9), "h": chance.randbytes(60).hex()})


Query = Callable[[Any, int], Any]


def _lookups(db: Any, rows: int, count: int, among: int) -> Any:
    chance = random.Random(2)
    hot = [chance.randrange(rows) for _ in range(among)]
    return [db.execute("SELECT body FROM t WHERE id = ?", (chance.choice(hot),)).fetchall() for _ in range(count)]


def _one(text: str) -> Query:
    def query(db: Any, rows: int) -> Any:
        return db.execute(text.replace("MIDDLE", str(rows // 2)).replace("SMALL", str(rows // 16))).fetchall()

    return query


WORKLOADS: dict[str, Query] = {
    "first row": _one("SELECT id FROM t LIMIT 1"),
    "100 random lookups": lambda db, rows: _lookups(db, rows, 100, 100000),
    "100 lookups among 10 rows": lambda db, rows: _lookups(db, rows, 100, 10),
    "1,001 consecutive rows": _one("SELECT * FROM t WHERE id BETWEEN MIDDLE AND MIDDLE + 1000"),
    "300 rows by index": _one(
        "SELECT body FROM t WHERE name BETWEEN printf('n%08d', MIDDLE) AND printf('n%08d', MIDDLE + 299)"
    ),
    "1,111 rows out of order": _one("SELECT * FROM f WHERE id BETWEEN SMALL AND SMALL + 1110"),
    "join of 500 rows": _one(
        "SELECT count(*) FROM t a JOIN t b ON b.id = a.id + 9999 WHERE a.id BETWEEN 100 AND 600"
    ),
    "full-text search": _one("SELECT rowid FROM s WHERE s MATCH 'word7919' LIMIT 50"),
    "aggregate of 3,000 rows": _one(
        "SELECT id % 7, count(*), max(length(body)) FROM t WHERE id < 3000 GROUP BY 1"
    ),
    "JSON of 2,000 rows": _one(
        "SELECT sum(json_extract(body, '$.n')) FROM t WHERE id BETWEEN MIDDLE AND MIDDLE + 2000"
    ),
    "index scan": _one("SELECT count(*) FROM t INDEXED BY t_name WHERE name > ''"),
    "ORDER BY of 2,000 rows": _one("SELECT id FROM t WHERE id < 2000 ORDER BY json_extract(body, '$.n')"),
    "full scan": _one("SELECT count(*), sum(length(body)) FROM t"),
    "full scan out of order": _one("SELECT count(*), sum(length(body)) FROM f"),
}


PARTS = 50
SAMPLES: dict[str, Query] = {
    "full scan": _one(f"SELECT count(*), sum(length(body)) FROM t WHERE id < (SELECT max(id) FROM t) / {PARTS}"),
    "full scan out of order": _one(
        f"SELECT count(*), sum(length(body)) FROM f WHERE id < (SELECT max(id) FROM f) / {PARTS}"
    ),
}
"""The same work on a part of the table, for readers that make one request for each page."""

LEVELS = ("nothing", "interior", "index", "everything")
"""What is cached before a workload begins."""


def warm_up(db: Any, rows: int, level: str, work: Query) -> None:
    """Bring what a level means into the cache, by the reader's own means."""
    chance = random.Random(3)
    if level == "interior":
        for _ in range(40):
            db.execute("SELECT id FROM t WHERE id = ?", (chance.randrange(rows),)).fetchall()
            db.execute("SELECT id FROM f WHERE id = ?", (chance.randrange(rows // 8),)).fetchall()
            db.execute("SELECT id FROM t WHERE name = ?", (f"n{chance.randrange(rows):08}",)).fetchall()
    elif level == "index":
        db.execute("SELECT count(*) FROM t INDEXED BY t_name WHERE name > ''").fetchall()
    elif level == "everything":
        work(db, rows)


def prepare(reader: str) -> None:
    """Load what the reader consists of: start-up is not what is measured."""
    import apsw

    if reader == "litestream":
        import litestream_vfs

        loader = apsw.Connection(":memory:")
        loader.enable_load_extension(True)
        loader.load_extension(litestream_vfs.loadable_path())
    elif reader == "vfsstream":
        import boto3  # noqa: F401
        import numpy  # noqa: F401

        import vfsstream.vfs.database  # noqa: F401


def connect(reader: str, url: str, options: str) -> Any:
    """A connection of one of the readers; ``local`` reads a plain file."""
    import apsw

    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    if reader == "local":
        return apsw.Connection(url, flags=apsw.SQLITE_OPEN_READONLY)
    if reader == "litestream":
        return apsw.Connection("file:bench.db?vfs=litestream", flags=flags)
    import vfsstream

    vfsstream.register()
    return apsw.Connection(f"file:bench.db?vfs=litestream&replica_url={quote(url, safe='')}{options}", flags=flags)


def _state(control: str) -> dict[str, Any]:
    if not control:
        return {"counts": {}, "sent": 0}
    with urlopen(f"{control}/-/state", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def main() -> None:
    """Run one reader in this process and print what it took, as JSON lines."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("reader", choices=["litestream", "vfsstream", "local"])
    parser.add_argument("url")
    parser.add_argument("--control", default="")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--options", default="")
    parser.add_argument("--work", action="append", default=[])
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which nothing more is begun")
    parser.add_argument(
        "--again", action="store_true", help="run each workload before, report the median of ten or more"
    )
    parser.add_argument("--level", choices=LEVELS, default="nothing", help="what is cached before")
    parser.add_argument("--hydrated", action="store_true", help="wait until the local copy is complete")
    parser.add_argument("--sample", action="store_true", help="full scans of a part of the table only")
    given = parser.parse_args()
    begun = time.monotonic()
    prepare(given.reader)
    before, started = _state(given.control), time.perf_counter()
    db = connect(given.reader, given.url, given.options)
    db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    if given.hydrated:
        while db.execute("PRAGMA litestream_hydration_progress").fetchall() != [("100",)]:
            time.sleep(0.1)
        db = connect(given.reader, given.url, given.options)
    _report("open", time.perf_counter() - started, before, given.control)
    for name in given.work or WORKLOADS:
        if time.monotonic() - begun > given.limit:
            break
        sampled = given.sample and name in SAMPLES
        work = SAMPLES[name] if sampled else WORKLOADS[name]
        warm_up(db, given.rows, "everything" if given.again else given.level, work)
        _settle(given.control)
        before, times = _state(given.control), []
        while not times or (given.again and (len(times) < 10 or (sum(times) < 0.2 and len(times) < 500))):
            started = time.perf_counter()
            work(db, given.rows)
            times.append(time.perf_counter() - started)
        _report(name, statistics.median(times), before, given.control, PARTS if sampled else 1)
    db.close()
    sys.stdout.flush()
    os._exit(0)  # the extension's own threads do not end


def _settle(control: str) -> None:
    """Wait until what is fetched in the background is here; looks for news go on."""
    last, quiet = _state(control)["sent"], 0
    while control and quiet < 3:
        time.sleep(0.1)
        now = _state(control)["sent"]
        quiet, last = quiet + 1 if now - last < 4096 else 0, now


def _report(name: str, seconds: float, before: dict[str, Any], control: str, parts: int = 1) -> None:
    after = _state(control)
    counts = {
        kind: parts * (after["counts"].get(kind, 0) - before["counts"].get(kind, 0)) for kind in ("GET", "LIST")
    }
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = {
        "name": name,
        "seconds": parts * seconds,
        **counts,
        "bytes": parts * (after["sent"] - before["sent"]),
        "memory_mb": memory,
        "sampled": parts > 1,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
