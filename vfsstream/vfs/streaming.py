"""The whole database brought at once into a nameless local file, when that is cheaper than its pages one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from functools import partial

from vfsstream.vfs.bulk import covering_ranges
from vfsstream.vfs.escalate import Escalation
from vfsstream.vfs.flight import Flight
from vfsstream.vfs.options import Options
from vfsstream.vfs.planner import Plan
from vfsstream.vfs.ranges import ByteRange
from vfsstream.vfs.spill import Spill
from vfsstream.vfs.transfer import STREAM, Transfer
from vfsstream.vfs.view import Place, View

__all__ = ["STREAM_DEADLINE", "Streaming"]

BULK_RANGE = 4 << 20
STREAM_DEADLINE = 600.0
DEFAULT_BULK = 4 << 30


class Streaming:
    """The stream of one replica, if it comes to one.

    Args:
        transfer: carries its ranges out.
        escalation: counts what was paid without it.
        options: whether, and up to which size.

    Attributes:
        begun: streams so far.
        refused: there is no room for one.
    """

    def __init__(self, transfer: Transfer, escalation: Escalation, options: Options) -> None:
        self.begun = 0
        self.refused = False
        self.spill: Spill | None = None
        self._transfer, self._escalation, self._options = transfer, escalation, options
        self._lock = threading.Lock()  # guards ``spill``

    @property
    def under_way(self) -> bool:
        """Everything is here or on its way: nothing needs to be guessed."""
        return self.spill is not None and not self.refused

    def worth_it(self, view: View, parts: Collection[str], plan: Plan, ranges: Sequence[ByteRange]) -> bool:
        """Is now the moment to begin?

        Args:
            parts: what ``prefetch=`` switched on.
            plan: of the miss.
            ranges: what the plan takes.
        """
        if "bulk" not in parts or self.spill is not None or self.refused:
            return False
        total = sum(info.size for info in view.files)
        limit = DEFAULT_BULK if self._options.bulk_max_bytes is None else self._options.bulk_max_bytes
        if total > limit:
            return False
        link = self._transfer.link
        if plan.scattered:
            return self._escalation.scattered(time.monotonic(), link, total)
        pages = sum(len(wanted.frames) for wanted in ranges)
        size = sum(wanted.size for wanted in ranges)
        return self._escalation.in_order(plan.covered, pages, len(ranges), size, link, total)

    def begin(self, view: View) -> None:
        """Begin to bring every page that has a place in the view."""
        end = time.monotonic() + max(STREAM_DEADLINE, self._options.deadline)
        try:
            spill = Spill(view.files, [Flight(r, end) for r in covering_ranges(view, BULK_RANGE)])
        except OSError:
            self.refused = True
            return
        with self._lock:
            late = self.spill is not None  # another reader came to the same end
            self.spill = self.spill or spill
        if late:
            spill.close()
            return
        self.begun += 1
        for flight in spill.flights:
            self._transfer.submit(flight, view.files, partial(self._landed, spill), STREAM)

    def _landed(self, spill: Spill, flight: Flight, data: bytes) -> None:
        if data:
            try:
                spill.store(flight, data)
            except (OSError, ValueError):
                self.refused = True
                raise

    def brings(self, view: View, pgno: int) -> bool:
        """Has the part that brings a page begun?"""
        found = self._find(view, pgno)
        flight = found[0].flights[found[1]] if found is not None else None
        return flight is not None and flight.started and flight.error is None

    def coming(self, view: View, pgno: int) -> Flight | None:
        """The part that brings a page, if it is coming just now."""
        found = self._find(view, pgno)
        flight = found[0].flights[found[1]] if found is not None else None
        return flight if flight is not None and flight.started and not flight.done else None

    def frame(self, view: View, pgno: int) -> bytes | None:
        """The frame of a page that has come."""
        found = self._find(view, pgno)
        if found is None:
            return None
        spill, number, place = found
        flight = spill.flights[number]
        if not flight.done or flight.error is not None:
            return None
        try:
            return spill.read(number, place.offset, place.size)
        except (OSError, ValueError):
            return None

    def _find(self, view: View, pgno: int) -> tuple[Spill, int, Place] | None:
        spill, place = self.spill, view.find(pgno)
        if spill is None or place is None:
            return None
        number = spill.find(view.files[place.file], place.offset, place.size)
        return (spill, number, place) if number is not None else None

    def restart(self) -> None:
        """After a fork: what streams does so in the parent."""
        self._lock = threading.Lock()
        self.spill = None

    def close(self) -> None:
        """Give the disk space back."""
        if self.spill is not None:
            self.spill.close()
