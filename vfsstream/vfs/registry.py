"""The databases that this process has open: one per replica and options, counted, closed when long unused."""

from __future__ import annotations

import atexit
import os
import threading
import time
from dataclasses import dataclass, field

from vfsstream.vfs.database import Database
from vfsstream.vfs.options import Options

__all__ = ["Registry", "registry"]

LINGER = 5.0
"""Seconds that a database without users stays open: web frameworks open and close a connection per request."""


@dataclass
class _Entry:
    users: int = 0
    database: Database | None = None
    idle_since: float = 0.0
    opening: threading.Lock = field(default_factory=threading.Lock)


def _never() -> None:
    pass


class Registry:
    """Hands out shared databases."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _entries and every entry's users and idle_since
        self._entries: dict[Options, _Entry] = {}
        self._reaper: threading.Thread | None = None
        self._exiting = False

    def acquire(self, options: Options) -> Database:
        """The database of these options, opened when it is not yet; give it back with :meth:`release`.

        Concurrent callers wait for one opening. A failed one is forgotten and harms nobody.
        """
        with self._lock:
            entry = self._entries.setdefault(options, _Entry())
            entry.users += 1
            returning = entry.users == 1 and entry.database is not None
        try:
            with entry.opening:  # others who want the same replica have nothing better to do than wait
                if entry.database is None:
                    entry.database = Database(options)
                elif returning and entry.database.follower is not None:
                    entry.database.follower.refresh(_never, full=True)
                return entry.database
        except BaseException:
            self.release(options)
            raise

    def release(self, options: Options) -> None:
        """Give back what :meth:`acquire` returned."""
        closing = None
        with self._lock:
            entry = self._entries.get(options)
            if entry is None:
                return
            entry.users -= 1
            if entry.users > 0 or self._exiting:
                return
            entry.idle_since = time.monotonic()
            if entry.database is None or entry.database.follower is None:
                del self._entries[options]
                closing = entry.database
            elif self._reaper is None:
                self._reaper = threading.Thread(target=self._reap, name="vfsstream-reaper", daemon=True)
                self._reaper.start()
        if closing is not None:
            closing.close()

    def _reap(self) -> None:
        while True:
            time.sleep(LINGER / 5)
            self.close_idle(LINGER)
            with self._lock:
                if not any(entry.users == 0 for entry in self._entries.values()):
                    self._reaper = None
                    return

    def close_idle(self, older_than: float = 0.0) -> None:
        """Close databases that nobody has used for so many seconds."""
        now = time.monotonic()
        with self._lock:
            idle = [
                options
                for options, entry in self._entries.items()
                if entry.users == 0 and entry.database is not None and now - entry.idle_since >= older_than
            ]
            closing = [self._entries.pop(options).database for options in idle]
        for database in closing:
            if database is not None:
                database.close()

    def open_databases(self) -> list[Database]:
        """Every database that is open now."""
        with self._lock:
            return [entry.database for entry in self._entries.values() if entry.database is not None]

    def before_fork(self) -> None:
        """In the parent: threads that have just been started come to rest."""
        for database in self.open_databases():
            if database.follower is not None:
                database.follower.before_fork()

    def after_fork(self) -> None:
        """In a child process: locks and threads of the parent mean nothing here."""
        self._lock = threading.Lock()
        self._reaper = None
        for entry in self._entries.values():
            entry.opening = threading.Lock()
            if entry.database is not None:
                entry.database.after_fork()

    def close_all(self) -> None:
        """At exit: stop every thread, and start none when connections are destroyed later."""
        self._exiting = True
        for database in self.open_databases():
            database.close()


registry = Registry()
atexit.register(registry.close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=registry.before_fork, after_in_child=registry.after_fork)
