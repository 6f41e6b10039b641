"""Which files tell what changed between two moments."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vfsstream.ltx import TXID
from vfsstream.plan.changes import covering
from vfsstream.plan.files import FileInfo


def info(level: int, low: int, high: int) -> FileInfo:
    return FileInfo(TXID(low), TXID(high), level, 1000)


def test_it_takes_what_reaches_furthest_within_the_span() -> None:
    files = {0: [info(0, n, n) for n in range(2, 10)], 1: [info(1, 2, 5), info(1, 6, 9)], 9: [info(9, 1, 9)]}
    assert covering(files, 3, 7) == [info(0, 4, 4), info(0, 5, 5), info(1, 6, 9)] or covering(files, 3, 7) == [
        info(1, 2, 5),
        info(1, 6, 9),
    ]
    assert covering(files, 9, 9) == []


def test_a_full_image_does_not_say_what_changed() -> None:
    assert covering({9: [info(9, 1, 9)], 0: [info(0, 3, 3)]}, 2, 5) is None
    assert covering({9: [info(9, 1, 9)]}, 0, 5) == [info(9, 1, 9)]


FILES = st.lists(
    st.builds(
        lambda level, low, more: info(level, low, low + more),
        st.integers(0, 8),
        st.integers(2, 15),
        st.integers(0, 5),
    ),
    max_size=12,
)


@given(FILES, st.integers(1, 16), st.integers(0, 6))
def test_every_txid_of_the_span_is_covered_or_cannot_be(files: list[FileInfo], low: int, more: int) -> None:
    levels: dict[int, list[FileInfo]] = {}
    for file in files:
        levels.setdefault(file.level, []).append(file)
    span = range(low + 1, low + more + 1)
    chosen = covering(levels, low, low + more)
    if chosen is None:
        assert any(not any(file.min_txid <= txid <= file.max_txid for file in files) for txid in span)
        return
    assert all(any(file.min_txid <= txid <= file.max_txid for file in chosen) for txid in span)
