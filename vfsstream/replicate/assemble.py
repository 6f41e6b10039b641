"""One pass over the files of a plan, newest first: each page is written once, to its place."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from vfsstream.errors import Interrupted, LtxError
from vfsstream.ltx.decoder import Decoder, Run
from vfsstream.ltx.frames import max_frame_size
from vfsstream.ltx.header import Header
from vfsstream.plan.files import FileInfo
from vfsstream.replica.download import RANGE_SIZE, Downloader
from vfsstream.replica.reader import read_index
from vfsstream.replica.replica import Replica
from vfsstream.replicate.partial import Note
from vfsstream.replicate.target import Target

__all__ = ["Assembly", "Meter", "RestoreProgress", "open_file"]

SAVE_EVERY = 64 << 20
"""Bytes of one file after which it is noted how far it is."""


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
    decoder.header.check_span(info.min_txid, info.max_txid, name)
    return decoder


class Assembly:
    """The pages of a database on their way into a target.

    Args:
        replica: where the files are.
        final: header of the newest file.
        target: where the pages go.
        meter: counts.
        note: how far one of the files was applied by a restore that was killed.

    Attributes:
        present: by page number, 1 where the page is in the target.
        resumed: the note was used, so that a failure may be its fault.
    """

    def __init__(
        self, replica: Replica, final: Header, target: Target, meter: Meter, note: Note | None = None
    ) -> None:
        self.replica, self.final, self.target, self.meter, self.note = replica, final, target, meter, note
        self.present = bytearray(final.commit + 1)
        self.resumed = False
        self._wanted = final.commit - (final.lock_pgno <= final.commit)
        self._taken = bytearray()
        self._saved = 0

    def run(self, downloader: Downloader, files: Iterator[tuple[FileInfo, Decoder | Iterator[bytes]]]) -> None:
        """Apply the files, newest first; one that cannot give a page any more is not read.

        Args:
            downloader: that the files come from.
            files: each opened already, or as chunks.

        Raises:
            LtxError: a file is damaged, or the files together lack a page.
        """
        for info, source in files:
            if self.present.count(1) == self._wanted:
                break
            if isinstance(source, Decoder):
                self.apply(info, source)
            elif not self._is_replaced(info):
                decoder = self._resume(info, downloader)
                self.apply(info, decoder or open_file(self.replica, info, self.meter.read(source)))
        self.meter.total = self.meter.done
        self.meter.report()
        self._check_complete()

    def _resume(self, info: FileInfo, downloader: Downloader) -> Decoder | None:
        """The rest of a file whose beginning a killed restore has applied; ``None`` to read it from its start."""
        note = self.note
        if note is None or (note.name, note.size) != (self.replica.key(info), info.size):
            return None
        self.note = None
        indexed = read_index(self.replica, info)
        index, commit = indexed.index, self.final.commit
        needed = array(
            "I", (pgno for pgno, _, _ in islice(index, note.pages) if pgno <= commit and not self.present[pgno])
        )
        if indexed.header.page_size != self.final.page_size or not all(
            pgno < len(note.taken) and note.taken[pgno] for pgno in needed
        ):
            return None
        self.resumed = True
        chunks = chain([indexed.header.pack()], downloader.read(info, note.offset))
        self.meter.total -= note.offset
        decoder = open_file(self.replica, info, self.meter.read(chunks))
        decoder.resume(note.offset, note.checksum, islice(index, note.pages))
        self._taken = bytearray(len(self.present))
        for pgno in needed:
            self._taken[pgno] = self.present[pgno] = 1
        return decoder

    def _is_replaced(self, info: FileInfo) -> bool:
        """Newer files hold all the pages of a large one. Its index is read only when that may be so."""
        fewest = info.size // max_frame_size(self.final.page_size)
        if info.size <= RANGE_SIZE or info.is_snapshot or self.present.count(1) < fewest:
            return False
        index = read_index(self.replica, info).index
        return all(pgno > self.final.commit or self.present[pgno] for pgno, _, _ in index)

    def apply(self, info: FileInfo, decoder: Decoder) -> None:
        """Write the pages of one file that no newer file holds; its checksum is verified at its end."""
        size = decoder.header.page_size
        if size != self.final.page_size:
            raise LtxError(f"page size {size}, expected {self.final.page_size}", name=decoder.name)
        if not self._taken:
            self._taken = bytearray(len(self.present))
        for run in decoder.runs():
            for pgno, pages in missing_pages(run, self.present, self.final.commit):
                self.target.write_pages(pages, (pgno - 1) * size)
                marks = b"\1" * len(pages)
                self.present[pgno : pgno + len(pages)] = self._taken[pgno : pgno + len(pages)] = marks
                self.meter.pages += len(pages)
            self._save(info, decoder)
        self._taken = bytearray()
        self._saved = 0

    def _save(self, info: FileInfo, decoder: Decoder) -> None:
        """Note from time to time how far a large file is; the larger, the longer the time."""
        offset, checksum, pages = decoder.position()
        if offset - self._saved >= max(SAVE_EVERY, info.size // 64):
            self._saved = offset
            self.target.save(Note(self.replica.key(info), info.size, offset, checksum, pages, bytes(self._taken)))

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
