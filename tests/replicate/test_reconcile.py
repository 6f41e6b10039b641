"""What a replica's listing means for the local files."""

from __future__ import annotations

from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.replicate.reconcile import Behind, Standing, compare


def info(level: int, low: int, high: int | None = None) -> FileInfo:
    return FileInfo(TXID(low), TXID(high or low), level, 1000)


def level0(*txids: int) -> list[FileInfo]:
    return [info(0, txid) for txid in txids]


def test_an_empty_replica_gets_everything() -> None:
    assert compare(level0(1, 2, 3), TXID(3), {}) == Standing([TXID(1), TXID(2), TXID(3)], None, False)
    assert compare([], TXID(0), {}) == Standing([], None, False)


def test_an_empty_replica_without_the_first_file_needs_a_base() -> None:
    assert compare(level0(4, 5), TXID(5), {}) == Standing([TXID(4), TXID(5)], None, True)


def test_in_step() -> None:
    assert compare(level0(1, 2), TXID(2), {0: level0(1, 2)}) == Standing([], TXID(2), False)


def test_the_replica_is_ahead_at_any_level() -> None:
    assert compare([], TXID(0), {0: level0(1, 2)}) == Behind(TXID(2))
    assert compare(level0(1, 2), TXID(2), {0: level0(1), 1: [info(1, 1, 7)]}) == Behind(TXID(7))


def test_a_replica_that_is_ahead_without_a_base_needs_one() -> None:
    assert compare([], TXID(0), {0: level0(2, 3)}) == Behind(TXID(3), needs_snapshot=True)
    assert compare([], TXID(0), {0: level0(1, 3)}) == Behind(TXID(3), needs_snapshot=True)
    assert compare([], TXID(0), {0: level0(1, 3), 9: [info(9, 1, 2)]}) == Behind(TXID(3))


def test_a_hole_in_the_replica_is_filled_before_what_follows() -> None:
    found = compare(level0(1, 2, 3, 4), TXID(4), {0: level0(1, 3)})
    assert found == Standing([TXID(2), TXID(4)], TXID(3), False)


def test_files_that_a_higher_level_covers_are_not_missing() -> None:
    remote = {0: level0(5), 1: [info(1, 1, 5)]}
    assert compare(level0(2, 3, 4, 5, 6), TXID(6), remote) == Standing([TXID(6)], TXID(5), False)


def test_the_newest_file_marks_the_position_even_under_a_snapshot() -> None:
    assert compare(level0(3), TXID(3), {9: [info(9, 1, 3)]}) == Standing([TXID(3)], None, False)


def test_a_hole_that_nothing_fills_needs_a_base() -> None:
    found = compare(level0(1, 3), TXID(3), {0: level0(1)})
    assert found == Standing([TXID(3)], TXID(1), True)
