"""Bring back any kept moment of a database from its replica."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path

from vfsstream.errors import LtxError, NotFound, UsageError
from vfsstream.ltx.decoder import Decoder
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.names import LEVELS, TXID
from vfsstream.plan.files import FileInfo
from vfsstream.plan.points import every_file, nearest, restorable
from vfsstream.replica.download import Downloader
from vfsstream.replica.replica import Replica
from vfsstream.replicate.assemble import Assembly, Meter, RestoreProgress, open_file
from vfsstream.replicate.integrity import IntegrityCheck, check_integrity
from vfsstream.replicate.partial import find_partial
from vfsstream.replicate.planning import find_plan
from vfsstream.replicate.target import Target, check_target

__all__ = ["IntegrityCheck", "RestoreProgress", "RestoreResult", "restore"]

_ATTEMPTS = 3


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


def restore(
    replica: Replica,
    output: str | os.PathLike[str],
    *,
    txid: int | None = None,
    timestamp: datetime | None = None,
    allow_gap: bool = False,
    force: bool = False,
    integrity_check: IntegrityCheck = "none",
    parallelism: int | None = None,
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
        parallelism: requests at once; by default what the kind of store can use.
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
    check_target(path, force=force)
    meter = Meter(progress, stop or threading.Event())

    def accept(made: Path) -> None:
        check_integrity(made, integrity_check)
        check_target(path, force=force)  # it may have appeared meanwhile

    for attempt in range(_ATTEMPTS):
        plan = find_plan(replica, txid=txid, timestamp=timestamp, allow_gap=allow_gap, parallelism=parallelism)
        try:
            header = _make(replica, plan, path, parallelism, meter, accept)
            break
        except _Unusable as error:
            if attempt == _ATTEMPTS - 1:
                raise error.error from error
        except NotFound:  # compaction or retention removed a file between listing and reading: plan anew
            if attempt == _ATTEMPTS - 1:
                raise
        except LtxError as error:
            raise _with_clean_neighbour(replica, plan, error) from error
    size = header.commit * header.page_size
    seconds = time.monotonic() - meter.started
    return RestoreResult(
        path, header.max_txid, header.timestamp, size, tuple(plan), meter.done, seconds, integrity_check
    )


def _make(
    replica: Replica,
    plan: list[FileInfo],
    output: Path,
    parallelism: int | None,
    meter: Meter,
    accept: Callable[[Path], None],
) -> Header:
    """Assemble the files of a plan beside the target, check what came out, swap it in."""
    meter.begin(sum(info.size for info in plan))
    partial = find_partial(output)
    with Downloader(replica, parallelism, meter.stop) as downloader:
        files: Iterator[tuple[FileInfo, Decoder | Iterator[bytes]]] = iter(downloader.files(plan[::-1]))
        try:
            final, files = _newest(replica, plan[-1], files, meter, ask=partial is not None)
        except BaseException:
            if partial is not None:
                os.close(partial.descriptor)
            raise
        with Target(output, final.commit * final.page_size, partial) as target:
            assembly = Assembly(replica, final, target, meter, partial.note if partial else None)
            try:
                assembly.run(downloader, files)
            except LtxError as error:
                if assembly.resumed:
                    raise _Unusable(error) from error
                raise
            target.complete()
            accept(target.path)
            target.publish()
    return final


class _Unusable(Exception):
    """Going on from what a killed restore left has failed; a start from nothing may succeed."""

    def __init__(self, error: LtxError) -> None:
        super().__init__(error)
        self.error = error


def _newest(
    replica: Replica,
    info: FileInfo,
    files: Iterator[tuple[FileInfo, Decoder | Iterator[bytes]]],
    meter: Meter,
    *,
    ask: bool,
) -> tuple[Header, Iterator[tuple[FileInfo, Decoder | Iterator[bytes]]]]:
    """The header of the newest file, and all files. Asked for alone, it is known before anything else is read."""
    if ask:
        return Header.unpack(replica.fetch(info, 0, HEADER_SIZE).data, replica.key(info)), files
    _, chunks = next(files)
    assert not isinstance(chunks, Decoder)
    decoder = open_file(replica, info, meter.read(chunks))
    return decoder.header, chain([(info, decoder)], files)


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
