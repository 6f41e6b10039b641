"""Gaps and overlaps of a level."""

from __future__ import annotations

from vfsstream.ltx import TXID
from vfsstream.plan import FileInfo
from vfsstream.plan.contiguity import find_problems, level_problems


def _file(low: int, high: int, level: int = 1) -> FileInfo:
    return FileInfo(TXID(low), TXID(high), level, 100)


def kinds(*files: FileInfo) -> list[str]:
    return [problem.kind for problem in level_problems(files)]


def gaps(*files: FileInfo) -> list[str]:
    return [str(problem) for problem in level_problems(files, only_gaps=True)]


def test_a_level_may_begin_anywhere_but_has_no_holes() -> None:
    for files in ([], [_file(7, 9)], [_file(7, 9), _file(10, 10)]):
        assert kinds(*files) == gaps(*files) == []
    assert gaps(_file(10, 12), _file(1, 3), _file(4, 8)) == [
        "level 1: nothing between 0000000000000008 and 000000000000000a"
    ]


def test_neighbours_in_the_order_given() -> None:
    assert kinds(_file(1, 3), _file(5, 6)) == ["gap"]
    assert kinds(_file(1, 3), _file(3, 5)) == ["overlap"]
    assert kinds(_file(4, 8), _file(1, 3)) == ["unsorted"]
    assert kinds(_file(1, 3), _file(1, 3)) == ["unsorted"]
    assert kinds(_file(1, 9), _file(2, 3), _file(10, 11)) == ["unsorted", "gap"]


def test_a_large_file_covers_what_smaller_ones_leave() -> None:
    assert gaps(_file(1, 9), _file(2, 3), _file(10, 11)) == []
    assert gaps(_file(1, 3), _file(3, 5)) == []


def test_levels_are_looked_at_in_order_and_snapshots_overlap_by_nature() -> None:
    files = {
        9: [_file(1, 5, 9), _file(1, 9, 9)],
        2: [_file(1, 2, 2), _file(2, 3, 2)],
        0: [_file(1, 1, 0), _file(3, 3, 0)],
    }
    assert [(problem.level, problem.kind) for problem in find_problems(files)] == [(0, "gap"), (2, "overlap")]
    assert [problem.level for problem in find_problems(files, only_gaps=True)] == [0]
    assert str(find_problems(files)[1]).startswith("level 2: overlap between 0000000000000001-0000000000000002")
