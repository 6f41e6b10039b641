"""``vfsstream verify``: is everything in the replica whole?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from vfsstream.cli.exits import ExitStatus, code_of
from vfsstream.cli.grammar import GoCommand, argument, flag, option
from vfsstream.cli.output import human_size, print_json
from vfsstream.cli.progress import interruptible, progress_option, reporter
from vfsstream.cli.sources import config_flags, is_url, replica_source
from vfsstream.cli.types import INTEGER
from vfsstream.errors import CorruptError, UsageError
from vfsstream.ltx.names import TXID

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
    from vfsstream.replicate.verify import verify as engine

    if integrity_check not in ("none", "quick", "full"):
        raise UsageError(f"unknown integrity check {integrity_check!r}", hint="one of: none quick full")
    share = _share(sample)
    with replica_source("verify", words, config, no_expand_env) as found:
        image = _image(words[0], integrity_check) if is_url(words[0]) and integrity_check != "none" else None
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
        checked = f"{result.checked} of {result.files} files, {human_size(result.bytes)}, up to TXID {result.txid}"
        image_text = f", image {result.image}" if result.image else ""
        click.echo(f"{'ok' if result.ok else 'NOT OK'}: {checked}{image_text}")
    if not result.ok:
        raise ExitStatus(code_of(CorruptError("")))


def _share(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"invalid sample {text!r}", hint="a share as 0.1 or 10%") from None


def _image(url: str, mode: str) -> Callable[[TXID], str]:
    """Run SQLite's own check on the image of a TXID, read through the VFS."""

    def check(txid: TXID) -> str:
        import vfsstream

        connect: Any = getattr(vfsstream, "connect")  # noqa: B009 - made when first asked for
        connection = connect(url, txid=str(txid))
        try:
            pragma = "quick_check" if mode == "quick" else "integrity_check"
            (finding,) = connection.execute(f"PRAGMA {pragma}(1)").fetchall()[0]
            return str(finding)
        finally:
            connection.close()

    return check
