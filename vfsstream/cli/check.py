"""``vfsstream check``: try a place for replicas before trusting it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from vfsstream.cli.exits import ExitStatus
from vfsstream.cli.grammar import GoCommand, argument, flag
from vfsstream.cli.output import print_json, print_table
from vfsstream.cli.sources import config_flags, replica_source

if TYPE_CHECKING:
    from vfsstream.stores.check import Finding

__all__ = ["check"]


@click.command(cls=GoCommand)
@config_flags
@flag("json", "print JSON")
@flag("quick", "move 1 MB instead of 8 to time the transfer")
@argument("source", "DB_PATH|REPLICA_URL", many=True)
def check(
    config: str | None,
    no_expand_env: bool,
    json: bool,
    quick: bool,
    source: tuple[str, ...],
) -> None:
    """Try what replication and reading need of a replica's store, and say what each answer means.

    Writes a few objects below vfsstream-check-… beside the replica's files, and removes them. The exit status is 1
    when a check fails.
    """
    from vfsstream.stores.check import check_store

    with replica_source("check", source, config, no_expand_env) as found:
        findings = check_store(found.replica.store, size=1 << 20 if quick else 8 << 20)
        place = found.replica.describe()
    failed = any(finding.verdict == "fail" for finding in findings)
    if json:
        print_json({"url": place, "ok": not failed, "checks": [_row(finding) for finding in findings]})
    else:
        rows = [(finding.name, finding.verdict, finding.detail, finding.meaning) for finding in findings]
        print_table(("check", "verdict", "found", "what it means"), rows)
    if failed:
        raise ExitStatus(1)


def _row(finding: Finding) -> dict[str, object]:
    return {**asdict(finding), "seconds": round(finding.seconds, 3)}
