"""A stand-in for an application: counts in a SQLite database until it is told to stop."""

import os
import signal
import sqlite3
import sys
import threading

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())

with sqlite3.connect(os.environ.get("DB_PATH", "/data/app.db")) as database:
    database.execute("PRAGMA journal_mode = wal")
    database.execute("CREATE TABLE IF NOT EXISTS visits (at TEXT DEFAULT CURRENT_TIMESTAMP)")
    while True:
        database.execute("INSERT INTO visits DEFAULT VALUES")
        database.commit()
        if stop.wait(float(os.environ.get("PAUSE", "1"))):
            break
sys.exit(0)
