"""Gaps and overlaps of a level."""

from __future__ import annotations

from vfsstream.ltx import TXID
from vfsstream.plan import FileInfo
from vfsstream.plan.contiguity import gaps, overlaps


def _file(low: int, high: int) -> FileInfo:
    return FileInfo(TXID(low), TXID(high), 1, 100)


def test_a_level_may_begin_anywhere_but_has_no_holes() -> None:
    assert gaps([]) == gaps([_file(7, 9)]) == gaps([_file(7, 9), _file(10, 10)]) == []
    (gap,) = gaps([_file(10, 12), _file(1, 3), _file(4, 8)])
    assert (gap.before, gap.after) == (_file(4, 8), _file(10, 12))
    assert str(gap) == "level 1: nothing between 0000000000000008 and 000000000000000a"


def test_a_large_file_covers_what_smaller_ones_leave() -> None:
    assert gaps([_file(1, 9), _file(2, 3), _file(10, 11)]) == []


def test_overlaps() -> None:
    assert overlaps([_file(1, 3), _file(4, 5)]) == []
    (found,) = overlaps([_file(1, 3), _file(3, 5)])
    assert "overlaps" in str(found)
