"""A view: one committed state of a replicated database, as places of pages in LTX files. Immutable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from vfsstream.ltx.names import TXID, lock_pgno
from vfsstream.plan.files import FileInfo

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, numpy.dtype[Any]]

__all__ = ["Base", "Columns", "Place", "View"]


class Place(NamedTuple):
    """Where one page lies.

    ``version`` is the highest TXID of the file in which this content was first seen. It stays when the page is
    found again in a compacted file, so that (page number, version) names a content for ever.
    """

    file: int
    offset: int
    size: int
    version: int


class Columns(NamedTuple):
    """Places of a run of pages, one array element each; ``size`` 0 is a page without a place."""

    file: Array  # uint32
    offset: Array  # uint64
    size: Array  # uint32
    version: Array  # uint64


def _elements(column: Any) -> Any:
    return memoryview(column)


class Base:
    """The places of all pages up to one moment: 24 bytes a page, shared by every view built on it.

    Element ``n`` of each array belongs to page ``n``; element 0 is unused. Never written after construction.
    """

    __slots__ = ("columns", "file", "offset", "size", "version")

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        # Reading one element through a memoryview is several times faster than through numpy.
        self.file: memoryview[int] = _elements(columns.file)
        self.offset: memoryview[int] = _elements(columns.offset)
        self.size: memoryview[int] = _elements(columns.size)
        self.version: memoryview[int] = _elements(columns.version)

    def __len__(self) -> int:
        return len(self.size)


@dataclass(frozen=True, slots=False, eq=False)
class View:
    """One committed state of the database.

    Attributes:
        txid: the last transaction in it.
        commit: size of the database, pages.
        page_size: bytes.
        timestamp: of the last transaction, milliseconds since 1970 (from the LTX header).
        files: file number to file; grows while views follow each other, numbers keep their meaning.
        base: places of pages as of some earlier moment.
        base_limit: pages above it have no place in ``base`` any more (the database was smaller since).
        overlay: places that changed since ``base``.
        generation: counts histories: a replica that was deleted and made anew starts another.
    """

    txid: TXID
    commit: int
    page_size: int
    timestamp: int
    files: Sequence[FileInfo] = field(repr=False)
    base: Base = field(repr=False)
    base_limit: int = field(repr=False)
    overlay: Mapping[int, Place] = field(repr=False)
    generation: int = 0

    def version(self, pgno: int) -> int:
        """The version of a page's content; 0 when the page has no place."""
        place = self.overlay.get(pgno)
        if place is not None:
            return place[3]
        return self.base.version[pgno] if pgno <= self.base_limit else 0

    def find(self, pgno: int) -> Place | None:
        """Where a page lies, or ``None``: never written, the lock page, or beyond the database."""
        place = self.overlay.get(pgno)
        if place is not None:
            return place
        base = self.base
        if not 0 < pgno <= self.base_limit or not base.size[pgno]:
            return None
        return Place(base.file[pgno], base.offset[pgno], base.size[pgno], base.version[pgno])

    def columns(self, first: int, last: int) -> Columns:
        """Copies of the places of pages ``first`` to ``last`` inclusive, cut at the database's size."""
        import numpy

        first, last = max(first, 1), min(last, self.commit)
        length = max(last - first + 1, 0)
        stop = min(last, self.base_limit) + 1
        parts = []
        for source in self.base.columns:
            column = numpy.zeros(length, source.dtype)
            if stop > first:
                column[: stop - first] = source[first:stop]
            parts.append(column)
        columns = Columns(*parts)
        if len(self.overlay) <= length:
            changed = [(pgno, place) for pgno, place in self.overlay.items() if first <= pgno <= last]
        else:
            changed = [(pgno, self.overlay[pgno]) for pgno in range(first, last + 1) if pgno in self.overlay]
        for pgno, place in changed:
            for column, value in zip(columns, place, strict=True):
                column[pgno - first] = value
        return columns

    @cached_property
    def lock_pgno(self) -> int:
        """The page that holds SQLite's lock bytes; reads as zeros."""
        return lock_pgno(self.page_size)

    @cached_property
    def change_counter(self) -> int:
        """What page 1 shows as change counter: moves exactly when the content moves, 32 bits, never 0."""
        mixed = (self.txid + self.generation * 0x9E3779B1) & 0xFFFFFFFF
        return mixed or 1

    @cached_property
    def size(self) -> int:
        """Size of the database, bytes."""
        return self.commit * self.page_size
