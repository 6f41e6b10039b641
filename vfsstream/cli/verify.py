"""``vfsstream verify``: is everything in the replica whole?"""

from __future__ import annotations

import click

from vfsstream.cli.exits import ExitStatus, code_of
from vfsstream.cli.grammar import GoCommand, argument, flag, option
from vfsstream.cli.output import counted, human_size, print_json
from vfsstream.cli.progress import interruptible, progress_option, reporter
from vfsstream.cli.sources import config_flags, replica_source
from vfsstream.cli.types import INTEGER
from vfsstream.errors import CorruptError, UsageError

__all__ = ["verify"]


@click.command(cls=GoCommand)
@config_flags
@option(
    "sample", str, metavar="SHARE", default="1", help="share of the files to read, as 0.1 or 10% (default all)"
)
@option(
    "integrity-check",
    str,
    metavar="MODE",
    default="full",
    help="of the newest image: none, quick or full (default)",
)
@option("parallelism", INTEGER, metavar="N", default="4", help="files read at once (default 4)")
@flag("json", "print JSON")
@progress_option
@argument("words", "DB_PATH|REPLICA_URL", many=True)
def verify(
    config: str | None,
    no_expand_env: bool,
    sample: str,
    integrity_check: str,
    parallelism: int,
    json: bool,
    progress: str,
    words: tuple[str, ...],
) -> None:
    """Read a replica and check every file, every chain and the whole image, writing nothing."""
    from vfsstream.daemon.verify import image_check
    from vfsstream.replicate.verify import verify as engine

    if integrity_check not in ("none", "quick", "full"):
        raise UsageError(f"unknown integrity check {integrity_check!r}", hint="one of: none quick full")
    share = _share(sample)
    with replica_source("verify", words, config, no_expand_env) as found:
        image = image_check(found.open, integrity_check) if integrity_check != "none" else None
        with interruptible() as stop, reporter(progress, "verify") as report:
            result = engine(
                found.replica,
                sample=share,
                image=image,
                parallelism=max(1, parallelism),
                progress=lambda now: report(now.bytes, now.total_bytes, 0),
                stop=stop,
            )
    if json:
        answer = {
            "files": result.files,
            "checked": result.checked,
            "bytes": result.bytes,
            "txid": str(result.txid),
        }
        more = {"integrity_check": result.image, "problems": list(result.problems), "ok": result.ok}
        print_json({**answer, **more, "duration_ms": round(result.seconds * 1000)})
    else:
        for problem in result.problems:
            click.echo(f"problem: {problem}")
        files = f"{result.checked} of {counted(result.files, 'file')}"
        checked = f"{files}, {human_size(result.bytes)}, up to TXID {result.txid}"
        image_text = f", image {result.image}" if result.image else ""
        click.echo(f"{'ok' if result.ok else 'NOT OK'}: {checked}{image_text}")
    if not result.ok:
        raise ExitStatus(code_of(CorruptError("")))


def _share(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"invalid sample {text!r}", hint="a share as 0.1 or 10%") from None
