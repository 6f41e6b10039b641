"""One local level-0 file from a plan: encoded, checked, durable, then remembered."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO

from vfsstream.errors import DatabaseError, LtxError
from vfsstream.ltx import Encoder, Header, Trailer
from vfsstream.ltx.encoder import in_batches
from vfsstream.ltx.names import TXID, lock_pgno
from vfsstream.replicate.decide import Captured
from vfsstream.replicate.fingerprints import Changes, Fingerprints
from vfsstream.replicate.localfiles import LocalFiles
from vfsstream.replicate.state import StateRecord

__all__ = ["Plan", "Publisher", "Written", "growth", "header_of"]


@dataclass(frozen=True, slots=True)
class Written:
    """One published local file.

    Attributes:
        reason: why all pages (or all that differ) were written; ``None`` for a plain increment.
        full: it was made to hold every page.
        has_every_page: it does, as an increment may as well.
        page_size_changed: it begins a new chain.
        complete: nothing committed was left for another step.
    """

    txid: TXID
    pages: int
    commit: int
    size: int
    full: bool
    reason: str | None
    seconds: float
    complete: bool
    page_size_changed: bool = False
    has_every_page: bool = False


@dataclass(slots=True)
class Plan:
    """What one file is made of, and what is captured once it is published."""

    after: Captured
    offset: int
    pages: Iterable[tuple[int, bytes | memoryview]]
    salts: bytes  # of the range read, as stated in the header
    end: int
    full: bool = False
    reason: str | None = None
    only_if_changed: bool = False
    complete: bool = True


class Publisher:
    """Writes files into one meta directory. Not thread-safe.

    Args:
        record: where the place in the log is kept.
        prints: where the checksums of pages are kept; ``None`` keeps none.
        clock: seconds since 1970.
        at_point: told the name of each step.
    """

    def __init__(
        self,
        local: LocalFiles,
        record: StateRecord,
        prints: Fingerprints | None,
        clock: Callable[[], float],
        at_point: Callable[[str], None],
    ) -> None:
        self._local, self._record, self._prints = local, record, prints
        self._clock, self._at_point = clock, at_point
        self._last_ms = 0
        self._changes, self._pages = Changes(), 0
        self._trailer, self._rebuilt = Trailer(0, 0, 0), False

    def not_before(self, milliseconds: int) -> None:
        """The newest file has this time; the clock may have been set back since."""
        self._last_ms = max(self._last_ms, milliseconds)

    def timestamp(self) -> int:
        """Milliseconds since 1970, later than every one before."""
        self._last_ms = max(int(self._clock() * 1000), self._last_ms + 1)
        return self._last_ms

    def publish(self, plan: Plan, before: Captured | None) -> Written | None:
        """Write the file of a plan; ``None`` when it turned out not to be needed.

        Raises:
            DatabaseError, DiskFull, LtxError: nothing was published.
        """
        started = time.monotonic()
        after = plan.after
        self._rebuilt = plan.full or before is None
        new_chain = before is not None and before.page_size != after.page_size
        commit_before = 0 if self._rebuilt or before is None else before.commit
        size = self._local.write(after.txid, lambda file: self._encode(plan, commit_before, file))
        if size is None:
            return None
        self._at_point("capture:published")
        seconds = time.monotonic() - started
        return Written(
            txid=TXID(after.txid),
            pages=self._pages,
            commit=after.commit,
            size=size,
            full=self._rebuilt,
            reason=plan.reason,
            seconds=seconds,
            complete=plan.complete,
            page_size_changed=new_chain,
            has_every_page=self._pages == growth(0, after.commit, after.page_size),
        )

    def _encode(self, plan: Plan, commit_before: int, file: BinaryIO) -> bool:
        after = plan.after
        header = header_of(after, self.timestamp(), plan.offset, plan.end - plan.offset, plan.salts)
        encoder = Encoder(header, file.write)
        self._changes = changes = Changes()
        count = grown = 0
        for pages in in_batches(plan.pages, after.page_size):
            encoder.add_pages(pages)
            for pgno, page in pages:
                if self._prints is not None:
                    changes.add(pgno, page)
                grown += pgno > commit_before
            count += len(pages)
        expected = growth(commit_before, after.commit, after.page_size)
        if grown != expected:
            raise LtxError(
                f"refused to publish TXID {TXID(after.txid)}: {grown} of the {expected} pages by which the "
                f"database grew from {commit_before} to {after.commit} pages are there"
            )
        self._at_point("capture:encoded")
        self._trailer, self._pages = encoder.finish(), count
        return count > 0 or not plan.only_if_changed

    def remember(self, after: Captured) -> None:
        """Record what the file just published covers: hints, without which the next start does more work."""
        with contextlib.suppress(DatabaseError):
            self._record.save(after, self._trailer.file_checksum)
            if self._prints is not None:
                self._prints.record(after.txid, after.commit, self._changes, full=self._rebuilt)
        self._changes = Changes()
        self._at_point("capture:recorded")


def header_of(of: Captured, timestamp: int, offset: int, size: int, salts: bytes) -> Header:
    salt1, salt2 = (int.from_bytes(salts[at : at + 4], "big") for at in (0, 4))
    txid = TXID(of.txid)
    return Header(of.page_size, of.commit, txid, txid, timestamp, offset, size, salt1, salt2)


def growth(before: int, after: int, page_size: int) -> int:
    """Pages in ``(before, after]`` that a file must hold: all but the lock page."""
    return max(0, after - before) - (before < lock_pgno(page_size) <= after)
