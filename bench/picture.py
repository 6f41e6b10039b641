"""Bars of both sides on a logarithmic scale, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["bars"]

WIDTH, LEFT, RIGHT, ROW, TOP = 860, 230, 120, 46, 60
THEIRS, OURS = "#a0aec0", "#2b6cb0"


def bars(title: str, unit: str, rows: Sequence[tuple[str, float, float]]) -> str:
    """One pair of bars for each ``(what, Litestream, vfsstream)``, with the ratio beside it."""
    low = min(value for _, *pair in rows for value in pair)
    high = max(value for _, *pair in rows for value in pair)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    height = TOP + ROW * len(rows) + 40

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - first) / max(1, last - first) * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" fill="#1a202c">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="20" y="26" font-size="16" font-weight="bold">{escape(title)}</text>',
        f'<rect x="20" y="38" width="12" height="12" fill="{THEIRS}"/><text x="38" y="49">Litestream 0.5.17</text>',
        f'<rect x="170" y="38" width="12" height="12" fill="{OURS}"/><text x="188" y="49">vfsstream</text>',
    ]
    for power in range(first, last + 1):
        at = x(10.0**power)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{height - 30}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - 12}" text-anchor="middle">{10.0**power:g} {unit}</text>')
    for number, (what, theirs, ours) in enumerate(rows):
        y = TOP + number * ROW + 6
        parts.append(f'<text x="{LEFT - 10}" y="{y + 21}" text-anchor="end">{escape(what)}</text>')
        for value, colour, shift in ((theirs, THEIRS, 0), (ours, OURS, 17)):
            width = max(1.0, x(value) - LEFT)
            parts.append(f'<rect x="{LEFT}" y="{y + shift}" width="{width:.1f}" height="15" fill="{colour}"/>')
        end = max(x(theirs), x(ours)) + 8
        parts.append(f'<text x="{end:.1f}" y="{y + 21}" font-weight="bold">{_ratio(theirs / ours)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _ratio(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"
