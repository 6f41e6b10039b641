"""Restore from backups that Litestream 0.3 made: a snapshot and the logs after it, compressed as LZ4 frames."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vfsstream.errors import CorruptError, DatabaseError, Interrupted, ReplicaEmpty
from vfsstream.ltx.names import SNAPSHOT_LEVEL
from vfsstream.plan.files import FileInfo
from vfsstream.plan.generations import (
    Generation,
    OldSegment,
    OldSnapshot,
    choose,
    parse_segment,
    parse_snapshot,
)
from vfsstream.replicate.assemble import RestoreProgress
from vfsstream.replicate.integrity import IntegrityCheck, check_integrity
from vfsstream.replicate.target import Target, check_target
from vfsstream.stores.base import Store

__all__ = ["OldRestoreResult", "find_generations", "prefer_old", "restore_old"]

_ROOT = "generations/"
_KINDS = frozenset({"file", "s3", "memory"})
"""Kinds of store that Litestream 0.3 wrote to in a layout that Litestream 0.5 still reads."""

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class OldRestoreResult:
    """What a restore from a 0.3 backup made.

    Attributes:
        output: path of the database.
        index: of the last log applied.
        size: bytes of the database.
        read: compressed bytes read.
        seconds: duration.
        integrity_check: the check that was passed.
    """

    output: Path
    index: int
    size: int
    read: int
    seconds: float
    integrity_check: IntegrityCheck


def find_generations(store: Store) -> list[Generation]:
    """The 0.3 histories below a replica URL; empty where there are none or the store never held any."""
    if store.kind not in _KINDS:
        return []
    return [_generation(store, name) for name in store.list_prefixes(_ROOT) if _is_generation(name)]


def _is_generation(name: str) -> bool:
    return len(name) == 16 and set(name) <= set("0123456789abcdef")


def _generation(store: Store, name: str) -> Generation:
    snapshots, segments = [], []
    for info in store.list(f"{_ROOT}{name}/snapshots/"):
        index = parse_snapshot(info.key.rpartition("/")[2])
        if index is not None:
            snapshots.append(OldSnapshot(index, info.key, info.modified or _EPOCH, info.size))
    for info in store.list(f"{_ROOT}{name}/wal/"):
        place = parse_segment(info.key.rpartition("/")[2])
        if place is not None:
            segments.append(OldSegment(*place, info.key, info.modified or _EPOCH, info.size))
    return Generation(name, tuple(sorted(snapshots)), tuple(sorted(segments)))


def prefer_old(
    generations: Iterable[Generation], files: dict[int, list[FileInfo]], timestamp: datetime | None
) -> bool:
    """Whether the 0.3 backup is the one to restore where both formats lie side by side, as Litestream decides.

    With a time: the backup whose best snapshot is newer. Without: the one that was written to last.
    """
    generations = list(generations)
    if timestamp is not None:
        old = [s.created_at for g in generations for s in g.snapshots if s.created_at <= timestamp]
        snapshots = files.get(SNAPSHOT_LEVEL, [])
        new = [f.created_at for f in snapshots if f.created_at is not None and f.created_at < timestamp]
    else:
        old = [s.created_at for g in generations for s in g.snapshots]
        old += [s.created_at for g in generations for s in g.segments]
        new = [f.created_at for listed in files.values() for f in listed if f.created_at is not None]
    has_new = any(files.values())
    return bool(old) and (not has_new or max(old) > max(new, default=_EPOCH))


def restore_old(
    store: Store,
    output: str | os.PathLike[str],
    *,
    timestamp: datetime | None = None,
    force: bool = False,
    integrity_check: IntegrityCheck = "none",
    progress: Callable[[RestoreProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> OldRestoreResult:
    """Write the database of a 0.3 backup; the target stays untouched until the new file is complete.

    Args:
        store: where the backup lies.
        output: path of the database to write.
        timestamp: use nothing created later than this (inclusive).
        force: replace an existing database, and its sidecars.
        integrity_check: run before the swap.
        progress: called after each chunk.
        stop: set to give up.

    Raises:
        ReplicaEmpty: no such backup.
        NotRestorable: no snapshot that old, or a segment is missing.
        CorruptError: a file is damaged; named.
        DatabaseError, DiskFull: the target cannot be written.
    """
    started = time.monotonic()
    path = Path(output).absolute()
    check_target(path, force=force)
    generations = find_generations(store)
    if not generations:
        raise ReplicaEmpty(f"{store.describe()} holds no backup of Litestream 0.3")
    snapshot, logs = choose(generations, timestamp)
    total = snapshot.size + sum(segment.size for log in logs for segment in log)
    reader = _Reader(store, total, progress, stop or threading.Event(), started)
    with Target(path, 0) as target:
        end = 0
        for chunk in reader.inflated(snapshot.key):
            target.write(chunk, end)
            end += len(chunk)
        for log in logs:
            _apply_log(target.path, log, reader)
        target.size = os.fstat(target.descriptor).st_size
        target.complete()
        check_integrity(target.path, integrity_check)
        check_target(path, force=force)
        target.publish()
    last = snapshot.index + max(len(logs) - 1, 0)
    return OldRestoreResult(path, last, target.size, reader.done, time.monotonic() - started, integrity_check)


def _apply_log(database: Path, log: list[OldSegment], reader: _Reader) -> None:
    """Rebuild one log beside the database and let SQLite carry it over."""
    wal = database.with_name(f"{database.name}-wal")
    with open(wal, "wb") as file:
        for segment in log:
            if file.tell() != segment.offset:
                raise CorruptError(
                    f"missing log segment: {segment.key} starts at {segment.offset}, expected {file.tell()}"
                )
            for chunk in reader.inflated(segment.key):
                file.write(chunk)
    import apsw

    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except apsw.Error as error:
        raise DatabaseError(f"cannot apply log {log[0].index:08x}: {error}", hint="nothing was changed") from error
    finally:
        connection.close()


class _Reader:
    """Streams compressed objects; counts and reports."""

    def __init__(
        self,
        store: Store,
        total: int,
        progress: Callable[[RestoreProgress], None] | None,
        stop: threading.Event,
        started: float,
    ) -> None:
        self.store, self.total, self.progress, self.stop, self.started = store, total, progress, stop, started
        self.done = 0

    def inflated(self, key: str) -> Iterator[bytes]:
        """The decompressed content of one object.

        Raises:
            CorruptError: LZ4 refuses it, or it ends too early.
        """
        import lz4.frame

        decompressor = lz4.frame.LZ4FrameDecompressor()
        for chunk in self.store.stream(key):
            if self.stop.is_set():
                raise Interrupted("restore interrupted; nothing was changed")
            self.done += len(chunk)
            try:
                yield decompressor.decompress(chunk)
            except (RuntimeError, EOFError) as error:
                raise CorruptError(f"{key}: LZ4 frame is corrupt: {error}") from error
            if self.progress is not None:
                self.progress(RestoreProgress(self.done, self.total, 0, time.monotonic() - self.started))
        if not decompressor.eof:
            raise CorruptError(f"{key}: LZ4 frame ends too early, after {self.done} bytes")
