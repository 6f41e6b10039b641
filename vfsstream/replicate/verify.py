"""Read a replica as a restore would, write nothing, and say what is wrong with it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vfsstream.errors import Interrupted, LtxError, NotFound, UsageError, VfsstreamError
from vfsstream.ltx.decoder import Decoder
from vfsstream.ltx.names import LEVELS, TXID
from vfsstream.plan.contiguity import find_problems
from vfsstream.plan.files import FileInfo
from vfsstream.plan.points import every_file, restorable
from vfsstream.plan.restore import restore_plan
from vfsstream.replica.replica import Replica
from vfsstream.replicate.progress import FilesProgress

__all__ = ["VerifyReport", "verify"]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        files: files in the replica.
        checked: files read to their end.
        bytes: bytes read.
        txid: newest restorable TXID, 0 when there is none.
        problems: one line each, worst first; empty when all is well.
        image: the answer of the integrity check of the whole image, or ``None`` when not asked for.
        seconds: duration.
    """

    files: int
    checked: int
    bytes: int
    txid: TXID
    problems: tuple[str, ...]
    image: str | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


def verify(
    replica: Replica,
    *,
    sample: float = 1.0,
    image: Callable[[TXID], str] | None = None,
    parallelism: int = 4,
    progress: Callable[[FilesProgress], None] | None = None,
    stop: threading.Event | None = None,
    seed: int | None = None,
) -> VerifyReport:
    """Check every file, the chain of each level, and the image that a restore would give.

    Args:
        replica: what to read.
        sample: share of the files to read, above 0 to 1; those of the newest restore are always read.
        image: runs SQLite's integrity check on the image of a TXID and returns ``"ok"`` or the finding.
        parallelism: files read at once.
        progress: called after each file.
        stop: set to give up.
        seed: of the choice of the sample.

    Raises:
        UsageError: an impossible sample.
        StoreError: the store cannot be read.
        Interrupted: ``stop`` was set.
    """
    if not 0 < sample <= 1:
        raise UsageError(f"sample {sample} is not above 0 and at most 1")
    started = time.monotonic()
    files = replica.all_files(LEVELS)
    everything = every_file(files)
    plan, problems = _plan(files)
    chosen = set(plan) | {f for f in everything if sample == 1 or random.Random(f"{seed}{f}").random() < sample}
    reader = _Reader(replica, sorted(chosen), progress, stop or threading.Event())
    problems += reader.run(parallelism)
    problems += map(str, find_problems(files, only_gaps=True))
    points = restorable(everything)
    txid = points[-1].max_txid if points else TXID(0)
    finding = image(txid) if image is not None and txid else None
    if finding not in (None, "ok"):
        problems.insert(0, f"integrity check at TXID {txid}: {finding}")
    seconds = time.monotonic() - started
    return VerifyReport(len(everything), reader.checked, reader.bytes, txid, tuple(problems), finding, seconds)


def _plan(files: dict[int, list[FileInfo]]) -> tuple[list[FileInfo], list[str]]:
    try:
        return restore_plan(files), []
    except VfsstreamError as error:
        return [], [str(error)]


class _Reader:
    """Reads files to their ends in a pool; keeps the counts."""

    def __init__(
        self,
        replica: Replica,
        files: list[FileInfo],
        progress: Callable[[FilesProgress], None] | None,
        stop: threading.Event,
    ) -> None:
        self.replica, self.files, self.progress, self.stop = replica, files, progress, stop
        self.checked = self.bytes = 0
        self._total = sum(info.size for info in files)

    def run(self, parallelism: int) -> list[str]:
        problems = []
        with ThreadPoolExecutor(max(1, parallelism), thread_name_prefix="vfsstream-verify") as pool:
            for info, problem in zip(self.files, pool.map(self._check, self.files), strict=True):
                if problem is not None:
                    problems.append(problem)
                self.checked += 1
                self.bytes += info.size
                if self.progress is not None:
                    self.progress(FilesProgress(self.checked, len(self.files), self.bytes, self._total))
        return problems

    def _check(self, info: FileInfo) -> str | None:
        try:
            self._decode(info)
        except NotFound:  # retention may remove a file while we read the others
            still = any(info.name == other.name for other in self.replica.files(info.level, int(info.min_txid)))
            return f"{self.replica.key(info)}: listed, but cannot be opened" if still else None
        except LtxError as error:
            return str(error)
        return None

    def _decode(self, info: FileInfo) -> None:
        name = self.replica.key(info)
        decoder = Decoder(self._chunks(info), name)
        for _ in decoder.runs():
            pass
        decoder.header.check_span(info.min_txid, info.max_txid, name)

    def _chunks(self, info: FileInfo) -> Iterable[bytes]:
        for chunk in self.replica.stream(info):
            if self.stop.is_set():
                raise Interrupted("verification interrupted")
            yield chunk
