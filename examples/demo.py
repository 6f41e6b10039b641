"""The main job in one run: replicate a live database, query it from its replica, look into its past, restore it.

The replica is a folder here; any other URL works the same: ``s3://bucket/path``, ``gs://…``, ``sftp://…``.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import apsw

import vfsstream

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-data").absolute()
DATABASE = FOLDER / "app.db"
REPLICA = f"file://{FOLDER}/replica"
PROGRAM = [sys.executable, "-m", "vfsstream"]


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def create() -> sqlite3.Connection:
    connection = sqlite3.connect(DATABASE)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, price REAL, at TEXT)")
    connection.executemany(
        "INSERT INTO orders (item, price, at) VALUES (?, ?, datetime())",
        [(f"item {number % 97}", number % 1000 / 10) for number in range(50_000)],
    )
    connection.commit()
    return connection


def value(reader: apsw.Connection, sql: str) -> object:
    return reader.execute(sql).fetchall()[0][0]


def wait_until(reader: apsw.Connection, sql: str, wanted: int) -> float:
    """Ask the replica until it shows what was committed; returns the seconds that took."""
    started = time.monotonic()
    while value(reader, sql) != wanted:
        if time.monotonic() - started > 60:
            raise SystemExit("the replica does not follow: see the lines above")
        time.sleep(0.01)
    return time.monotonic() - started


def read_live(writer: sqlite3.Connection) -> str:
    """Query the replica while the database goes on changing; returns the TXID before the last change."""
    with closing(vfsstream.connect(REPLICA, poll_interval="100ms", wait="30s")) as reader:
        wait_until(reader, "SELECT count(*) FROM orders", 50_000)
        say("The replica answers SQL, page by page, without a copy of the database:")
        for row in reader.execute(
            "SELECT item, count(*), round(sum(price), 1) FROM orders GROUP BY item ORDER BY 3 DESC LIMIT 3"
        ):
            print("  ", *row, sep="  ")
        say("…and follows the primary:")
        for number in range(3):
            writer.execute("INSERT INTO orders (item, price, at) VALUES ('live', ?, datetime())", (number,))
            writer.commit()
            seconds = wait_until(reader, "SELECT count(*) FROM orders WHERE item = 'live'", number + 1)
            print(f"   a new order was visible after {seconds * 1000:.0f} ms")
        before = str(value(reader, "SELECT litestream_txid()"))
        writer.execute("DELETE FROM orders WHERE id % 2")
        writer.commit()
        wait_until(reader, "SELECT count(*) FROM orders WHERE id % 2", 0)
        say(f"Half of the orders were deleted by mistake. The past is still there, at TXID {before}:")
        with closing(vfsstream.connect(REPLICA, txid=before)) as past:
            print("   now: ", value(reader, "SELECT count(*) FROM orders"), "orders")
            print("   then:", value(past, "SELECT count(*) FROM orders"), "orders")
    return before


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    writer = create()
    say(f"$ vfsstream replicate {DATABASE} {REPLICA}")
    replicator = subprocess.Popen([*PROGRAM, "replicate", DATABASE, REPLICA], stdout=subprocess.DEVNULL)
    try:
        before = read_live(writer)
    finally:
        writer.close()
        replicator.send_signal(signal.SIGINT)
        status = replicator.wait(60)
    print("   stopped with exit status", status, "(0: everything is in the replica)")
    restored = FOLDER / "restored.db"
    command = ["restore", "-o", str(restored), "-txid", before, "-integrity-check", "quick", REPLICA]
    say(f"$ vfsstream {' '.join(command)}")
    subprocess.run([*PROGRAM, *command], check=True)
    with closing(sqlite3.connect(restored)) as connection:
        print("  ", connection.execute("SELECT count(*) FROM orders").fetchone()[0], "orders restored")
    say(f"Everything is in {FOLDER}. Try:\n   vfsstream shell {REPLICA}")


if __name__ == "__main__":
    main()
