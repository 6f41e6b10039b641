"""Looks at replicas from outside: what the dashboard shows when no replicator runs in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vfsstream.config.secrets import redact
from vfsstream.daemon.manager import DatabaseState
from vfsstream.errors import VfsstreamError
from vfsstream.ltx.names import LEVELS, parse_name
from vfsstream.plan.files import FileInfo
from vfsstream.replica.replica import Replica

__all__ = ["Onlooker"]

_SHOWN_FILES = 500


class Onlooker:
    """Lists each replica every few seconds, in a thread of its own, and remembers what it saw.

    Args:
        replicas: what to look at, by the name that is shown; opened once.
        meta: the directory of local state of a name, where there is one.
        interval: seconds between two looks.
    """

    def __init__(
        self,
        replicas: Mapping[str, Callable[[], Replica]],
        meta: Mapping[str, Path],
        interval: float = 5.0,
        on_look: Callable[[], None] | None = None,
    ) -> None:
        self._meta, self._interval, self._on_look = meta, interval, on_look
        self._replicas = {name: open() for name, open in replicas.items()}
        self._lock = threading.Lock()
        self._states: dict[str, DatabaseState] = {}  # guarded by _lock, as the next
        self._files: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="vfsstream-onlooker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, and close the replicas."""
        self._stop.set()
        self._thread.join(5.0)
        for replica in self._replicas.values():
            replica.close()

    def states(self) -> Sequence[DatabaseState]:
        """What was seen last, by name."""
        with self._lock:
            return [self._states[name] for name in sorted(self._states)]

    def details(self) -> dict[str, Any]:
        """The newest files, for the picture of levels."""
        with self._lock:
            return {"files": list(self._files)}

    def _loop(self) -> None:
        while not self._stop.is_set():
            self.look()
            if self._on_look is not None:
                self._on_look()
            self._stop.wait(self._interval)

    def look(self) -> None:
        """Every replica once."""
        seen: dict[str, DatabaseState] = {}
        files: list[dict[str, Any]] = []
        for name, replica in self._replicas.items():
            try:
                listed = [file for level in replica.all_files(LEVELS).values() for file in level]
                seen[name] = self._state(name, replica, listed)
                files += [_shown(name, file) for file in listed if file.created_at]
            except VfsstreamError as error:
                seen[name] = DatabaseState(
                    name,
                    "error",
                    replica.describe(),
                    replica.store.kind,
                    error=redact(str(error)),
                    consecutive_errors=3,
                )
        files.sort(key=lambda file: file["time"])
        with self._lock:
            self._states, self._files = seen, files[-_SHOWN_FILES:]

    def _state(self, name: str, replica: Replica, files: Sequence[FileInfo]) -> DatabaseState:
        newest = max(files, key=lambda file: file.max_txid, default=None)
        reached = int(newest.max_txid) if newest else 0
        local = self._local(name)
        size = wal = 0
        with suppress(OSError):
            size = Path(name).stat().st_size
        with suppress(OSError):
            wal = Path(f"{name}-wal").stat().st_size
        behind = max(0, local - reached)
        since = newest.created_at if newest else None
        age = (datetime.now(UTC) - since).total_seconds() if behind and since else 0.0
        return DatabaseState(
            name,
            "replicating" if newest else "no backup",
            replica.describe(),
            replica.store.kind,
            txid=max(local, reached),
            replica_txid=reached,
            last_sync_at=since,
            lag_seconds=age,
            lag_txids=behind,
            database_size=size,
            wal_size=wal,
        )

    def _local(self, name: str) -> int:
        directory = self._meta.get(name)
        if directory is None:
            return 0
        try:
            found = [parsed for path in (directory / "ltx" / "0").iterdir() if (parsed := parse_name(path.name))]
        except OSError:
            return 0
        return max((int(high) for _, high in found), default=0)


def _shown(name: str, file: FileInfo) -> dict[str, Any]:
    assert file.created_at is not None
    return {
        "time": file.created_at.isoformat(),
        "db": name,
        "level": file.level,
        "name": file.name,
        "size": file.size,
    }
