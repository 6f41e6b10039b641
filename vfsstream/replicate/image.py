"""All pages of a database at one moment: from the log where it has them, from the file otherwise."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from vfsstream.ltx import Header
from vfsstream.ltx.checksum import crc64
from vfsstream.ltx.names import lock_pgno
from vfsstream.replicate.logrange import LogRange

__all__ = ["Image", "Pages", "PagesOfFile", "differing", "pages_of_image"]

Pages = Iterator[tuple[int, bytes | memoryview]]

_RUN = 1 << 20  # bytes of the database read at once


class PagesOfFile(Protocol):
    """What the database file is read through."""

    page_size: int

    def read_pages(self, first: int, count: int) -> bytes:
        """``count`` pages of the file; zeros behind its end."""

    def close(self) -> None:
        """Release it."""


@dataclass(slots=True)
class Image:
    """A snapshot being read: its header, and its pages once."""

    header: Header
    pages: Pages
    view: PagesOfFile

    def close(self) -> None:
        """Release what it reads from. Idempotent."""
        self.view.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pages_of_image(file: PagesOfFile, found: LogRange, commit: int) -> Pages:
    """Every page up to ``commit`` except the lock page, ascending."""
    next_page = 1
    for pgno, frame in found.map.pages():
        if pgno <= commit:
            yield from _run(file, next_page, int(pgno))
            yield int(pgno), found.page(int(frame))
            next_page = int(pgno) + 1
    yield from _run(file, next_page, commit + 1)


def _run(file: PagesOfFile, start: int, stop: int) -> Pages:
    size, lock = file.page_size, lock_pgno(file.page_size)
    step = max(1, _RUN // size)
    for first in range(start, stop, step):
        count = min(step, stop - first)
        data = memoryview(file.read_pages(first, count))
        for index in range(count):
            if first + index != lock:
                yield first + index, data[index * size : (index + 1) * size]


def differing(pages: Iterable[tuple[int, bytes | memoryview]], known: array[int], always: int) -> Pages:
    """The pages whose checksum is not the ``known`` one, and page ``always`` when there is any."""
    count = len(known)
    changed, kept = False, None
    for pgno, page in pages:
        if pgno > count or crc64(page) != known[pgno - 1]:
            if kept is not None and kept[0] < pgno:
                yield kept
                kept = None
            changed = True
            yield pgno, page
        elif pgno == always:
            kept = (pgno, bytes(page))
            if changed:
                yield kept
                kept = None
    if kept is not None and changed:
        yield kept
