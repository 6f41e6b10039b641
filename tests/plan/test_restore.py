"""The restore plan, against what the real Litestream chose and against plain reasoning."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import GOLDEN
from vfsstream.errors import NotRestorable, ReplicaEmpty, UsageError
from vfsstream.ltx import TXID, Header, parse_name
from vfsstream.plan import FileInfo, restorable, restore_plan
from vfsstream.plan.points import every_file, nearest

START = datetime(2026, 1, 1, tzinfo=UTC)


def _file(level: int, low: int, high: int, second: int | None = None) -> FileInfo:
    when = None if second is None else START + timedelta(seconds=second)
    return FileInfo(TXID(low), TXID(high), level, 1000, when, when is not None)


def _levels(*files: FileInfo) -> dict[int, list[FileInfo]]:
    levels: dict[int, list[FileInfo]] = {}
    for info in sorted(files):
        levels.setdefault(info.level, []).append(info)
    return levels


def _golden(name: str) -> dict[int, list[FileInfo]]:
    levels: dict[int, list[FileInfo]] = {}
    for path in sorted((GOLDEN / name / "ltx").glob("*/*.ltx")):
        low, high = parse_name(path.name) or (TXID(0), TXID(0))
        header = Header.unpack(path.read_bytes())
        when = datetime.fromtimestamp(header.timestamp / 1000, UTC)
        info = FileInfo(low, high, int(path.parent.name), path.stat().st_size, when, True)
        levels.setdefault(info.level, []).append(info)
    return levels


def _names(plan: list[FileInfo]) -> list[str]:
    return [f"{info.level}/{info.name}" for info in plan]


def _manifest(name: str) -> Any:
    return json.loads((GOLDEN / name / "manifest.json").read_text())["restore"]


@pytest.mark.parametrize("name", sorted(path.name for path in Path(GOLDEN).iterdir()))
def test_the_plan_is_litestreams(name: str) -> None:
    files, wanted = _golden(name), _manifest(name)
    plain = [f.removesuffix(".ltx") for f in wanted["latest"]["plan"]]
    assert [n.removesuffix(".ltx") for n in _names(restore_plan(files))] == plain
    for txid, expected in wanted["txid"].items():
        if "error" in expected:
            with pytest.raises(NotRestorable):
                restore_plan(files, txid=int(txid, 16))
        else:
            assert _names(restore_plan(files, txid=int(txid, 16))) == expected["plan"]


def test_the_worked_example() -> None:
    levels = _levels(
        _file(9, 1, 5),
        _file(9, 1, 15),
        _file(1, 6, 7),
        _file(1, 8, 9),
        _file(1, 10, 12),
        *(_file(0, n, n) for n in range(7, 12)),
    )
    assert [str(f) for f in restore_plan(levels, txid=10)] == [
        f"L9/{1:016x}-{5:016x}.ltx",
        f"L1/{6:016x}-{7:016x}.ltx",
        f"L1/{8:016x}-{9:016x}.ltx",
        f"L0/{10:016x}-{10:016x}.ltx",
    ]


def test_a_time_is_exclusive() -> None:
    levels = _levels(_file(0, 1, 1, 10), _file(0, 2, 2, 20))
    assert restore_plan(levels, timestamp=START + timedelta(seconds=20))[-1].max_txid == 1
    assert restore_plan(levels, timestamp=START + timedelta(seconds=20, milliseconds=1))[-1].max_txid == 2
    with pytest.raises(NotRestorable, match="nothing is older"):
        restore_plan(levels, timestamp=START + timedelta(seconds=10))


def test_a_gap_below_the_wanted_time_is_refused_not_skipped() -> None:
    levels = _levels(_file(0, 1, 1, 10), _file(0, 2, 2, 20), _file(0, 9, 9, 90))
    with pytest.raises(
        NotRestorable, match="have up to TXID 0000000000000002 but the next file starts at 0000000000000009"
    ):
        restore_plan(levels, timestamp=START + timedelta(days=1))
    with pytest.raises(NotRestorable, match="-txid 0000000000000002"):
        restore_plan(levels)
    assert restore_plan(levels, timestamp=START + timedelta(days=1), allow_gap=True)[-1].max_txid == 2


def test_an_unreachable_txid_names_its_neighbours() -> None:
    levels = _levels(_file(9, 1, 32, 1), _file(1, 34, 36, 3), _file(2, 31, 36, 3))
    assert restore_plan(levels, txid=36)[-1].level == 2
    with pytest.raises(NotRestorable) as caught:
        restore_plan(levels, txid=34)
    assert "0000000000000020" in str(caught.value)
    assert "0000000000000024" in str(caught.value)


def test_without_a_full_image_nothing_can_be_restored() -> None:
    with pytest.raises(NotRestorable, match="no full image to start from"):
        restore_plan(_levels(_file(0, 5, 5)))
    with pytest.raises(NotRestorable, match="no full image to start from"):
        restore_plan(_levels(_file(0, 5, 5)), txid=3)
    with pytest.raises(ReplicaEmpty):
        restore_plan({})
    with pytest.raises(UsageError):
        restore_plan(_levels(_file(0, 1, 1)), txid=1, timestamp=START)


_FILES = st.lists(
    st.builds(
        lambda level, low, more: _file(level, 1 if level == 9 else low, (1 if level == 9 else low) + more),
        st.integers(0, 9),
        st.integers(1, 12),
        st.integers(0, 8),
    ),
    min_size=1,
    max_size=14,
)


@given(_FILES, st.integers(1, 20))
def test_a_txid_is_in_the_points_exactly_when_a_plan_leads_there(files: list[FileInfo], txid: int) -> None:
    levels = _levels(*files)
    points = {int(point.max_txid) for point in restorable(every_file(levels))}
    try:
        plan = restore_plan(levels, txid=txid)
    except NotRestorable:
        assert txid not in points
        return
    assert txid in points
    assert plan[0].min_txid == 1
    assert plan[-1].max_txid == txid
    for before, after in pairwise(plan):
        assert after.min_txid <= before.max_txid + 1 <= after.max_txid


def test_nearest_points() -> None:
    points = [_file(0, 1, 1), _file(0, 2, 5), _file(0, 6, 9)]
    assert nearest(points, 5) == (points[0], points[2])
    assert nearest(points, 9) == (points[1], None)
    assert nearest(points, 1) == (None, points[1])


def test_without_any_time_a_refusal_says_so() -> None:
    levels = _levels(_file(0, 1, 1), _file(0, 3, 3))
    with pytest.raises(NotRestorable, match="-txid 0000000000000001"):
        restore_plan(levels)
    later_only = _levels(_file(9, 1, 9), _file(0, 12, 12))
    with pytest.raises(NotRestorable, match="have up to TXID 0000000000000009"):
        restore_plan(later_only)
    assert restore_plan(later_only, allow_gap=True) == [_file(9, 1, 9)]
    with pytest.raises(NotRestorable, match="no full image"):
        restore_plan(_levels(_file(0, 3, 3)), allow_gap=True)
