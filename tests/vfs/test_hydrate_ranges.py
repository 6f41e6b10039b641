"""What a found copy proves, by truth table: a small history, and one file of the plan after the other."""

from __future__ import annotations

from array import array
from types import SimpleNamespace

import numpy
import pytest

from vfsstream.ltx import Header
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.vfs.diskcache import identity
from vfsstream.vfs.hydrate_ranges import missing_ranges, proven, still_current
from vfsstream.vfs.pagemap import Incoming, build
from vfsstream.vfs.view import View


def file(low: int, high: int, level: int = 0, size: int = 1000) -> FileInfo:
    return FileInfo(TXID(low), TXID(high), level, size)


def view_of(*files: tuple[FileInfo, tuple[int, ...]], commit: int = 4) -> View:
    """A view of files and the pages in them."""
    items = []
    for info, pages in files:
        header = Header(512, commit, info.min_txid, info.max_txid, 1)
        pgno = numpy.array(pages, numpy.uint32)
        places = numpy.array([100 * n for n in pages], numpy.uint64)
        items.append(Incoming(info, header, SimpleNamespace(pgno=pgno, offset=places, size=pgno * 0 + 50)))
    return build(items)


SNAPSHOT, FOUR, LATER = file(1, 3, 9), file(4, 4), file(4, 9, 1)
EVERY = (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("files", "have", "txid", "known", "expected"),
    [
        # The same files: what is here is right.
        (((SNAPSHOT, EVERY), (FOUR, (2,))), (3, 4, 3, 3), 4, (SNAPSHOT, FOUR), (3, 4, 3, 3)),
        # A page whose newer version is elsewhere, and one that is not here.
        (((SNAPSHOT, EVERY), (FOUR, (2,))), (3, 3, 0, 3), 4, (SNAPSHOT, FOUR), (3, 0, 0, 3)),
        # A file that nobody read may be of another history.
        (((SNAPSHOT, EVERY), (FOUR, (2,))), (3, 4, 3, 3), 4, (SNAPSHOT,), (3, 0, 3, 3)),
        # The same name and another size: another file.
        (((SNAPSHOT, EVERY), (file(4, 4, 0, 999), (2,))), (3, 4, 3, 3), 4, (SNAPSHOT, FOUR), (3, 0, 3, 3)),
        # A compacted file that was applied bears another number for the same content.
        (((SNAPSHOT, EVERY), (LATER, (2, 3))), (3, 4, 8, 3), 9, (SNAPSHOT, LATER), (3, 9, 9, 3)),
        # But it tells nothing of what was not known to its end.
        (((SNAPSHOT, EVERY), (LATER, (2, 3))), (3, 4, 8, 3), 8, (SNAPSHOT, LATER), (3, 0, 0, 3)),
        # A version from before the file began: the page changed since.
        (((SNAPSHOT, EVERY), (LATER, (2,))), (3, 3, 3, 3), 9, (SNAPSHOT, LATER), (3, 0, 3, 3)),
    ],
)
def test_what_is_proven(
    files: tuple[tuple[FileInfo, tuple[int, ...]], ...],
    have: tuple[int, ...],
    txid: int,
    known: tuple[FileInfo, ...],
    expected: tuple[int, ...],
) -> None:
    view = view_of(*files)
    found = proven(view, array("Q", (0, *have)), txid, {identity(info) for info in known})
    assert tuple(found)[1:] == expected


def test_a_copy_of_another_size() -> None:
    view = view_of((SNAPSHOT, EVERY))
    known = {identity(SNAPSHOT)}
    assert tuple(proven(view, array("Q", (0, 3)), 3, known)) == (0, 3, 0, 0, 0)
    assert tuple(proven(view, array("Q", (0, 3, 3, 3, 3, 3, 3)), 3, known)) == (0, 3, 3, 3, 3, 0, 0)


def test_only_what_is_current_is_written_down() -> None:
    view = view_of((SNAPSHOT, EVERY), (FOUR, (2,)))
    assert tuple(still_current(view, array("Q", (7, 3, 3, 0, 3, 3)))) == (0, 3, 0, 0, 3, 0)


def test_missing_pages_in_the_order_of_their_places() -> None:
    view = view_of((SNAPSHOT, EVERY), (FOUR, (2,)))
    ranges = list(missing_ranges(view, array("Q", (0, 3, 0, 0, 0))))
    assert [(r.file, r.offset, [f.pgno for f in r.frames]) for r in ranges] == [(0, 300, [3, 4]), (1, 200, [2])]
