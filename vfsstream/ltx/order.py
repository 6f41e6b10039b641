"""The order of the pages in an LTX file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from operator import lt
from typing import TYPE_CHECKING

from vfsstream.errors import LtxError
from vfsstream.ltx.header import Header

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["PageOrder"]


class PageOrder:
    """The rule which page may come next. Also knows when a snapshot is complete.

    Args:
        header: of the file.
        strict: refuse pages above commit.
    """

    __slots__ = ("_ceiling", "_commit", "_complete", "_lock", "last")

    def __init__(self, header: Header, *, strict: bool = True) -> None:
        self.last = 0
        self._commit = header.commit
        self._ceiling = header.commit if strict else (1 << 32) - 1
        self._lock = header.lock_pgno
        self._complete = header.is_snapshot

    def add(self, pgno: int) -> None:
        """Accept the next page.

        Raises:
            LtxError: it may not follow.
        """
        last = self.last
        if pgno != last + 1 or pgno > self._ceiling or pgno == self._lock:
            self._judge(pgno, last)
        self.last = pgno

    def add_run(self, pgnos: Sequence[int]) -> bool:
        """Accept many pages at once where that is simple; ``False``: nothing was done, add them one by one."""
        first, last = pgnos[0], pgnos[-1]
        gapless = first == self.last + 1 and last - first + 1 == len(pgnos)
        plain = (
            first > self.last
            and last <= self._ceiling
            and not first <= self._lock <= last
            and (gapless or not self._complete)
            and all(map(lt, pgnos, islice(pgnos, 1, None)))
        )
        if plain:
            self.last = last
        return plain

    def add_all(self, pgnos: npt.NDArray[np.uint32]) -> None:
        """Accept many pages; errors as for :meth:`add`."""
        first, last = int(pgnos[0]), int(pgnos[-1])
        plain = first > self.last and last <= self._ceiling and bool((pgnos[1:] > pgnos[:-1]).all())
        gapless = first == self.last + 1 and last - first + 1 == len(pgnos)
        if plain and not first <= self._lock <= last and (gapless or not self._complete):
            self.last = last
            return
        for pgno in pgnos.tolist():
            self.add(pgno)

    def _judge(self, pgno: int, last: int) -> None:
        if pgno == 0:
            raise LtxError("page number 0")
        if pgno <= last:
            raise LtxError(f"page {pgno} after page {last}")
        if pgno == self._lock:
            raise LtxError(f"page {pgno} is the lock page, which is never stored")
        if pgno > self._ceiling:
            raise LtxError(f"page {pgno} above the database size of {self._commit} pages")
        if self._complete and pgno <= self._commit:
            self._require(pgno, last)

    def _require(self, pgno: int, last: int) -> None:
        missing = last + 2 if last + 1 == self._lock else last + 1
        if missing < pgno:
            raise LtxError(f"page {pgno} after page {last}: a snapshot must hold page {missing}")

    def finish(self) -> None:
        """Declare the end of the pages.

        Raises:
            LtxError: a snapshot that lacks pages.
        """
        if self._complete and self.last < self._commit:
            missing = self.last + 2 if self.last + 1 == self._lock else self.last + 1
            if missing <= self._commit:
                raise LtxError(f"snapshot ends at page {self.last} of {self._commit}")
