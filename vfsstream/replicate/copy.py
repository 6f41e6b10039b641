"""A second destination: copy what one replica has and another lacks, verified on the way."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

from vfsstream.errors import Interrupted, LtxError, NotFound
from vfsstream.ltx.decoder import Decoder
from vfsstream.ltx.names import LEVELS
from vfsstream.plan.files import FileInfo
from vfsstream.replica.replica import Replica
from vfsstream.replicate.progress import FilesProgress

__all__ = ["CopyResult", "copy"]

_IN_MEMORY = 8 << 20
_CHUNK = 1 << 20
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class CopyResult:
    """What a copy did.

    Attributes:
        copied: files written, or to be written in a dry run.
        skipped: files that the destination had already.
        bytes: bytes written.
        seconds: duration.
    """

    copied: tuple[FileInfo, ...]
    skipped: int
    bytes: int
    seconds: float


def copy(
    source: Replica,
    destination: Replica,
    *,
    parallelism: int = 4,
    dry_run: bool = False,
    progress: Callable[[FilesProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> CopyResult:
    """Copy every file that the destination lacks, or holds with another size.

    Full images come first and level 0 last, so that an interrupted copy leaves a destination from which something
    can be restored; calling again goes on where it ended. Each file's checksum is verified before it is written.

    Raises:
        LtxError: a file of the source is damaged; it is not copied.
        StoreError: one of the stores fails.
        Interrupted: ``stop`` was set.
    """
    started = time.monotonic()
    halt = stop or threading.Event()
    done: list[FileInfo] = []
    skipped = 0
    for round_ in range(_ROUNDS):
        wanted, skipped = _missing(source, destination)
        if dry_run:
            done = wanted
            break
        job = _Copy(source, destination, wanted, progress, halt)
        done += job.run(parallelism)
        if not job.vanished or round_ == _ROUNDS - 1:  # compaction removed files while we read: list again
            break
    size = 0 if dry_run else sum(info.size for info in done)
    return CopyResult(tuple(done), skipped, size, time.monotonic() - started)


def _missing(source: Replica, destination: Replica) -> tuple[list[FileInfo], int]:
    here, there = source.all_files(LEVELS), destination.all_files(LEVELS)
    wanted, skipped = [], 0
    for level in sorted(here, reverse=True):
        present = {(info.min_txid, info.max_txid): info.size for info in there[level]}
        for info in here[level]:
            if present.get((info.min_txid, info.max_txid)) == info.size:
                skipped += 1
            else:
                wanted.append(info)
    return wanted, skipped


class _Copy:
    """One pass over the files that are missing, a level at a time."""

    def __init__(
        self,
        source: Replica,
        destination: Replica,
        wanted: list[FileInfo],
        progress: Callable[[FilesProgress], None] | None,
        stop: threading.Event,
    ) -> None:
        self.source, self.destination, self.wanted = source, destination, wanted
        self.progress, self.stop = progress, stop
        self.vanished = False

    def run(self, parallelism: int) -> list[FileInfo]:
        done: list[FileInfo] = []
        total = sum(info.size for info in self.wanted)
        with ThreadPoolExecutor(max(1, parallelism), thread_name_prefix="vfsstream-copy") as pool:
            for level in sorted({info.level for info in self.wanted}, reverse=True):
                for copied in pool.map(self._one, [info for info in self.wanted if info.level == level]):
                    if copied is None:
                        self.vanished = True
                        continue
                    done.append(copied)
                    if self.progress is not None:
                        size = sum(info.size for info in done)
                        self.progress(FilesProgress(len(done), len(self.wanted), size, total))
        return done

    def _one(self, info: FileInfo) -> FileInfo | None:
        if self.stop.is_set():
            raise Interrupted("copy interrupted; call it again to go on")
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="vfsstream-copy-") as spool:
            try:
                timestamp = self._spool(info, spool)
            except NotFound:
                return None
            spool.seek(0)
            written = self.destination.write(
                info.level,
                info.min_txid,
                info.max_txid,
                iter(lambda: spool.read(_CHUNK), b""),
                timestamp=timestamp,
            )
        if written.size != info.size:
            name = self.destination.key(info)
            raise LtxError(f"stored with {written.size} bytes, expected {info.size}", name=name)
        return written

    def _spool(self, info: FileInfo, spool: IO[bytes]) -> int:
        """Fetch and verify a file; returns the timestamp of its header."""
        decoder = Decoder(self._teed(info, spool), self.source.key(info))
        for _ in decoder:
            pass
        return decoder.header.timestamp

    def _teed(self, info: FileInfo, spool: IO[bytes]) -> Iterator[bytes]:
        for chunk in self.source.stream(info):
            if self.stop.is_set():
                raise Interrupted("copy interrupted; call it again to go on")
            spool.write(chunk)
            yield chunk
