"""One pass over the files of a plan, newest first: each page is written once, to its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vfsstream.errors import Interrupted, LtxError
from vfsstream.ltx.decoder import Decoder, Run
from vfsstream.ltx.frames import max_frame_size
from vfsstream.ltx.header import Header
from vfsstream.plan.files import FileInfo
from vfsstream.replica.download import RANGE_SIZE
from vfsstream.replica.reader import read_index
from vfsstream.replica.replica import Replica
from vfsstream.replicate.target import Target

__all__ = ["Assembly", "Meter", "RestoreProgress", "open_file"]


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


class Meter:
    """Counts what a restore reads and writes, reports it, and ends it when asked to.

    Attributes:
        done, total, pages: as of :class:`RestoreProgress`.
    """

    def __init__(self, progress: Callable[[RestoreProgress], None] | None, stop: threading.Event) -> None:
        self.stop = stop
        self.started = time.monotonic()
        self.done = self.total = self.pages = 0
        self._progress = progress

    def begin(self, total: int) -> None:
        """Count from the start."""
        self.done, self.total, self.pages = 0, total, 0

    def read(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass chunks on, counted.

        Raises:
            Interrupted: the restore was told to stop.
        """
        for chunk in chunks:
            if self.stop.is_set():
                raise Interrupted("restore interrupted; the target was not changed")
            self.done += len(chunk)
            yield chunk
            self.report()

    def report(self) -> None:
        """Tell how far it is."""
        if self._progress is not None:
            self._progress(RestoreProgress(self.done, self.total, self.pages, time.monotonic() - self.started))


def open_file(replica: Replica, info: FileInfo, chunks: Iterator[bytes]) -> Decoder:
    """A file's decoder, its header checked against its name.

    Raises:
        LtxError: another file stands under the name.
    """
    name = replica.key(info)
    decoder = Decoder(chunks, name, strict=False)
    header = decoder.header
    if (header.min_txid, header.max_txid) != (info.min_txid, info.max_txid):
        raise LtxError(f"header states TXIDs {header.min_txid} to {header.max_txid}", name=name)
    return decoder


class Assembly:
    """The pages of a database on their way into a target.

    Args:
        replica: where the files are.
        final: header of the newest file.
        target: where the pages go.
        meter: counts.
    """

    def __init__(self, replica: Replica, final: Header, target: Target, meter: Meter) -> None:
        self.replica, self.final, self.target, self.meter = replica, final, target, meter
        self.present = bytearray(final.commit + 1)
        self._wanted = final.commit - (final.lock_pgno <= final.commit)

    def run(self, newest: Decoder, older: Iterator[tuple[FileInfo, Iterator[bytes]]]) -> None:
        """Apply the newest file, then the others; a file that cannot give a page any more is not read.

        Raises:
            LtxError: a file is damaged, or the files together lack a page.
        """
        self.apply(newest)
        for info, chunks in older:
            if self.present.count(1) == self._wanted:
                break
            if not self._is_replaced(info):
                self.apply(open_file(self.replica, info, self.meter.read(chunks)))
        self.meter.total = self.meter.done
        self.meter.report()
        self._check_complete()

    def _is_replaced(self, info: FileInfo) -> bool:
        """Newer files hold all the pages of a large one. Its index is read only when that may be so."""
        fewest = info.size // max_frame_size(self.final.page_size)
        if info.size <= RANGE_SIZE or info.is_snapshot or self.present.count(1) < fewest:
            return False
        index = read_index(self.replica, info).index
        return all(pgno > self.final.commit or self.present[pgno] for pgno, _, _ in index)

    def apply(self, decoder: Decoder) -> None:
        """Write the pages of one file that no newer file holds; its checksum is verified at its end."""
        size = decoder.header.page_size
        if size != self.final.page_size:
            raise LtxError(f"page size {size}, expected {self.final.page_size}", name=decoder.name)
        for run in decoder.runs():
            for pgno, pages in missing_pages(run, self.present, self.final.commit):
                self.target.write_pages(pages, (pgno - 1) * size)
                self.present[pgno : pgno + len(pages)] = b"\1" * len(pages)
                self.meter.pages += len(pages)

    def _check_complete(self) -> None:
        lock = self.final.lock_pgno
        missing = self.present.find(0, 1)
        if missing == lock:
            missing = self.present.find(0, missing + 1)
        if missing != -1:
            raise LtxError(f"no file of the plan holds page {missing} of {self.final.commit}")


def missing_pages(run: Run, present: bytearray, commit: int) -> Iterator[tuple[int, Sequence[memoryview]]]:
    """Neighbouring pages of a run that are not there yet, with the number of the first."""
    pgnos, pages = run.pgnos, run.pages()
    first, last = pgnos[0], pgnos[-1]
    if last - first + 1 == len(pgnos) and last <= commit and present.find(1, first, last + 1) < 0:
        yield first, pages
        return
    found: list[memoryview] = []
    start = 0
    for pgno, page in zip(pgnos, pages, strict=True):
        if pgno > commit or present[pgno]:
            continue
        if found and pgno != start + len(found):
            yield start, found
            found = []
        start = start if found else pgno
        found.append(page)
    if found:
        yield start, found
