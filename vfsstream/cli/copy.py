"""``vfsstream copy``: a second destination from the first."""

from __future__ import annotations

import click

from vfsstream.cli.grammar import GoCommand, argument, flag, option
from vfsstream.cli.output import counted, human_size, print_json
from vfsstream.cli.progress import interruptible, progress_option, reporter
from vfsstream.cli.sources import config_flags, is_url, replica_source
from vfsstream.cli.types import INTEGER
from vfsstream.errors import UsageError

__all__ = ["copy"]


@click.command(cls=GoCommand)
@config_flags
@option("parallelism", INTEGER, metavar="N", default="4", help="files in flight (default 4)")
@flag("dry-run", "list what would be copied")
@flag("json", "print JSON")
@progress_option
@argument("words", "DB_PATH|REPLICA_URL REPLICA_URL", many=True)
def copy(
    config: str | None,
    no_expand_env: bool,
    parallelism: int,
    dry_run: bool,
    json: bool,
    progress: str,
    words: tuple[str, ...],
) -> None:
    """Copy the files that the second replica lacks; each is verified. Calling again goes on where it ended."""
    from vfsstream.replica.replica import Replica
    from vfsstream.replicate.copy import copy as engine

    if len(words) != 2 or not is_url(words[1]):
        raise UsageError(
            "a source and a destination URL are required", hint="vfsstream copy s3://a/app file:///b/app"
        )
    with replica_source("copy", words[:1], config, no_expand_env) as found, Replica.open(words[1]) as destination:
        if found.replica.store.describe() == destination.store.describe():
            raise UsageError("source and destination are the same place")
        with interruptible() as stop, reporter(progress, "copy") as report:
            result = engine(
                found.replica,
                destination,
                parallelism=max(1, parallelism),
                dry_run=dry_run,
                progress=lambda now: report(now.bytes, now.total_bytes, 0),
                stop=stop,
            )
    if json:
        files = [str(file) for file in result.copied]
        answer = {"dry_run": dry_run, "copied": files, "skipped": result.skipped, "bytes": result.bytes}
        print_json({**answer, "duration_ms": round(result.seconds * 1000)})
        return
    if dry_run:
        for file in result.copied:
            click.echo(f"would copy {file}")
    else:
        copied = counted(len(result.copied), "file")
        click.echo(f"copied {copied}, {human_size(result.bytes)}; {result.skipped} were there already")
