"""Bring back any kept moment of a database from its replica."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from vfsstream.errors import DatabaseError, Interrupted, LtxError, NotFound, ReplicaEmpty, UsageError
from vfsstream.ltx.decoder import Batch, Decoder
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.names import LEVELS, TXID
from vfsstream.plan.files import FileInfo
from vfsstream.plan.points import every_file, nearest, restorable
from vfsstream.plan.restore import restore_plan
from vfsstream.replica.download import Downloader
from vfsstream.replica.replica import Replica
from vfsstream.replicate.target import Target, check_target

__all__ = ["IntegrityCheck", "RestoreProgress", "RestoreResult", "check_integrity", "find_plan", "restore"]

IntegrityCheck = Literal["none", "quick", "full"]
"""What SQLite checks before the new database replaces anything."""

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    """How far a restore is.

    Attributes:
        done: bytes of LTX files read so far.
        total: bytes of LTX files to read.
        pages: pages written so far.
        seconds: since the start.
    """

    done: int
    total: int
    pages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore made.

    Attributes:
        output: path of the database.
        txid: its TXID.
        timestamp: of its newest transaction, milliseconds since 1970.
        size: bytes of the database.
        files: the LTX files it was made from, in order.
        read: bytes of LTX files read.
        seconds: duration.
        integrity_check: the check that was passed.
    """

    output: Path
    txid: TXID
    timestamp: int
    size: int
    files: tuple[FileInfo, ...]
    read: int
    seconds: float
    integrity_check: IntegrityCheck


_CLOCK_MARGIN = timedelta(minutes=15)
"""No store accepts requests of a client whose clock is farther from its own than this."""


def find_plan(
    replica: Replica,
    *,
    txid: int | None = None,
    timestamp: datetime | None = None,
    allow_gap: bool = False,
    parallelism: int = 8,
) -> list[FileInfo]:
    """List the replica once and choose the files to apply, by the exact times of their headers.

    Raises:
        ReplicaEmpty: no file at all.
        NotRestorable: nothing leads there; the message names the nearest moments that work.
    """
    files = replica.all_files(LEVELS)
    if timestamp is not None:
        files = _with_exact_times(replica, files, timestamp, parallelism)
    if not any(files.values()):
        raise ReplicaEmpty(f"{replica.describe()} holds no LTX files", hint="check the URL and its path")
    return restore_plan(files, txid=txid, timestamp=timestamp, allow_gap=allow_gap)


def _with_exact_times(
    replica: Replica, files: Mapping[int, list[FileInfo]], timestamp: datetime, parallelism: int
) -> dict[int, list[FileInfo]]:
    """Headers are read only where the store's own time leaves the answer open.

    A file is stored after its last commit, but by another clock, and many stores cut the time to whole seconds.
    """
    surely_older = timestamp - _CLOCK_MARGIN

    def exact(info: FileInfo) -> FileInfo | None:
        if info.exact_time or (info.created_at is not None and info.created_at < surely_older):
            return info
        try:
            return replica.exact_time(info)
        except NotFound:  # removed by retention since the listing
            return None

    with ThreadPoolExecutor(max(1, parallelism), thread_name_prefix="vfsstream-times") as pool:
        found = {level: list(pool.map(exact, listed)) for level, listed in files.items()}
    return {level: [info for info in listed if info is not None] for level, listed in found.items()}


def restore(
    replica: Replica,
    output: str | os.PathLike[str],
    *,
    txid: int | None = None,
    timestamp: datetime | None = None,
    allow_gap: bool = False,
    force: bool = False,
    integrity_check: IntegrityCheck = "none",
    parallelism: int = 8,
    progress: Callable[[RestoreProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> RestoreResult:
    """Write the database of a TXID or a time; the newest when neither is given.

    The target stays untouched until the new file is complete, every checksum verified and the integrity check
    passed; then it is swapped in atomically. Memory stays bounded whatever the size of the database.

    Args:
        replica: where from.
        output: path of the database to write.
        txid: exactly this TXID.
        timestamp: the newest state strictly older than this.
        allow_gap: at a gap in the history stop before it instead of refusing.
        force: replace an existing database, and its sidecars.
        integrity_check: run SQLite's ``quick_check`` or ``integrity_check`` before the swap.
        parallelism: requests at once.
        progress: called after each batch of pages.
        stop: set to give up; the target stays as it was.

    Raises:
        ReplicaEmpty, NotRestorable: nothing leads there.
        LtxError: a file is damaged; named, with the nearest clean TXID.
        DatabaseError, DiskFull: the target cannot be written.
        Interrupted: ``stop`` was set.
    """
    path = Path(output).absolute()
    if integrity_check not in ("none", "quick", "full"):
        raise UsageError(f"unknown integrity check {integrity_check!r}", hint="one of: none quick full")
    started = time.monotonic()
    check_target(path, force=force)
    for attempt in range(_ATTEMPTS):
        plan = find_plan(replica, txid=txid, timestamp=timestamp, allow_gap=allow_gap, parallelism=parallelism)
        try:
            job = _Job(replica, plan, path, parallelism, progress, stop or threading.Event(), started)
            header = job.run(integrity_check, force=force)
            break
        except NotFound:  # compaction or retention removed a file between listing and reading: plan anew
            if attempt == _ATTEMPTS - 1:
                raise
        except LtxError as error:
            raise _with_clean_neighbour(replica, plan, error) from error
    return RestoreResult(
        path,
        header.max_txid,
        header.timestamp,
        header.commit * header.page_size,
        tuple(plan),
        job.done,
        time.monotonic() - started,
        integrity_check,
    )


class _Job:
    """One pass over the files of a plan."""

    def __init__(
        self,
        replica: Replica,
        plan: list[FileInfo],
        output: Path,
        parallelism: int,
        progress: Callable[[RestoreProgress], None] | None,
        stop: threading.Event,
        started: float,
    ) -> None:
        self.replica, self.plan, self.output = replica, plan, output
        self.parallelism, self.progress, self.stop, self.started = parallelism, progress, stop, started
        self.total = sum(info.size for info in plan)
        self.done = self.pages = 0

    def run(self, integrity_check: IntegrityCheck, *, force: bool) -> Header:
        last = self.plan[-1]
        name = self.replica.key(last)
        final = Header.unpack(self.replica.fetch(last, 0, HEADER_SIZE).data, name)
        with Target(self.output, final.commit * final.page_size) as target:
            present = bytearray(final.commit + 1)
            wanted = final.commit - (final.lock_pgno <= final.commit)
            # Newest first: each page is written once, and a base that is replaced as a whole is not read.
            with Downloader(self.replica, self.parallelism, self.stop) as downloader:
                for info, chunks in downloader.files(self.plan[::-1]):
                    self._apply(info, self._counted(chunks), target, final, present)
                    if present.count(1) == wanted:
                        self.total = self.done
                        self._report()
                        break
            _check_complete(present, final, name)
            target.complete()
            check_integrity(target.path, integrity_check)
            check_target(self.output, force=force)  # it may have appeared meanwhile
            target.publish()
        return final

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self.stop.is_set():
                raise Interrupted(f"restore of {self.output} interrupted; nothing was changed")
            self.done += len(chunk)
            yield chunk
            self._report()

    def _report(self) -> None:
        if self.progress is not None:
            seconds = time.monotonic() - self.started
            self.progress(RestoreProgress(self.done, self.total, self.pages, seconds))

    def _apply(
        self, info: FileInfo, chunks: Iterator[bytes], target: Target, final: Header, present: bytearray
    ) -> None:
        """Write the pages of one file that no newer file holds; its checksum is verified at its end."""
        name = self.replica.key(info)
        decoder = Decoder(chunks, name, strict=False)
        header = decoder.header
        if (header.min_txid, header.max_txid) != (info.min_txid, info.max_txid):
            raise LtxError(f"header states TXIDs {header.min_txid} to {header.max_txid}", name=name)
        if header.page_size != final.page_size:
            raise LtxError(f"page size {header.page_size}, expected {final.page_size}", name=name)
        for batch in decoder.batches():
            for pgno, pages in _missing_runs(batch, present, final.commit):
                target.write(b"".join(pages), (pgno - 1) * header.page_size)
                present[pgno : pgno + len(pages)] = b"\1" * len(pages)
                self.pages += len(pages)


def _missing_runs(batch: Batch, present: bytearray, commit: int) -> Iterator[tuple[int, list[bytes]]]:
    """Neighbouring pages of a batch that are not there yet, with the number of the first."""
    pgnos, pages = batch.pgnos, batch.pages
    first, last = pgnos[0], pgnos[-1]
    if last - first + 1 == len(pgnos) and last <= commit and present.find(1, first, last + 1) < 0:
        yield first, pages
        return
    run: list[bytes] = []
    start = 0
    for pgno, page in zip(pgnos, pages, strict=True):
        if pgno > commit or present[pgno]:
            continue
        if run and pgno != start + len(run):
            yield start, run
            run = []
        start = start if run else pgno
        run.append(page)
    if run:
        yield start, run


def _check_complete(present: bytearray, header: Header, name: str) -> None:
    missing = present.find(0, 1)
    if missing == header.lock_pgno:
        missing = present.find(0, missing + 1)
    if missing != -1:
        raise LtxError(f"no file of the plan holds page {missing} of {header.commit}", name=name)


def check_integrity(path: Path, kind: IntegrityCheck) -> None:
    """Let SQLite check a finished database that nobody else has open; makes no sidecars.

    Raises:
        DatabaseError: the finding.
    """
    if kind == "none":
        return
    import apsw

    # immutable: the header says WAL, and SQLite would make sidecars beside the temporary file.
    uri = f"{path.as_uri()}?immutable=1"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        check = "quick_check" if kind == "quick" else "integrity_check"
        (found,) = connection.execute(f"PRAGMA {check}(1)").fetchall()[0]
    except apsw.Error as error:
        found = str(error)
    finally:
        connection.close()
    if found != "ok":
        raise DatabaseError(f"post-restore integrity check: {found}", hint="nothing was changed")


def _with_clean_neighbour(replica: Replica, plan: list[FileInfo], error: LtxError) -> LtxError:
    """The error with the newest moment that can be restored without the damaged file."""
    damaged = next((info for info in plan if replica.key(info) == error.name), None)
    if damaged is None:
        return error
    others = [info for info in every_file(replica.all_files(LEVELS)) if info.name != damaged.name]
    before, after = nearest(restorable(others), int(plan[-1].max_txid))
    best = next((point for point in (before, after) if point is not None), None)
    hint = f"without it the nearest restorable TXID is {best.max_txid}" if best else "no other way to restore"
    return LtxError(error.message, name=error.name, offset=error.offset, hint=hint)
