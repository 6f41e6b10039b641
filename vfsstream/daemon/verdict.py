"""What a verification of a replica found, and where that is kept: beside the database's local state."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from vfsstream.stores.smallfile import replace_file

__all__ = ["Verdict", "load", "save"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one verification.

    Attributes:
        at: when it ended, aware UTC.
        txid: newest TXID that can be restored.
        files: how many the replica has.
        checked: how many of them were read.
        bytes: so many were read.
        seconds: so long it took.
        problems: what is wrong; empty when all is well.
    """

    at: datetime
    txid: int
    files: int
    checked: int
    bytes: int
    seconds: float
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


def _path(meta: Path) -> Path:
    return meta / "vfsstream" / "verified.json"


def save(meta: Path, verdict: Verdict) -> None:
    """Keep a verdict in a database's meta directory; without room or permission it is not kept."""
    text = json.dumps({**asdict(verdict), "at": verdict.at.isoformat()})
    with contextlib.suppress(OSError):
        replace_file(_path(meta), text.encode())


def load(meta: Path) -> Verdict | None:
    """The verdict kept last, or ``None``."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        record = json.loads(_path(meta).read_bytes())
        problems = tuple(str(problem) for problem in record["problems"])
        verdict = Verdict(**{**record, "at": datetime.fromisoformat(record["at"]), "problems": problems})
        return verdict if verdict.at.tzinfo is not None else None
    return None
