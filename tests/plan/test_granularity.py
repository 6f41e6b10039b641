"""Granularity by age, and its picture."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from vfsstream.ltx import TXID
from vfsstream.plan import FileInfo
from vfsstream.plan.granularity import granularity
from vfsstream.plan.picture import levels_svg

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _point(txid: int, age: timedelta, level: int = 0) -> FileInfo:
    return FileInfo(TXID(txid), TXID(txid), level, 100, NOW - age, True)


def test_rows_by_age() -> None:
    points = [
        _point(1, timedelta(days=2)),
        _point(2, timedelta(hours=3)),
        _point(3, timedelta(minutes=40)),
        _point(4, timedelta(minutes=10)),
        _point(5, timedelta(seconds=20)),
        _point(6, timedelta(seconds=10)),
        _point(7, timedelta(seconds=-5)),
    ]
    rows = granularity(points, NOW)
    assert [row.count for row in rows] == [3, 2, 1, 1]
    assert rows[0].largest_gap == timedelta(seconds=15)
    assert rows[1].typical_gap == timedelta(minutes=30)
    assert rows[2].largest_gap is None
    assert granularity([], NOW) == []


def test_the_picture_is_well_formed_and_shows_each_level() -> None:
    files = {0: [_point(1, timedelta(0)), _point(2, timedelta(1))], 3: [_point(1, timedelta(3), 3)], 9: []}
    root = ElementTree.fromstring(levels_svg(files, files[0]))
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "level 0" in words
    assert "level 3" in words
    assert "snapshots" not in words
    assert "2 moments can be restored" in words
    assert "no files" in levels_svg({}, [])


def test_files_without_a_time_are_left_out_of_the_picture() -> None:
    timeless = FileInfo(TXID(3), TXID(3), 0, 100)
    drawing = levels_svg({0: [_point(1, timedelta(0)), timeless]}, [_point(1, timedelta(0)), timeless])
    assert timeless.name not in drawing
    ElementTree.fromstring(drawing)
