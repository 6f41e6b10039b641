"""Pages in a local file, each with the version and the checksum that it has there.

One thread writes; any number read, without a lock. A page counts as absent from before it is overwritten until after:
who read it looks again at the version, so that nobody is given half a page or one of another version.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Sequence

from fastcrc.crc64 import go_iso

__all__ = ["HeldPages"]


class HeldPages:
    """What is in the file.

    Attributes:
        file: descriptor, -1 while there is none. Borrowed: others open and close it.
        have: version of each page, 0 = absent; element 0 is unused.
        sums: CRC-64 of each page that is here.
        count: pages written so far, those found included.
    """

    def __init__(self, page_size: int, commit: int) -> None:
        self.page_size = page_size
        self.file = -1
        self.have = array("Q", bytes(8 * (commit + 1)))
        self.sums = array("Q", bytes(8 * (commit + 1)))
        self.count = 0

    def page(self, pgno: int, version: int) -> bytes | None:
        """The page at exactly this version, or ``None``."""
        have, file = self.have, self.file
        if file < 0 or pgno >= len(have) or have[pgno] != version:
            return None
        try:
            page = os.pread(file, self.page_size, (pgno - 1) * self.page_size)
        except OSError:
            return None
        return page if have[pgno] == version and len(page) == self.page_size else None

    def raw(self, pgno: int) -> bytes:
        """What is at the place of a page, whatever it is."""
        return os.pread(self.file, self.page_size, (pgno - 1) * self.page_size)

    def grow(self, commit: int) -> None:
        """Make room for so many pages."""
        for name in ("have", "sums"):
            old = getattr(self, name)
            if len(old) <= commit:
                setattr(self, name, array("Q", old.tobytes() + bytes(8 * (commit + 1 - len(old)))))

    def write(self, first: int, run: Sequence[tuple[int, bytes]]) -> None:
        """Write neighbours.

        Args:
            run: version and content of each, from page ``first`` on.
        """
        self.forget(range(first, first + len(run)))
        os.pwrite(self.file, b"".join(page for _, page in run), (first - 1) * self.page_size)
        for number, (version, page) in enumerate(run, first):
            self.written(number, version, page)
        self.count += len(run)

    def forget(self, pages: Iterable[int]) -> None:
        """They will be overwritten, or are beyond the end."""
        have = self.have
        for pgno in pages:
            have[pgno] = 0

    def written(self, pgno: int, version: int, page: bytes) -> None:
        """It is in the file."""
        self.sums[pgno] = go_iso(page)
        self.have[pgno] = version

    def find(self, have: array[int], sums: array[int], check: Callable[[], None]) -> None:
        """Take for present what is in the file and matches.

        Args:
            have: versions that are trusted, 0 = none.
            sums: of the pages when they were written.
            check: may raise between two pages.
        """
        self.grow(len(have) - 1)
        self.sums[: len(sums)] = sums
        for pgno in range(1, min(len(have), len(sums))):
            if have[pgno]:
                check()
                page = self.raw(pgno)
                if len(page) == self.page_size and go_iso(page) == sums[pgno]:
                    self.have[pgno] = have[pgno]
                    self.count += 1

    def leave(self, file: int) -> None:
        """Go on with an empty file instead."""
        have = self.have
        self.forget(range(len(have)))  # whoever has the old array and the old file looks here again
        self.file, self.count = file, 0
        self.have = array("Q", bytes(8 * len(have)))  # after the file: whoever sees this array sees that file
