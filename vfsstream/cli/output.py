"""What commands print: JSON as Litestream writes it, tables, and the answer of a command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

__all__ = ["counted", "human_seconds", "human_size", "json_text", "print_json", "print_table", "rfc3339"]

_ESCAPES = str.maketrans(
    {"&": "\\u0026", "<": "\\u003c", ">": "\\u003e", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


def json_text(value: Any) -> str:
    """JSON with two-space indentation and ``& < >`` escaped, as Go's encoder does."""
    return json.dumps(value, indent=2, ensure_ascii=False).translate(_ESCAPES)


def print_json(value: Any) -> None:
    """Write one JSON document to stdout."""
    click.echo(json_text(value))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write left-aligned columns two spaces apart; the header always, the last column unpadded."""
    lines = [tuple(map(str, row)) for row in (columns, *rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
        click.echo("  ".join([*padded, line[-1]]))


def rfc3339(moment: datetime | None) -> str:
    """Whole seconds, UTC; a dash for an unknown time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else "-"


def human_size(size: float) -> str:
    """Powers of 1000 with one decimal below ten: ``0 B``, ``4.2 kB``, ``29 kB``."""
    if size < 10:
        return f"{int(size)} B"
    units = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
    power = 0
    scaled = float(size)
    while scaled >= 1000 and power < len(units) - 1:
        scaled /= 1000
        power += 1
    rounded = int(scaled * 10 + 0.5) / 10
    return f"{rounded:.1f} {units[power]}" if rounded < 10 and power else f"{rounded:.0f} {units[power]}"


def human_seconds(seconds: float) -> str:
    """A duration for a person: ``12ms``, ``3.4s``, ``1m30s``."""
    from datetime import timedelta

    from vfsstream.config.values import format_duration

    if seconds < 1:
        return f"{max(1, round(seconds * 1000))}ms"
    return f"{seconds:.1f}s" if seconds < 60 else format_duration(timedelta(seconds=round(seconds)))


def counted(number: int, noun: str) -> str:
    """A number and its noun, as ``1 file`` or ``2 files``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
