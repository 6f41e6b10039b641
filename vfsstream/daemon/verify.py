"""Verification by the clock: reads the replicas again, gently, and remembers what it found.

One thread for all databases, one file at a time, resting so that no more than a given share of one processor is
used. What was found is kept beside the database's local state, so that a restart neither forgets nor repeats it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from vfsstream.daemon.logs import Log
from vfsstream.daemon.verdict import Verdict, load, save
from vfsstream.errors import Interrupted, VfsstreamError
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.replica.replica import Replica
from vfsstream.replicate.schedule import spread
from vfsstream.replicate.verify import VerifyReport, verify

__all__ = ["Paced", "Subject", "Verifier", "VerifySettings", "due_at", "image_check"]

_LOOK = 5.0
_RETRY = timedelta(minutes=1)
_DAMAGED_RETRY = timedelta(hours=1)
_SHOWN = 20
_FIRST = timedelta(seconds=30)
_FRUGAL = {"max_requests": 4}
"""Buffers of few requests: the check of a large image stays under 100 MB, and is no slower, being computation."""


@dataclass(frozen=True, slots=True)
class VerifySettings:
    """When and how much.

    Attributes:
        interval: between two verifications of a database; zero switches them off.
        sample: share of the files to read, above 0 to 1; another choice every time.
        cpu: share of one processor to use at most, above 0 to 1.
        integrity_check: of the newest image: ``none``, ``quick`` or ``full``.
    """

    interval: timedelta
    sample: float = 1.0
    cpu: float = 0.25
    integrity_check: str = "none"


@dataclass(frozen=True, slots=True)
class Subject:
    """A database to verify: its directory of local state, and how its replica is opened."""

    meta: Path
    open: Callable[[], Replica]


def due_at(path: str, last: Verdict | None, settings: VerifySettings, started: datetime) -> datetime:
    """When a database is verified next: soon after the start when it never was, damaged ones after an hour."""
    if last is None:
        shift = spread(path, 10 * _FIRST, _FIRST)
        return started + min(settings.interval, timedelta(seconds=shift))
    return last.at + (settings.interval if last.ok else min(settings.interval, _DAMAGED_RETRY))


class Paced(Replica):
    """A replica whose reader rests between two chunks, so that it uses a share of one processor at most."""

    def __init__(self, inner: Replica, share: float, stop: threading.Event) -> None:
        super().__init__(inner.store, inner.layout)
        self._share, self._stop = share, stop
        self.rested = 0.0

    def stream(self, info: FileInfo, offset: int = 0) -> Iterator[bytes]:
        """Like the replica's own; what the reader computed between two chunks is followed by a rest."""
        before = time.thread_time()
        for chunk in super().stream(info, offset):
            yield chunk
            rest = (time.thread_time() - before) * (1 / self._share - 1)
            if rest > 0:
                self.rested += rest
                self._stop.wait(rest)
            before = time.thread_time()


def image_check(opener: Callable[[], Replica], mode: str) -> Callable[[TXID], str]:
    """A function that runs SQLite's own check on the image of a TXID, read through the VFS."""

    def check(txid: TXID) -> str:
        import vfsstream
        from vfsstream.vfs.lending import lent

        connect: Any = getattr(vfsstream, "connect")  # noqa: B009 - made when first asked for
        with lent(opener) as name, contextlib.closing(connect(name, **_FRUGAL, txid=str(txid))) as connection:
            pragma = "quick_check" if mode == "quick" else "integrity_check"
            (finding,) = connection.execute(f"PRAGMA {pragma}(1)").fetchall()[0]
            return str(finding)

    return check


class Verifier:
    """Verifies what is due until it is closed.

    Args:
        subjects: the databases as they are now, by path.
        ended: called with path and verdict after each verification.
        failed: called with path and error when a replica could not be read.
    """

    def __init__(
        self,
        settings: VerifySettings,
        subjects: Callable[[], Mapping[str, Subject]],
        log: Log,
        ended: Callable[[str, Verdict], None] = lambda path, verdict: None,
        failed: Callable[[str, Exception], None] = lambda path, error: None,
        look: float = _LOOK,
    ) -> None:
        self.settings, self._subjects, self._log = settings, subjects, log
        self._ended, self._failed, self._look = ended, failed, look
        self._started = datetime.now(UTC)
        self._stop = threading.Event()
        self._verdicts: dict[str, Verdict | None] = {}  # replaced entry by entry; read from any thread
        self._not_before: dict[str, datetime] = {}
        self._thread = threading.Thread(target=self._loop, name="vfsstream-verifier", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; a running verification is given up."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10.0)

    def change(self, settings: VerifySettings) -> None:
        """Go on by another timetable."""
        self.settings = settings

    def verdict(self, path: str) -> Verdict | None:
        """What is known of a database."""
        return self._verdicts.get(path)

    def _loop(self) -> None:
        while not self._stop.wait(self._look):
            if not self.settings.interval:
                continue  # looking at a thousand databases for nothing would cost more than idling does
            subjects = self._subjects()
            for gone in self._verdicts.keys() - subjects.keys():
                self._verdicts.pop(gone)
            for path, subject in subjects.items():
                if self._stop.is_set():
                    return
                if path not in self._verdicts:
                    self._verdicts[path] = load(subject.meta)
                if self._is_due(path, datetime.now(UTC)):
                    self._verify(path, subject)

    def _is_due(self, path: str, now: datetime) -> bool:
        last, not_before = self._verdicts.get(path), self._not_before.get(path)
        if not_before is not None and now < not_before <= now + _DAMAGED_RETRY:
            return False
        at = due_at(path, last, self.settings, self._started)
        # A record from the future proves that a clock was wrong, not that all is well.
        return now >= at or (last is not None and last.at > now + timedelta(minutes=5))

    def _verify(self, path: str, subject: Subject) -> None:
        try:
            verdict = _verdict(self._run(subject))
        except Interrupted:
            return
        except (VfsstreamError, OSError) as error:
            self._not_before[path] = datetime.now(UTC) + min(self.settings.interval, _RETRY)
            self._log.error("verification not possible", db=path, error=error)
            self._failed(path, error)
            return
        self._verdicts[path] = verdict
        save(subject.meta, verdict)
        if verdict.ok:
            what = {"files": verdict.checked, "bytes": verdict.bytes, "seconds": round(verdict.seconds, 1)}
            self._log.info("verified", db=path, txid=TXID(verdict.txid), **what)
        for problem in verdict.problems:
            self._log.error("verification failed", db=path, problem=problem)
        self._ended(path, verdict)

    def _run(self, subject: Subject) -> VerifyReport:
        settings = self.settings
        image = None
        if settings.integrity_check != "none":
            image = image_check(subject.open, settings.integrity_check)
        with subject.open() as replica:
            paced = Paced(replica, settings.cpu, self._stop)
            seed = time.time_ns()
            report = None
            for _ in range(2):  # listings made while files are compacted may not fit together: look again
                report = verify(
                    paced, sample=settings.sample, image=image, parallelism=1, stop=self._stop, seed=seed
                )
                if report.ok:
                    break
            assert report is not None
            return report


def _verdict(report: VerifyReport) -> Verdict:
    problems = report.problems
    if len(problems) > _SHOWN:
        problems = (*problems[:_SHOWN], f"and {len(problems) - _SHOWN} more")
    seconds = round(report.seconds, 3)
    return Verdict(
        datetime.now(UTC), int(report.txid), report.files, report.checked, report.bytes, seconds, problems
    )
