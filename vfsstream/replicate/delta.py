"""Delta restore: an existing copy of a database is brought to another TXID by fetching what differs."""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random

from vfsstream.errors import DatabaseError, Interrupted, LtxError
from vfsstream.ltx.frames import decode_frame
from vfsstream.ltx.header import Header
from vfsstream.ltx.names import LEVELS, TXID
from vfsstream.plan.changes import covering
from vfsstream.plan.files import FileInfo
from vfsstream.replica.reader import IndexedFile, read_frames, read_indexes
from vfsstream.replica.replica import Replica
from vfsstream.replicate.assemble import RestoreProgress
from vfsstream.replicate.follow import read_txid_file, write_txid_file
from vfsstream.replicate.integrity import IntegrityCheck, check_integrity
from vfsstream.replicate.planning import find_plan
from vfsstream.replicate.restore import restore
from vfsstream.replicate.target import Target, check_target

__all__ = ["DeltaResult", "restore_delta"]

_REQUESTS = 8
_SAMPLE = 32
_PIECE = 64 << 20
_FEW = 1024
"""Pages of half a database that are fetched one by one in any case."""


@dataclass(frozen=True, slots=True)
class DeltaResult:
    """What a delta restore did.

    Attributes:
        output: path of the database.
        base: TXID that it had.
        txid: TXID that it has now.
        pages: pages fetched.
        read: bytes fetched for pages; indexes not counted.
        full: the changes could not be told apart, so everything was restored.
        seconds: duration.
    """

    output: Path
    base: TXID
    txid: TXID
    pages: int
    read: int
    full: bool
    seconds: float


def restore_delta(
    replica: Replica,
    output: str | os.PathLike[str],
    *,
    base: int | None = None,
    txid: int | None = None,
    timestamp: datetime | None = None,
    integrity_check: IntegrityCheck = "quick",
    parallelism: int | None = None,
    progress: Callable[[RestoreProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> DeltaResult:
    """Bring a copy that an earlier restore made forward, or back, to a TXID or a time.

    Only pages that changed between the two moments are fetched. The copy must be as it was restored: a sample of
    its other pages is compared with the replica, and SQLite checks the result, before it replaces the copy.

    Args:
        replica: where from.
        output: the existing copy.
        base: its TXID; by default what ``<output>-txid`` says.
        txid: wanted; the newest when neither this nor ``timestamp`` is given.
        timestamp: the newest state strictly older than this.
        integrity_check: SQLite's check before the swap.
        parallelism: requests at once.
        progress: called after each file of pages.
        stop: set to give up; the copy stays as it was.

    Raises:
        DatabaseError: no copy, an unknown TXID, a copy that is open, or one that is not what ``base`` says.
        NotRestorable, ReplicaEmpty: nothing leads to the wanted moment.
        LtxError: a damaged file.
        Interrupted: ``stop`` was set.
    """
    started = time.monotonic()
    path = Path(output).absolute()
    check_target(path, force=True)
    known = _base(path, base)
    plan = find_plan(replica, txid=txid, timestamp=timestamp, parallelism=parallelism)
    wanted = plan[-1].max_txid
    between = covering(replica.all_files(LEVELS), min(known, wanted), max(known, wanted))
    job = _Job(replica, path, parallelism, progress, stop or threading.Event(), started)
    full = between is None or not job.run(plan, between, integrity_check)
    if full:
        restore(
            replica,
            path,
            txid=wanted,
            force=True,
            integrity_check=integrity_check,
            parallelism=parallelism,
            progress=progress,
            stop=stop,
        )
    write_txid_file(path, wanted)
    return DeltaResult(path, known, wanted, job.pages, job.read, full, time.monotonic() - started)


def _base(path: Path, base: int | None) -> TXID:
    if not path.exists():
        raise DatabaseError(f"no such database: {path}", hint="restore it first")
    known = TXID(base) if base else read_txid_file(path)
    if not known:
        raise DatabaseError(
            f"the TXID of {path} is not known: no valid {path.name}-txid beside it",
            hint="state it, or restore anew",
        )
    return known


class _Job:
    def __init__(
        self,
        replica: Replica,
        path: Path,
        parallelism: int | None,
        progress: Callable[[RestoreProgress], None] | None,
        stop: threading.Event,
        started: float,
    ) -> None:
        self.replica, self.path, self.parallelism = replica, path, parallelism or _REQUESTS
        self.progress, self.stop, self.started = progress, stop, started
        self.pages = self.read = self.total = 0

    def run(self, plan: Sequence[FileInfo], between: Sequence[FileInfo], integrity_check: IntegrityCheck) -> bool:
        """``False`` when the copy cannot be brought there page by page, or most pages differ."""
        infos = list(dict.fromkeys([*plan, *between]))
        indexes = dict(zip(infos, read_indexes(self.replica, infos, self.parallelism), strict=True))
        final = indexes[plan[-1]].header
        if len({file.header.page_size for file in indexes.values()} | {_page_size(self.path)}) > 1:
            return False
        files = [indexes[info] for info in plan]
        places = _places(files, final)
        changed = self._changed([indexes[info] for info in between], final)
        wanted: dict[int, array[int]] = defaultdict(lambda: array("I"))
        for pgno in range(1, final.commit + 1):
            if changed[pgno] and places[pgno] >= 0:
                wanted[places[pgno]].append(pgno)
        if sum(map(len, wanted.values())) > final.commit // 2 >= _FEW:
            return False
        self._sample(files, places, changed, final)
        self._write(files, wanted, final, integrity_check)
        return True

    def _changed(self, between: Sequence[IndexedFile], final: Header) -> bytearray:
        """Which pages of the wanted state are to be fetched, by page number."""
        changed = bytearray(final.commit + 1)
        for file in between:
            for pgno, _, _ in file.index:
                if pgno <= final.commit:
                    changed[pgno] = 1
        held = self.path.stat().st_size // final.page_size
        changed[held + 1 :] = b"\x01" * max(0, final.commit - held)
        changed[1] = 1  # follow mode changes it
        return changed

    def _sample(
        self, files: Sequence[IndexedFile], places: Sequence[int], changed: bytearray, final: Header
    ) -> None:
        """Compare some of the pages that should not have changed: the copy may not be what it is said to be."""
        pgnos = range(1, final.commit + 1)
        same = array("I", (pgno for pgno in pgnos if places[pgno] >= 0 and not changed[pgno]))
        chosen = sorted(Random(0).sample(same, min(_SAMPLE, len(same))))
        size = final.page_size
        with open(self.path, "rb") as local:
            for pgno in chosen:
                file = files[places[pgno]]
                for _, _, frame in read_frames(self.replica, file, [pgno]):
                    local.seek((pgno - 1) * size)
                    if local.read(size) != decode_frame(frame, size, pgno, self.replica.key(file.info)):
                        raise DatabaseError(
                            f"{self.path} is not what the replica held at the stated TXID: page {pgno} differs",
                            hint="it was written to, or belongs to another history; restore it anew with -force",
                        )

    def _write(
        self,
        files: Sequence[IndexedFile],
        wanted: Mapping[int, Sequence[int]],
        final: Header,
        integrity_check: IntegrityCheck,
    ) -> None:
        size = final.page_size
        self.total = sum(place[1] for at, pgnos in wanted.items() for place in _found(files[at], pgnos))
        with Target(self.path, final.commit * size) as target:
            _copy(self.path, target, self.stop)
            for pgno, page in self._fetch(files, wanted, size):
                target.write(page, (pgno - 1) * size)
            if final.lock_pgno <= final.commit:
                target.write(bytes(size), (final.lock_pgno - 1) * size)
            target.complete()
            check_integrity(target.path, integrity_check)
            check_target(self.path, force=True)
            target.publish()

    def _fetch(
        self, files: Sequence[IndexedFile], wanted: Mapping[int, Sequence[int]], size: int
    ) -> Iterator[tuple[int, bytes]]:
        def one(task: tuple[int, Sequence[int]]) -> list[tuple[int, bytes]]:
            if self.stop.is_set():
                raise Interrupted(f"delta restore of {self.path} interrupted; nothing was changed")
            file = files[task[0]]
            name = self.replica.key(file.info)
            found = []
            for pgno, offset, frame in read_frames(self.replica, file, task[1]):
                found.append((pgno, decode_frame(frame, size, pgno, name, offset)))
                self.read += len(frame)
            if len(found) != len(task[1]):
                raise LtxError("the page index changed while it was read", name=name)
            return found

        step = max(1, (1 << 20) // size)
        tasks = [
            (at, pgnos[start : start + step])
            for at, pgnos in wanted.items()
            for start in range(0, len(pgnos), step)
        ]
        with ThreadPoolExecutor(max(1, self.parallelism), thread_name_prefix="vfsstream-delta") as pool:
            for start in range(0, len(tasks), 2 * self.parallelism):  # bounds what is held in memory
                for found in pool.map(one, tasks[start : start + 2 * self.parallelism]):
                    self.pages += len(found)
                    yield from found
                    self._report()

    def _report(self) -> None:
        if self.progress is not None:
            seconds = time.monotonic() - self.started
            self.progress(RestoreProgress(self.read, self.total, self.pages, seconds))


def _places(files: Sequence[IndexedFile], final: Header) -> array[int]:
    """Which file of the plan holds each page of the wanted state, by page number; -1 for none."""
    places = array("i", [-1]) * (final.commit + 1)
    for at, file in enumerate(files):
        for pgno, _, _ in file.index:
            if pgno <= final.commit:
                places[pgno] = at
    return places


def _found(file: IndexedFile, pgnos: Sequence[int]) -> Iterator[tuple[int, int]]:
    for pgno in pgnos:
        place = file.index.find(pgno)
        if place is not None:
            yield place


def _page_size(path: Path) -> int:
    with open(path, "rb") as file:
        stored = int.from_bytes(file.read(18)[16:], "big")
    return 65536 if stored == 1 else stored


def _copy(path: Path, target: Target, stop: threading.Event) -> None:
    """Copy the old file, by reference where the file system can."""
    by_kernel, at = hasattr(os, "copy_file_range"), 0
    with open(path, "rb") as source:
        while not stop.is_set():
            if by_kernel:
                try:
                    done = os.copy_file_range(source.fileno(), target.descriptor, _PIECE, at, at)
                except OSError:  # an old kernel, a file system that cannot; what is truly wrong shows below
                    by_kernel = False
                    continue
            else:
                source.seek(at)
                data = source.read(1 << 20)
                target.write(data, at)
                done = len(data)
            if not done:
                return
            at += done
    raise Interrupted(f"delta restore of {path} interrupted; nothing was changed")
