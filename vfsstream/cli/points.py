"""``vfsstream points``: the moments that can really be restored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from vfsstream.cli.grammar import GoCommand, argument, flag, option
from vfsstream.cli.output import counted, human_size, print_json, print_table, rfc3339
from vfsstream.cli.sources import config_flags, replica_source
from vfsstream.config.values import format_duration
from vfsstream.ltx.names import LEVELS
from vfsstream.plan.files import FileInfo
from vfsstream.plan.granularity import Age, granularity
from vfsstream.plan.points import every_file, restorable

__all__ = ["points"]


@click.command(cls=GoCommand)
@config_flags
@flag("json", "print JSON")
@option("plot", str, metavar="FILE", help="also draw the files of each level over time, as SVG")
@argument("words", "DB_PATH|REPLICA_URL", many=True)
def points(config: str | None, no_expand_env: bool, json: bool, plot: str | None, words: tuple[str, ...]) -> None:
    """List the TXIDs and times that can be restored, and how finely by age."""
    with replica_source("points", words, config, no_expand_env) as found:
        files = found.replica.all_files(LEVELS)
    everything = restorable(every_file(files))
    ages = granularity(everything, datetime.now(UTC))
    if plot:
        from vfsstream.plan.picture import levels_svg

        Path(plot).write_text(levels_svg(files, everything), encoding="utf-8")
    if json:
        print_json({"points": [_point(point) for point in everything], "granularity": [_age(age) for age in ages]})
        return
    rows = [
        (point.max_txid, int(point.max_txid), rfc3339(point.created_at), f"L{point.level}") for point in everything
    ]
    print_table(("txid", "number", "time", "from"), rows)
    if ages:
        click.echo()
        print_table(("age", "points", "typical gap", "largest gap"), [_age_row(age) for age in ages])
    size = sum(file.size for level in files.values() for file in level)
    click.echo(f"\n{counted(len(everything), 'point')}, {human_size(size)} in the replica")


def _point(point: FileInfo) -> dict[str, Any]:
    return {
        "txid": str(point.max_txid),
        "timestamp": rfc3339(point.created_at),
        "level": point.level,
        "size": point.size,
    }


def _seconds(value: timedelta | None) -> float | None:
    return value.total_seconds() if value is not None else None


def _age(age: Age) -> dict[str, Any]:
    return {
        "youngest_seconds": _seconds(age.youngest),
        "oldest_seconds": _seconds(age.oldest),
        "points": age.count,
        "typical_gap_seconds": _seconds(age.typical_gap),
        "largest_gap_seconds": _seconds(age.largest_gap),
    }


def _age_row(age: Age) -> tuple[str, int, str, str]:
    def shown(value: timedelta | None) -> str:
        return format_duration(timedelta(seconds=round(value.total_seconds()))) if value is not None else "-"

    span = f"{shown(age.youngest)} to {shown(age.oldest)}" if age.oldest else f"over {shown(age.youngest)}"
    return span, age.count, shown(age.typical_gap), shown(age.largest_gap)
