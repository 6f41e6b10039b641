"""What leads on from where a copy stands."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vfsstream.ltx import TXID
from vfsstream.plan.continuation import continuation
from vfsstream.plan.files import FileInfo


def info(level: int, low: int, high: int) -> FileInfo:
    return FileInfo(TXID(low), TXID(high), level, 1000)


def levels(*files: FileInfo) -> dict[int, list[FileInfo]]:
    out: dict[int, list[FileInfo]] = {}
    for file in sorted(files):
        out.setdefault(file.level, []).append(file)
    return out


def test_a_full_image_bridges_a_gap_and_replaces_what_came_before() -> None:
    files = levels(info(0, 4, 4), info(0, 5, 5), info(0, 9, 9), info(9, 1, 8))
    assert continuation(files, 3) == [info(9, 1, 8), info(0, 9, 9)]
    assert continuation(files, 8) == [info(0, 9, 9)]
    assert continuation(files, 9) == []
    assert continuation({}, 0) == []


def test_it_stops_at_a_gap_that_nothing_bridges() -> None:
    assert continuation(levels(info(0, 4, 4), info(0, 6, 6)), 3) == [info(0, 4, 4)]
    assert continuation(levels(info(0, 6, 6)), 3) == []


FILES = st.lists(
    st.builds(
        lambda level, low, more: info(level, low, low + more),
        st.integers(0, 8),
        st.integers(2, 20),
        st.integers(0, 6),
    ),
    max_size=12,
)


@given(FILES, st.lists(st.integers(1, 25), max_size=2), st.integers(1, 20))
def test_every_step_continues_and_none_can_be_added(files: list[FileInfo], ends: list[int], current: int) -> None:
    known = levels(*files, *(info(9, 1, end) for end in ends))
    plan = continuation(known, current)
    reached = current
    for step in plan:
        assert step.is_snapshot or step.min_txid <= reached + 1
        assert step.max_txid > reached
        reached = step.max_txid
    for listed in known.values():
        assert not [file for file in listed if file.min_txid <= reached + 1 and file.max_txid > reached]
