"""Progress of long work: a bar on a terminal, JSON lines on request, else silence. Always on stderr."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from vfsstream.cli.grammar import option

__all__ = ["interruptible", "progress_option", "reporter"]

Report = Callable[[int, int, int], None]
"""Called with bytes done, bytes in all, pages done."""


def progress_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``-progress``."""
    choices = click.Choice(["auto", "bar", "json", "none"])
    return option("progress", choices, metavar="FORM", default="auto", help="auto, bar, json or none; on stderr")(
        function
    )


@contextmanager
def reporter(form: str, what: str) -> Iterator[Report]:
    """The function to report to; ``auto`` is a bar on a terminal and nothing elsewhere."""
    if form == "auto":
        form = "bar" if sys.stderr.isatty() else "none"
    if form == "bar":
        with _bar(what) as report:
            yield report
    else:
        yield _json_lines(what) if form == "json" else lambda done, total, pages: None


@contextmanager
def _bar(what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    more = (TextColumn("{task.fields[pages]} pages"), TimeRemainingColumn())
    with Progress(*columns, *more, console=Console(stderr=True), transient=False) as progress:
        task = progress.add_task(what, total=None, pages=0)
        yield lambda done, total, pages: progress.update(task, completed=done, total=total, pages=pages)


def _json_lines(what: str) -> Report:
    started = time.monotonic()
    last = [0.0]

    def report(done: int, total: int, pages: int) -> None:
        now = time.monotonic()
        if now - last[0] < 1 and done < total:
            return
        last[0] = now
        seconds = now - started
        rate = done / seconds if seconds else 0.0
        left = (total - done) / rate if rate else None
        line = {"what": what, "bytes": done, "total": total, "pages": pages, "seconds": round(seconds, 3)}
        line |= {"bytes_per_second": round(rate), "seconds_left": None if left is None else round(left, 1)}
        click.echo(json.dumps(line), err=True)

    return report


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that work ends cleanly; a second signal ends it at once."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
