"""A writer of level-0 files with times of its own: what a replicated database leaves in a replica, without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vfsstream.ltx import TXID, Header, encode
from vfsstream.plan import FileInfo
from vfsstream.replica import Replica

PAGE = 512
START = datetime(2026, 3, 5, 12, 0, 1, tzinfo=UTC)


class Clock:
    """A wall clock and a monotonic one that go together, unless told otherwise."""

    def __init__(self) -> None:
        self.at, self.seconds = START, 1000.0

    def wall(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.seconds += seconds


class Writer:
    """Pages in memory; each commit goes to level 0 of the replica. Remembers every state."""

    def __init__(self, replica: Replica, clock: Clock, pages: int = 20) -> None:
        self.path = Path("/data/app.db")
        self.own_folder: Path | None = None
        self.replica, self.clock = replica, clock
        self.pages = {n: bytes([n]) * PAGE for n in range(1, pages + 1)}
        self.position = TXID(0)
        self.states: dict[int, dict[int, bytes]] = {}
        self.times: dict[int, datetime] = {}
        self.needs_snapshot = False
        self.listing = None
        self.full_reads = 0
        self.forgotten = 0
        self.compared = 0
        self.told = lambda info, full: None

    @property
    def replica_position(self) -> TXID:
        return self.position

    def commit(self, changed: dict[int, int] | None = None, *, upload: bool = True) -> FileInfo:
        self.position = TXID(self.position + 1)
        full = self.position == 1
        touched = {} if changed is None else {n: bytes([fill]) * PAGE for n, fill in changed.items()}
        self.pages.update(touched)
        header = self._header(self.position)
        wanted = self.pages if full else touched
        info = FileInfo(self.position, self.position, 0, 0)
        if upload:
            chunks = encode(header, sorted(wanted.items()))
            info = self.replica.write(0, self.position, self.position, chunks, timestamp=header.timestamp)
            self.told(info, full)
        self.states[int(self.position)] = dict(self.pages)
        self.times[int(self.position)] = datetime.fromtimestamp(header.timestamp / 1000, UTC)
        return info

    def _header(self, first: int) -> Header:
        milliseconds = round(self.clock.at.timestamp() * 1000)
        return Header(PAGE, max(self.pages), TXID(first), self.position, milliseconds)

    def local_file(self, txid: int) -> Path | None:
        return None

    def forget_local(self, max_txid: int) -> None:
        self.forgotten = max_txid

    def snapshot_written(self, txid: int) -> None:
        self.needs_snapshot = self.needs_snapshot and txid < self.position

    def compare_again(self) -> None:
        self.compared += 1

    @contextmanager
    def snapshot_pages(self) -> Iterator[tuple[Header, Iterator[tuple[int, bytes]]]]:
        self.full_reads += 1
        yield self._header(1), iter(sorted(self.pages.items()))
