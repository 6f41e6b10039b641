"""``vfsstream restore``: a database from its replica."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import click

from vfsstream.cli.grammar import GoCommand, argument, flag, option
from vfsstream.cli.output import human_seconds, human_size, print_json, print_table, rfc3339
from vfsstream.cli.progress import interruptible, progress_option, reporter
from vfsstream.cli.sources import Found, config_flags, is_url, one_argument, replica_source
from vfsstream.cli.types import DURATION, INTEGER, TIME, TXID_TYPE
from vfsstream.errors import ReplicaEmpty, UsageError
from vfsstream.ltx.names import LEVELS, TXID
from vfsstream.plan.files import FileInfo

__all__ = ["restore"]

_CHECKS = ("none", "quick", "full")


@dataclass(frozen=True)
class Options:
    """The flags of the command."""

    config: str | None
    no_expand_env: bool
    o: str | None
    txid: TXID | None
    timestamp: datetime | None
    parallelism: int | None
    if_db_not_exists: bool
    if_replica_exists: bool
    dry_run: bool
    force: bool
    json: bool
    f: bool
    follow_interval: timedelta
    integrity_check: str
    progress: str
    allow_gap: bool
    delta: bool
    base: int | None

    @property
    def requests(self) -> int | None:
        """Requests at once; ``None`` for what the kind of replica can use, which 0 and below mean too."""
        return self.parallelism if self.parallelism and self.parallelism > 0 else None


@click.command(cls=GoCommand)
@config_flags
@option("o", str, metavar="PATH", help="database to write (default: the DB_PATH)")
@option("txid", TXID_TYPE, help="up to this transaction: 16 hex digits, 0x1a, or a decimal number")
@option("timestamp", TIME, help="the state before this time: 2026-01-02T03:04:05Z, 2026-01-02, '5 minutes ago'")
@option("parallelism", INTEGER, metavar="N", help="requests at once (default: what the kind of replica can use)")
@flag("if-db-not-exists", "do nothing and succeed when the database exists")
@flag("if-replica-exists", "do nothing and succeed when there is no backup")
@flag("dry-run", "print the plan, write nothing")
@flag("force", "replace an existing database and its sidecar files")
@flag("json", "print a JSON summary")
@flag("f", "follow: keep applying new files until stopped")
@option("follow-interval", DURATION, default="1s", help="time between two looks when following (default 1s)")
@option(
    "integrity-check", str, metavar="MODE", default="none", help="none, quick or full, before anything is replaced"
)
@flag("delta", "bring an existing copy to the wanted moment by fetching only the pages that differ")
@option(
    "base", TXID_TYPE, metavar="TXID", help="with -delta: the TXID of the copy (default: what stands in PATH-txid)"
)
@flag("allow-gap", "at a gap in the history stop before it instead of refusing")
@progress_option
@argument("words", "DB_PATH|REPLICA_URL", many=True)
def restore(words: tuple[str, ...], **flags: Any) -> None:
    """Recover a database from its replica."""
    options = Options(**flags)
    word = one_argument("restore", words, "database path or replica URL", "-o app.db REPLICA_URL")
    _check_flags(options, word)
    with replica_source("restore", words, options.config, options.no_expand_env) as found:
        output = os.path.abspath(_expand(options.o) or found.db_path or "")
        if options.if_db_not_exists and os.path.exists(output):
            click.echo(f"database exists, nothing to do: {output}", err=True)
            return
        try:
            _run(options, found, word, output)
        except ReplicaEmpty as error:
            if not options.if_replica_exists:
                raise
            click.echo(f"no backup, nothing to do: {error.message}", err=True)


def _expand(path: str | None) -> str | None:
    return os.path.expanduser(path) if path and path.startswith("~/") else path


def _check_flags(options: Options, word: str) -> None:
    if is_url(word) and not options.o:
        raise UsageError("-o is required with a replica URL", hint=f"vfsstream restore -o app.db {word}")
    if options.txid and options.timestamp:
        raise UsageError("-txid and -timestamp exclude each other", hint="give one of them")
    if options.integrity_check not in _CHECKS:
        raise UsageError(f"unknown integrity check {options.integrity_check!r}", hint="one of: none quick full")
    if options.base and not options.delta:
        raise UsageError("-base states the TXID of the copy for -delta", hint="add -delta")
    if options.delta and (options.f or options.dry_run):
        raise UsageError("-delta excludes -f and -dry-run", hint="leave one of them out")
    if options.f:
        for name, value in (
            ("-txid", options.txid),
            ("-timestamp", options.timestamp),
            ("-dry-run", options.dry_run),
        ):
            if value:
                raise UsageError(f"-f follows the newest state and excludes {name}", hint="leave one of them out")


def _run(options: Options, found: Found, word: str, output: str) -> None:
    if options.dry_run:
        _print_plan(options, found, word, output)
    elif options.f:
        _follow(options, found, output)
    elif options.delta:
        _delta(options, found, output)
    else:
        _restore(options, found, output)


def _restore(options: Options, found: Found, output: str) -> None:
    if options.txid is None and _restore_old(options, found, output):
        return
    from vfsstream.replicate.restore import RestoreProgress
    from vfsstream.replicate.restore import restore as engine

    with interruptible() as stop, reporter(options.progress, os.path.basename(output)) as report:

        def progress(now: RestoreProgress) -> None:
            report(now.done, now.total, now.pages)

        result = engine(
            found.replica,
            output,
            txid=options.txid,
            timestamp=options.timestamp,
            allow_gap=options.allow_gap,
            force=options.force,
            integrity_check=options.integrity_check,  # type: ignore[arg-type]
            parallelism=options.requests,
            progress=progress,
            stop=stop,
        )
    if options.json:
        print_json(_summary(options, found, str(result.txid), result.seconds))
    else:
        size = human_size(result.size)
        took = human_seconds(result.seconds)
        text = f"restored {output} to TXID {result.txid} ({int(result.txid)}), {size} in {took}"
        click.echo(text, err=True)


def _restore_old(options: Options, found: Found, output: str) -> bool:
    """Restore from a backup of Litestream 0.3 when one lies there and is the newer one."""
    if found.kind not in ("file", "s3"):
        return False
    from vfsstream.replicate.v03 import find_generations, prefer_old, restore_old

    generations = find_generations(found.replica.store)
    if not generations or not prefer_old(generations, found.replica.all_files(LEVELS), options.timestamp):
        return False
    with interruptible() as stop, reporter(options.progress, os.path.basename(output)) as report:
        result = restore_old(
            found.replica.store,
            output,
            timestamp=options.timestamp,
            force=options.force,
            integrity_check=options.integrity_check,  # type: ignore[arg-type]
            progress=lambda now: report(now.done, now.total, now.pages),
            stop=stop,
        )
    if options.json:
        print_json(_summary(options, found, "", result.seconds))
    else:
        size = human_size(result.size)
        click.echo(f"restored {output} from a 0.3 backup, {size} in {human_seconds(result.seconds)}", err=True)
    return True


def _delta(options: Options, found: Found, output: str) -> None:
    from vfsstream.replicate.delta import restore_delta

    with interruptible() as stop, reporter(options.progress, os.path.basename(output)) as report:
        result = restore_delta(
            found.replica,
            output,
            base=options.base,
            txid=options.txid,
            timestamp=options.timestamp,
            integrity_check="full" if options.integrity_check == "full" else "quick",
            parallelism=options.requests,
            progress=lambda now: report(now.done, now.total, now.pages),
            stop=stop,
        )
    if options.json:
        print_json(
            {
                **_summary(options, found, str(result.txid), result.seconds),
                "pages": result.pages,
                "full": result.full,
            }
        )
    else:
        how = "all of it" if result.full else f"{result.pages} pages, {human_size(result.read)}"
        click.echo(
            f"{output}: from TXID {result.base} to {result.txid}, {how} in {human_seconds(result.seconds)}",
            err=True,
        )


def _summary(options: Options, found: Found, txid: str, seconds: float) -> dict[str, Any]:
    return {
        "db_path": options.o or found.db_path,
        "replica": found.kind,
        "txid": txid,
        "duration_ms": round(seconds * 1000),
        "integrity_check": options.integrity_check,
    }


def _follow(options: Options, found: Found, output: str) -> None:
    from vfsstream.daemon.logs import make_log
    from vfsstream.replicate.follow import Follower, FollowEvent

    log = make_log(os.environ.get("LOG_LEVEL", "info"), "text")

    def observe(event: FollowEvent) -> None:
        if event.error is not None:
            log.error("follow failed, trying again", txid=event.txid, error=event.error)
        else:
            log.info(f"follow {event.kind}", txid=event.txid, files=event.files, pages=event.pages)

    interval = options.follow_interval if options.follow_interval > timedelta(0) else timedelta(seconds=1)
    log.info("following", output=output, interval=interval)
    started = time.monotonic()
    follower = Follower(
        found.replica,
        output,
        interval=interval.total_seconds(),
        force=options.force,
        parallelism=options.requests,
        observer=observe,
    )
    with interruptible() as stop:
        follower.run(stop)
    log.info("follow stopped", txid=follower.txid)
    if options.json:
        print_json(_summary(options, found, "", time.monotonic() - started))


def _print_plan(options: Options, found: Found, word: str, output: str) -> None:
    from vfsstream.replicate.planning import find_plan

    plan = find_plan(found.replica, txid=options.txid, timestamp=options.timestamp, allow_gap=options.allow_gap)
    low, high = min(file.min_txid for file in plan), plan[-1].max_txid
    if options.json:
        files = [_plan_file(file) for file in plan]
        head = {"source": word, "target_path": options.o or output, "replica": found.kind}
        print_json({**head, "min_txid": str(low), "max_txid": str(high), "files": files})
        return
    click.echo("Restore plan:")
    for name, value in (
        ("source", word),
        ("target", output),
        ("replica", found.kind),
        ("txid range", f"{low} - {high}"),
    ):
        click.echo(f"  {name}: {value}")
    click.echo()
    click.echo("Files:")
    _print_files(plan)


def _print_files(plan: Sequence[FileInfo]) -> None:
    rows = [(f.level, f.name, f.min_txid, f.max_txid, f.size, rfc3339(f.created_at)) for f in plan]
    print_table(("level", "file", "min_txid", "max_txid", "size", "timestamp"), rows)


def _plan_file(file: FileInfo) -> dict[str, Any]:
    return {
        "level": file.level,
        "name": file.name,
        "min_txid": str(file.min_txid),
        "max_txid": str(file.max_txid),
        "size": file.size,
        "timestamp": rfc3339(file.created_at),
    }
