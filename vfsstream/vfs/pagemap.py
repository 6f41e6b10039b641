"""How one view follows from another. Pure: functions of their arguments.

The rules, for each page, whatever level a file comes from:

* a file's entry is taken only if the file reaches at least as far as the one the page lies in now;
* if every transaction of the file was applied before and the page's present file ends inside the file's range,
  the content is the same: the page gets a new place and keeps its version, and with it its cached bytes;
* the database's size comes from the file with the highest TXID; pages beyond it lose their places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from vfsstream.errors import CorruptError
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.vfs.view import Base, Columns, Place, View

if TYPE_CHECKING:
    from vfsstream.ltx import Header

__all__ = [
    "Incoming",
    "advance",
    "build",
    "files_in_use",
    "fold",
    "kept_versions",
    "missing_from",
    "replace_places",
    "take_places",
]

OVERLAY_PAGES = 8192
"""A larger overlay is folded into a new base: copying it for every view would cost more."""

SLICE = 32768
"""Array elements worked on between two calls of ``pause``: well under a millisecond."""


ENTRIES = 256
"""Entries worked on one by one between two calls of ``pause``."""


class IndexLike(Protocol):
    """The page index of an LTX file: columns of equal length, page numbers ascending."""

    @property
    def pgno(self) -> Any: ...
    @property
    def offset(self) -> Any: ...
    @property
    def size(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Incoming:
    """A file whose header and page index have been read.

    Attributes:
        versions: of the pages in the order of the index, when an earlier process saw that the file holds page images
            that it knew already; ``None``: all are the file's own.
    """

    info: FileInfo
    header: Header
    index: IndexLike
    versions: Any | None = None


def _nothing() -> None:
    pass


def _empty_columns(length: int) -> Columns:
    import numpy

    return Columns(
        numpy.zeros(length, numpy.uint32),
        numpy.zeros(length, numpy.uint64),
        numpy.zeros(length, numpy.uint32),
        numpy.zeros(length, numpy.uint64),
    )


def _first_above(index: IndexLike, pgno: int) -> int:
    import numpy

    return int(numpy.searchsorted(index.pgno, pgno, side="right"))


def check_header(item: Incoming, page_size: int | None = None) -> None:
    """Refuse a file whose header contradicts its name or its neighbours.

    Raises:
        CorruptError: what was found and what was expected.
    """
    info, header = item.info, item.header
    header.check_span(info.min_txid, info.max_txid, str(info))
    if page_size is not None and header.page_size != page_size:
        raise CorruptError(f"{info}: page size {header.page_size}, but the database has {page_size}")


def build(plan: Sequence[Incoming], generation: int = 0, pause: Callable[[], None] = _nothing) -> View:
    """The view that a restore plan leads to.

    Args:
        plan: a full image first, then what follows it without a gap.
        pause: called now and then while the arrays are filled.

    Raises:
        CorruptError: headers that contradict names or each other.
    """
    last = plan[-1]
    page_size = last.header.page_size
    columns = _empty_columns(max(item.header.commit for item in plan) + 1)
    commit = 0
    for number, item in enumerate(plan):
        check_header(item, page_size)
        if item.header.commit < commit:
            columns.size[item.header.commit + 1 :] = 0
            columns.version[item.header.commit + 1 :] = 0
        commit = item.header.commit
        stop = _first_above(item.index, commit)
        for start in range(0, stop, SLICE):
            part = slice(start, min(start + SLICE, stop))
            pages = item.index.pgno[part]
            columns.file[pages] = number
            columns.offset[pages] = item.index.offset[part]
            columns.size[pages] = item.index.size[part]
            columns.version[pages] = item.info.max_txid if item.versions is None else item.versions[part]
            if stop > SLICE:
                pause()
    limit = last.header.commit
    columns = Columns(*(column[: limit + 1] for column in columns))
    return View(
        txid=TXID(last.info.max_txid),
        commit=limit,
        page_size=page_size,
        timestamp=last.header.timestamp,
        files=[item.info for item in plan],
        base=Base(columns),
        base_limit=limit,
        overlay={},
        generation=generation,
    )


def advance(view: View, item: Incoming, pause: Callable[[], None] = _nothing) -> View:
    """The view after one more file: newer transactions, or a compacted file over ones already applied.

    Raises:
        CorruptError: the file does not connect to the view, or its header contradicts it.
    """
    check_header(item, view.page_size)
    if item.info.min_txid > view.txid + 1:
        raise CorruptError(f"{item.info} does not continue TXID {view.txid}")
    if len(view.overlay) + len(item.index.pgno) > OVERLAY_PAGES:
        view = fold(view, pause)
    newer = item.info.max_txid > view.txid
    if newer:
        view = _resize(view, item)
    if len(item.index.pgno) > OVERLAY_PAGES:
        return _advance_arrays(view, item, newer, pause)
    return _advance_overlay(view, item, newer, pause)


def _resize(view: View, item: Incoming) -> View:
    commit = item.header.commit
    overlay = view.overlay
    if commit < view.commit:
        overlay = {pgno: place for pgno, place in overlay.items() if pgno <= commit}
    return replace(
        view,
        txid=TXID(item.info.max_txid),
        commit=commit,
        timestamp=item.header.timestamp,
        base_limit=min(view.base_limit, commit),
        overlay=overlay,
    )


def _number(view: View, info: FileInfo) -> tuple[Sequence[FileInfo], int]:
    """The file's number. The list is shared with older views, to which further elements mean nothing."""
    files = view.files
    assert isinstance(files, list)
    files.append(info)
    return files, len(files) - 1


def _advance_overlay(view: View, item: Incoming, newer: bool, pause: Callable[[], None]) -> View:
    info = item.info
    files, number = _number(view, info)
    overlay = dict(view.overlay)
    index = item.index
    stop = _first_above(index, view.commit)
    rows = zip(index.pgno[:stop].tolist(), index.offset[:stop].tolist(), index.size[:stop].tolist(), strict=True)
    for done, (pgno, offset, size) in enumerate(rows):
        if done % ENTRIES == ENTRIES - 1:
            pause()
        present = view.find(pgno)
        version = int(info.max_txid)
        if present is not None:
            ends = files[present.file].max_txid
            if ends > info.max_txid:
                continue
            if not newer and ends >= info.min_txid:
                version = present.version
        overlay[pgno] = Place(number, offset, size, version)
    return replace(view, files=files, overlay=overlay)


def _advance_arrays(view: View, item: Incoming, newer: bool, pause: Callable[[], None]) -> View:
    """Like the overlay's loop, on whole arrays: for files with very many pages. The view is folded."""
    import numpy

    info = item.info
    files, number = _number(view, info)
    ends = numpy.array([file.max_txid for file in files], numpy.uint64)
    columns = _copied(view, view.commit, pause)
    stop = _first_above(item.index, view.commit)
    for start in range(0, stop, SLICE):
        part = slice(start, min(start + SLICE, stop))
        pages = item.index.pgno[part]
        known = columns.size[pages] != 0
        present_ends = numpy.where(known, ends[columns.file[pages]], 0)
        take = present_ends <= info.max_txid
        same = known & (present_ends >= info.min_txid) if not newer else numpy.zeros(len(pages), bool)
        versions = numpy.where(same, columns.version[pages], info.max_txid)
        chosen = pages[take]
        columns.file[chosen] = number
        columns.offset[chosen] = item.index.offset[part][take]
        columns.size[chosen] = item.index.size[part][take]
        columns.version[chosen] = versions[take]
        pause()
    return replace(view, files=files, base=Base(columns), base_limit=view.commit, overlay={})


def _copied(view: View, commit: int, pause: Callable[[], None]) -> Columns:
    """The base's columns for ``commit`` pages, overlay not applied."""
    columns = _empty_columns(commit + 1)
    stop = min(view.base_limit, commit) + 1
    for target, source in zip(columns, view.base.columns, strict=True):
        target[:stop] = source[:stop]
        pause()
    return columns


def fold(view: View, pause: Callable[[], None] = _nothing) -> View:
    """The same view with its overlay in a new base, and only the files that it still needs, numbered anew."""
    columns = _copied(view, view.commit, pause)
    for done, (pgno, place) in enumerate(view.overlay.items()):
        if done % ENTRIES == ENTRIES - 1:
            pause()
        if pgno <= view.commit:
            columns.file[pgno], columns.offset[pgno], columns.size[pgno], columns.version[pgno] = place
    pause()
    files, columns = _renumbered(view.files, columns, pause)
    return replace(view, files=files, base=Base(columns), base_limit=view.commit, overlay={})


def _renumbered(
    files: Sequence[FileInfo], columns: Columns, pause: Callable[[], None]
) -> tuple[list[FileInfo], Columns]:
    import numpy

    files = list(files)  # the follower may append to the shared list meanwhile
    used = numpy.zeros(len(files), bool)
    for start in range(0, len(columns.file), SLICE):
        part = slice(start, start + SLICE)
        used[columns.file[part][columns.size[part] != 0]] = True
        pause()
    numbers = numpy.maximum(numpy.cumsum(used), 1).astype(numpy.uint32) - 1
    for start in range(0, len(columns.file), SLICE):
        part = slice(start, start + SLICE)
        columns.file[part] = numbers[columns.file[part]]
        pause()
    return [info for info, wanted in zip(files, used.tolist(), strict=True) if wanted], columns


def take_places(view: View, other: View, pause: Callable[[], None] = _nothing) -> View:
    """The same view, with the other's places for every page that has the same version in both."""
    old, new = fold(view, pause), fold(other, pause)
    shift = len(old.files)
    columns = old.base.columns
    stop = min(view.commit, other.commit) + 1
    for start in range(0, stop, SLICE):
        part = slice(start, min(start + SLICE, stop))
        theirs = new.base.columns
        same = (columns.version[part] == theirs.version[part]) & (columns.version[part] != 0)
        columns.file[part][same] = theirs.file[part][same] + shift
        columns.offset[part][same] = theirs.offset[part][same]
        columns.size[part][same] = theirs.size[part][same]
        pause()
    files, columns = _renumbered([*old.files, *new.files], columns, pause)
    return replace(old, files=files, base=Base(columns))


def replace_places(view: View, plan: Sequence[Incoming], pause: Callable[[], None] = _nothing) -> View:
    """The same view, with its places taken from a plan that leads to exactly its TXID."""
    fresh = build(plan, view.generation, pause)
    if fresh.txid != view.txid or fresh.commit != view.commit:
        raise CorruptError(f"a plan for TXID {view.txid} led to {fresh.txid} with {fresh.commit} pages")
    versions = fold(view, pause).base.columns.version
    columns = fresh.base.columns
    known = (versions != 0) & (columns.version != 0)
    columns.version[known] = versions[known]
    return replace(fresh, timestamp=view.timestamp)


def kept_versions(view: View, item: Incoming, pause: Callable[[], None] = _nothing) -> Any | None:
    """Versions for a file's pages, in the order of its index, which hold in every view that finds them there.

    Where the view found the file to hold a page image that it had before, that is the version it had; else the
    file's own. ``None`` when all are the file's own.
    """
    import numpy

    info, pgno = item.info, item.index.pgno
    number = max((n for n, file in enumerate(list(view.files)) if file == info), default=None)
    if number is None:
        return None
    versions = numpy.full(len(pgno), info.max_txid, numpy.uint64)
    stop = _first_above(item.index, view.commit)
    if stop <= ENTRIES:  # they may be far apart
        for at, place in enumerate(map(view.find, pgno[:stop].tolist())):
            if place is not None and place.file == number:
                versions[at] = place.version
        stop = 0
    for start in range(0, stop, SLICE):
        part = slice(start, min(start + SLICE, stop))
        first = int(pgno[start])
        columns = view.columns(first, int(pgno[part][-1]))
        places = pgno[part].astype(numpy.int64) - first
        here = (columns.file[places] == number) & (columns.size[places] > 0)
        versions[part][here] = columns.version[places][here]
        pause()
    return versions if bool((versions != info.max_txid).any()) else None


def files_in_use(view: View) -> set[FileInfo]:
    """The files in which the view's pages lie."""
    return set(fold(view).files)


def missing_from(view: View, available: Iterable[FileInfo]) -> set[FileInfo]:
    """The files that the view needs and that a listing does not have (compared by name and level)."""
    there = {(info.level, info.min_txid, info.max_txid) for info in available}
    return {info for info in files_in_use(view) if (info.level, info.min_txid, info.max_txid) not in there}
