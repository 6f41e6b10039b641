"""A picture of a replica: which level holds which span of time, and which moments can be restored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

from vfsstream.plan.files import FileInfo

__all__ = ["levels_svg"]

_WIDTH, _ROW, _LEFT, _TOP = 900, 34, 110, 46
_COLOURS = (
    "#2b6cb0",
    "#2c7a7b",
    "#2f855a",
    "#975a16",
    "#9c4221",
    "#97266d",
    "#553c9a",
    "#4a5568",
    "#4a5568",
    "#1a202c",
)


def levels_svg(files: Mapping[int, Sequence[FileInfo]], points: Sequence[FileInfo]) -> str:
    """An SVG drawing: a row for each level that holds files, and one for the restorable moments.

    Files without a time are left out.
    """
    shown = {level: [(f, f.created_at) for f in listed if f.created_at] for level, listed in files.items()}
    levels = sorted((level for level, listed in shown.items() if listed), reverse=True)
    times = [time for level in levels for _, time in shown[level]]
    height = _TOP + _ROW * (len(levels) + 1) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    if not times:
        return "\n".join([*parts, '<text x="20" y="30">no files</text>', "</svg>"])
    first, last = min(times), max(times)
    parts.append(f'<text x="20" y="24">{escape(_stamp(first))} to {escape(_stamp(last))}</text>')
    for row, level in enumerate(levels):
        parts += _level_row(level, shown[level], _TOP + row * _ROW, first, last)
    parts += _points_row(points, _TOP + len(levels) * _ROW, first, last)
    return "\n".join([*parts, "</svg>"])


def _x(time: datetime, first: datetime, last: datetime) -> float:
    span = (last - first).total_seconds() or 1.0
    return _LEFT + (time - first).total_seconds() / span * (_WIDTH - _LEFT - 30)


def _level_row(
    level: int, files: Sequence[tuple[FileInfo, datetime]], y: int, first: datetime, last: datetime
) -> list[str]:
    label = "snapshots" if level == 9 else f"level {level}"
    size = sum(info.size for info, _ in files)
    parts = [f'<text x="20" y="{y + 20}">{label}</text>']
    before = _LEFT - 4.0
    for info, time in files:
        x = _x(time, first, last)
        start = x - 3 if level in (0, 9) else min(before, x - 3)
        parts.append(
            f'<rect x="{start:.1f}" y="{y + 6}" width="{max(x - start, 2):.1f}" height="18" rx="2" '
            f'fill="{_COLOURS[level]}" fill-opacity="0.75" stroke="#fff" stroke-width="0.5">'
            f"<title>{escape(info.name)}, {info.size} bytes</title></rect>"
        )
        before = x
    parts.append(f"<title>{len(files)} files, {size} bytes</title>")
    return parts


def _points_row(points: Sequence[FileInfo], y: int, first: datetime, last: datetime) -> list[str]:
    parts = [f'<text x="20" y="{y + 20}">restorable</text>']
    for point in points:
        if point.created_at is not None:
            x = _x(point.created_at, first, last)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y + 6}" y2="{y + 24}" stroke="#c53030"/>')
    parts.append(f'<text x="{_LEFT}" y="{y + 48}">{len(points)} moments can be restored</text>')
    return parts


def _stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")
