"""From the log to one local level-0 file: the shell around the capture decision.

Pages are streamed: a range of the log larger than memory costs four bytes per frame. What was read is believed only
if the log still shows the same lap afterwards; a file is published only if the chain stays contiguous.
"""

from __future__ import annotations

import contextlib
import os
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from vfsstream.errors import DatabaseError, LtxError
from vfsstream.ltx import HEADER_SIZE, TRAILER_SIZE, Decoder, Header, Trailer
from vfsstream.ltx.names import TXID, lock_pgno
from vfsstream.replicate import decide as rules
from vfsstream.replicate.decide import Captured, Decision, Facts, Full, Incremental, Nothing, TailThenLap
from vfsstream.replicate.fingerprints import Fingerprints
from vfsstream.replicate.image import Image, differing, pages_of_image
from vfsstream.replicate.localfiles import LocalFiles, disk_errors
from vfsstream.replicate.logrange import LogRange, Torn, old_lap, scan
from vfsstream.replicate.publish import Plan, Publisher, Written, growth, header_of
from vfsstream.replicate.source import Source
from vfsstream.replicate.state import StateRecord
from vfsstream.replicate.wal import Frame, frame_end, frame_size, frames_in, iter_frames
from vfsstream.replicate.walindex import IndexHeader

__all__ = ["Capture", "Written"]

_ATTEMPTS = 8


class Capture:
    """Writes local files for one open source. Not thread-safe.

    Args:
        clock: seconds since 1970.
        at_point: told the name of each step, so that tests can stop the world there.

    Attributes:
        position: TXID of the newest file, or of the newest that ever was.
        captured: what that file covers; ``None`` when nothing is known.
    """

    def __init__(
        self,
        source: Source,
        local: LocalFiles,
        *,
        fingerprints: bool = True,
        clock: Callable[[], float] = time.time,
        at_point: Callable[[str], None] = lambda point: None,
    ) -> None:
        self.source, self.local = source, local
        self._record = StateRecord(local.own)
        self._prints = Fingerprints(local.own) if fingerprints else None
        self.at_point = at_point
        self._publisher = Publisher(local, self._record, self._prints, clock, at_point)
        self._tail_done: bytes | None = None
        self.position = TXID(0)
        self.captured: Captured | None = None
        self._load()

    def _load(self) -> None:
        txids = self.local.txids()
        self.position = TXID(max(self.local.highest(), self._record.last_txid()))
        if not txids:
            return
        newest = txids[-1]
        try:
            header, trailer = self._ends_of(newest)
            self._publisher.not_before(header.timestamp)
            known = self._record.load(newest, trailer.file_checksum)
            if known is None:
                for _ in self._decoder(newest):  # nobody vouches for it: read it to the end once
                    pass
                salts = header.wal_salt1.to_bytes(4, "big") + header.wal_salt2.to_bytes(4, "big")
                end = header.wal_offset + header.wal_size
                known = Captured(newest, header.page_size, header.commit, salts, end)
        except LtxError:
            self.local.set_aside(newest)
            return
        if newest == self.position:
            self.captured = known

    def _ends_of(self, txid: int) -> tuple[Header, Trailer]:
        path = self.local.path(txid)
        with open(path, "rb") as file:
            head = file.read(HEADER_SIZE)
            size = file.seek(0, 2)
            if size < HEADER_SIZE + TRAILER_SIZE:
                raise LtxError("too short for an LTX file", name=str(path))
            file.seek(-TRAILER_SIZE, 2)
            return Header.unpack(head, name=str(path)), Trailer.unpack(file.read(), size)

    def _decoder(self, txid: int) -> Iterator[tuple[int, bytes]]:
        path = self.local.path(txid)
        with open(path, "rb") as file:
            yield from Decoder(iter(lambda: file.read(1 << 20), b""), name=str(path))

    # --- deciding -------------------------------------------------------------------------------------------

    def decide(self) -> tuple[Decision, Facts]:
        """What the database shows now, and what follows from it."""
        captured = self.captured
        index = self.source.index()
        last, same = None, False
        if captured is not None and not captured.watched and captured.page_size == self.source.page_size:
            last = self._frame_before(captured.end, captured.page_size)
            if captured.checksum is None and last is not None and last.salts == captured.salts:
                same = self._same_pages(captured)
        facts = Facts(index, self.source.page_size, self.source.identity, last, same)
        return rules.decide(captured, facts), facts

    def _frame_before(self, end: int, page_size: int) -> Frame | None:
        if not frames_in(end, page_size):
            return None
        data = self.source.read_log(end - frame_size(page_size), frame_size(page_size))
        return next(iter_frames(data, page_size), None)

    def _same_pages(self, captured: Captured) -> bool:
        """Whether every page that the newest file took from the log is still there with the same content."""
        header, _ = self._ends_of(captured.txid)
        if header.wal_offset < frame_end(0, captured.page_size):
            return False
        try:
            found = scan(self.source, captured.page_size, header.wal_offset, captured.end, captured.salts)
        except Torn:
            return False
        wanted = {int(pgno): int(frame) for pgno, frame in found.map.pages()}
        for pgno, page in self._decoder(captured.txid):
            frame = wanted.pop(pgno, None)
            if frame is not None and found.page(frame) != page:
                return False
        return not wanted

    def covers(self, index: IndexHeader) -> bool:
        """Whether everything is captured that had been committed when the wal-index looked like this."""
        captured = self.captured
        if captured is None or captured.salts != index.salts:
            return False
        return captured.end >= frame_end(index.max_frame, captured.page_size)

    # --- steps ----------------------------------------------------------------------------------------------

    def step(self, limit: int = 0) -> Written | None:
        """Write one file with what is committed and not captured; ``None`` when there is nothing.

        Args:
            limit: stop at the first commit after so many bytes of the log; 0 takes everything.

        Raises:
            DatabaseError, DiskFull: nothing was published and nothing changed; try again.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._step(limit)
            except Torn:
                time.sleep(0.001)
        raise DatabaseError(f"the log of {self.source.path} changes faster than it can be read")

    def _step(self, limit: int) -> Written | None:
        decision, facts = self.decide()
        match decision:
            case Nothing():
                assert self.captured is not None
                self.captured = replace(self.captured, watched=True)
                return None
            case Incremental(start):
                return self._publish(self._increment(start, facts, limit))
            case TailThenLap(start, salts, seed):
                return self._tail(start, salts, seed, facts)
            case Full(reason):
                return self._full(reason, facts)

    def pending(self) -> LogRange | None:
        """Under the write lock: what is not captured, copied into memory. ``None`` when there is nothing.

        Raises:
            Torn: it cannot be taken that way; release the lock and take a step.
        """
        decision, facts = self.decide()
        if isinstance(decision, Nothing):
            return None
        if not isinstance(decision, Incremental):
            raise Torn
        stop = frame_end(facts.index.max_frame, facts.page_size)
        return scan(self.source, facts.page_size, decision.start, stop, facts.index.salts, keep=True)

    def write_pending(self, found: LogRange) -> Written | None:
        """Publish what :meth:`pending` took; the log itself may have gone on."""
        assert self.captured is not None
        plan = self._plan_of(found, None, guard=False)
        self.captured = replace(
            self.captured, watched=False
        )  # if publishing fails, the log may not have it any more
        return self._publish(plan)

    def _increment(self, start: int, facts: Facts, limit: int) -> Plan:
        stop = frame_end(facts.index.max_frame, facts.page_size)
        found = scan(self.source, facts.page_size, start, stop, facts.index.salts, limit)
        if found.end == stop and found.map.last_checksum != facts.index.frame_checksum:
            raise Torn
        return self._plan_of(found, facts)

    def _plan_of(self, found: LogRange, facts: Facts | None, *, guard: bool = True) -> Plan:
        before = self.captured
        assert before is not None
        complete = facts is None or found.end == frame_end(facts.index.max_frame, facts.page_size)
        after = self._after(found.map.commit, found.salts, found.end, found.map.last_checksum)
        after = replace(after, watched=before.watched or complete)
        pages = self._grown(found, before.commit)
        guarded = self._while_same_lap(pages, found.salts) if guard else pages
        return Plan(after, found.start, guarded, found.salts, found.end, complete=complete)

    def _after(self, commit: int, salts: bytes, end: int, checksum: bytes | None) -> Captured:
        source = self.source
        return Captured(self.position + 1, source.page_size, commit, salts, end, checksum, source.identity)

    def _grown(self, found: LogRange, commit_before: int) -> Iterator[tuple[int, bytes | memoryview]]:
        """The pages of a range, and those by which the database grew although the range lacks them."""
        pages = found.map.pages()
        expected = range(commit_before + 1, found.map.commit + 1)
        present = {int(pgno) for pgno, _ in pages if pgno > commit_before} if expected else set()
        missing = [pgno for pgno in expected if pgno not in present and pgno != lock_pgno(found.page_size)]
        if not missing:
            for pgno, frame in pages:
                yield int(pgno), found.page(int(frame))
            return
        earlier = self._earlier_frames(found, missing)
        frames = {int(pgno): int(frame) for pgno, frame in pages} | earlier
        for pgno in sorted({*frames, *missing}):
            yield pgno, found.page(frames[pgno]) if pgno in frames else self.source.read_pages(pgno, 1)

    def _earlier_frames(self, found: LogRange, missing: list[int]) -> dict[int, int]:
        start = frame_end(0, found.page_size)
        if found.start == start:
            return {}
        before = scan(self.source, found.page_size, start, found.start, found.salts, shrink=False)
        wanted = set(missing)
        return {int(pgno): int(frame) for pgno, frame in before.map.pages() if int(pgno) in wanted}

    def _while_same_lap(
        self, pages: Iterable[tuple[int, bytes | memoryview]], salts: bytes
    ) -> Iterator[tuple[int, bytes | memoryview]]:
        yield from pages
        if self.source.index().salts != salts:
            raise Torn

    def _tail(self, start: int, salts: bytes, seed: bytes, facts: Facts) -> Written | None:
        before = self.captured
        assert before is not None
        found = old_lap(self.source, facts.page_size, start, salts, seed)
        last = self._frame_before(start, facts.page_size)
        if found is None or last is None or last.salts != salts or last.checksum != seed:
            return self._full("the end of the old lap could not be read", facts)
        lap = replace(before, salts=facts.index.salts, end=frame_end(0, facts.page_size), checksum=None)
        if not len(found.map):
            self.captured = lap
            return self._step(0)
        pages = found.map.pages()
        grown = sum(1 for pgno, _ in pages if pgno > before.commit)
        if grown != growth(before.commit, found.map.commit, facts.page_size):
            return self._full("the old lap lacks pages by which the database grew", facts)
        after = self._after(found.map.commit, salts, found.end, found.map.last_checksum)
        image = ((int(pgno), found.page(int(frame))) for pgno, frame in pages)
        plan = Plan(after, start, self._while_intact(image, found), salts, found.end, complete=False)
        written = self._publish(plan)
        assert self.captured is not None
        self.captured = replace(self.captured, salts=lap.salts, end=lap.end, checksum=None)
        return written

    def _while_intact(
        self, pages: Iterable[tuple[int, bytes | memoryview]], found: LogRange
    ) -> Iterator[tuple[int, bytes | memoryview]]:
        # Writers overwrite the old lap front to back, so an intact frame before the range proves the whole range.
        before = self._frame_before(found.start, found.page_size)
        yield from pages
        if self._frame_before(found.start, found.page_size) != before:
            raise Torn

    def _full(self, reason: str, facts: Facts) -> Written | None:
        index, size = facts.index, facts.page_size
        start = frame_end(0, size)
        # A log that is copied completely may be restarted while we read; the file alone then holds everything.
        copied = index.backfilled >= index.max_frame
        stop = start if copied else frame_end(index.max_frame, size)
        found = scan(self.source, size, start, stop, index.salts)
        end = frame_end(index.max_frame, size)
        commit = index.commit if index.max_frame else self.source.page_count()
        last = self._frame_before(end, size) if index.max_frame else None
        if last is not None and (last.salts, last.checksum) != (index.salts, index.frame_checksum):
            raise Torn
        checksum = last.checksum if last is not None else None
        after = replace(self._after(commit, index.salts, end, checksum), watched=True)
        pages = pages_of_image(self.source, found, commit)
        known = self._known_sums()
        plan = Plan(after, start, pages, index.salts, end, full=known is None, reason=reason)
        if known is not None:
            plan.pages = differing(pages, known, last.pgno if last is not None else 0)
            assert self.captured is not None
            plan.only_if_changed = commit == self.captured.commit
        return self._publish(plan)

    def _known_sums(self) -> array[int] | None:
        captured = self.captured
        if self._prints is None or captured is None or captured.page_size != self.source.page_size:
            return None
        sums = self._prints.load(captured.txid, self._pages_of)
        return None if sums is None or len(sums) != captured.commit else array("Q", sums.tobytes())

    def _pages_of(self, txid: int) -> tuple[int, Iterable[tuple[int, bytes]]] | None:
        with contextlib.suppress(OSError, LtxError):
            return self._ends_of(txid)[0].commit, self._decoder(txid)
        return None

    def image(self) -> Image:
        """A snapshot at the position. Nothing may be left to capture, and until the image is read to its end no
        checkpoint of ours may run; capture may go on.
        """
        captured = self.captured
        assert captured is not None
        index, size = self.source.index(), captured.page_size
        start = frame_end(0, size)
        # When the whole log is copied (or was, and a new lap began) the database file alone is that state.
        in_log = index.salts == captured.salts and index.backfilled < index.max_frame
        view = self.source.view()
        try:
            found = scan(view, size, start, captured.end if in_log else start, captured.salts)
        except BaseException:
            view.close()
            raise
        offset = captured.end - frame_size(size) if in_log else start
        header = header_of(
            captured, self._publisher.timestamp(), offset, frame_size(size) if in_log else 0, captured.salts
        )
        header = replace(header, min_txid=TXID(1))
        return Image(header, pages_of_image(view, found, captured.commit), view)

    # --- publishing -----------------------------------------------------------------------------------------

    def _publish(self, plan: Plan) -> Written | None:
        written = self._publisher.publish(plan, self.captured)
        if written is None:
            self._unchanged(plan.after)
            return None
        self.position, self.captured = written.txid, plan.after
        self._publisher.remember(plan.after)
        return written

    def _unchanged(self, after: Captured) -> None:
        """Page by page the database equals the newest file: only the place in the log is new."""
        assert self.captured is not None
        self.captured = replace(after, txid=self.captured.txid)
        with contextlib.suppress(DatabaseError, OSError, LtxError):
            self._record.save(self.captured, self._ends_of(self.captured.txid)[1].file_checksum)

    def rebase(self, position: int, newest: Path | None = None) -> None:
        """Go on above a replica that is ahead; the next file has the TXID ``position + 1``.

        Args:
            newest: the replica's file of that TXID, which is moved in. If the log still shows what it holds, as after
                the loss of the local state alone, what came since is enough; otherwise the next file has all pages.
        """
        self._record.forget()
        if self._prints is not None:
            self._prints.forget()
        self.local.delete(list(self.local.txids()))
        self.position, self.captured = TXID(position), None
        if newest is not None:
            with disk_errors("rename", newest, position):
                os.replace(newest, self.local.path(position))
            self._load()
