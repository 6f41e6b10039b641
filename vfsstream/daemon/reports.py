"""Events of the replicator as log lines, numbers and the recent errors of the page."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from vfsstream.config.secrets import redact
from vfsstream.daemon.logs import Log
from vfsstream.daemon.manager import DatabaseState
from vfsstream.daemon.metrics import Metrics
from vfsstream.daemon.verdict import Verdict
from vfsstream.errors import StoreError
from vfsstream.replicate import events, timetable
from vfsstream.stores.trace import Trace

__all__ = ["Reports"]


class Reports:
    """Listens to everything."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.states: Callable[[], Sequence[DatabaseState]] = tuple
        self.metrics = Metrics(lambda: self.states())
        self._errors: deque[dict[str, str]] = deque(maxlen=50)
        self._files: deque[dict[str, Any]] = deque(maxlen=500)
        self._ticks: list[Callable[[], None]] = []

    def every_second(self, work: Callable[[], None]) -> None:
        """Call ``work`` with every tick."""
        self._ticks.append(work)

    def tick(self) -> None:
        """About once a second."""
        for work in self._ticks:
            work()

    def metrics_trace(self, trace: Trace) -> None:
        """One storage operation."""
        self.metrics.trace(trace)
        if isinstance(trace.error, StoreError):
            # Tried again for up to a minute before anything else is said: silence would look like a hang.
            self.log.warn("storage request failed", operation=trace.operation, key=trace.key, error=trace.error)
        if self.log.level <= 10:
            self.log.debug(
                "storage", operation=trace.operation, key=trace.key, bytes=trace.bytes, result=trace.result
            )

    def observe(self, event: events.Event) -> None:
        """One event."""
        self.metrics.event(event)
        log, path = self.log, event.path
        if isinstance(event, events.Synced):
            log.debug("sync", db=path, txid=event.txid, pages=event.pages, size=event.size, full=event.full)
        elif isinstance(event, events.Uploaded):
            log.debug("upload", db=path, txid=event.info.max_txid, size=event.info.size)
            self._file(event, event.info.level, event.info)
        elif isinstance(event, events.FullImage):
            log.info("writing a full image", db=path, txid=event.txid, reason=event.reason)
        elif isinstance(event, events.Checkpointed):
            log.debug("checkpoint", db=path, frames=event.result.done_frames, truncated=event.result.truncated)
        elif isinstance(event, events.CheckpointFailed):
            self._error(event, "checkpoint failed", event.error)
        elif isinstance(event, (events.SyncFailed, events.UploadFailed)):
            self._error(
                event, "sync failed" if isinstance(event, events.SyncFailed) else "upload failed", event.error
            )
        elif isinstance(event, events.Forked):
            self._error(event, "the replica continues another history", event.error)
        elif isinstance(event, events.Recovered):
            log.info("recovered", db=path, what=event.what, failures=event.failures)
        elif isinstance(event, events.Rebased):
            log.warn("continuing above the replica", db=path, old=event.old, new=event.new, reason=event.reason)
        elif isinstance(event, events.Stalled):
            log.error("replication is behind", db=path, seconds=round(event.seconds), what=event.what)
        elif isinstance(event, events.StallEnded):
            log.info("replication has caught up", db=path)
        else:
            self._maintenance(event)

    def _maintenance(self, event: events.Event) -> None:
        log, path = self.log, event.path
        if isinstance(event, timetable.Compacted):
            log.info(
                "compaction complete", db=path, level=event.info.level, files=event.inputs, size=event.info.size
            )
            self._file(event, event.info.level, event.info)
        elif isinstance(event, timetable.SnapshotTaken):
            log.info("snapshot complete", db=path, txid=event.info.max_txid, size=event.info.size, way=event.way)
            self._file(event, event.info.level, event.info)
        elif isinstance(event, timetable.Retired):
            log.debug("retention", db=path, deleted=len(event.result.deleted), retained=len(event.result.retained))
        elif isinstance(event, timetable.ProblemsFound):
            for problem in event.problems:
                log.warn("validation", db=path, problem=problem)
        elif isinstance(event, timetable.FilesLost):
            names = ", ".join(f"{info.level}/{info.name}" for info in event.infos[:5])
            message = f"{len(event.infos)} files were deleted by somebody else: {names}"
            log.error("the replica lost files", db=path, error=message)
            self._note(event.at, path, "the replica lost files", message)
        elif isinstance(event, timetable.MaintenanceFailed):
            self._error(event, f"{event.task} failed", event.error)

    def verified(self, path: str, verdict: Verdict) -> None:
        """A replica was verified."""
        self.metrics.verified(path, verdict)
        for problem in verdict.problems:
            self._note(verdict.at, path, "verification failed", problem)

    def not_verified(self, path: str, error: Exception) -> None:
        """A replica could not be read."""
        self.metrics.not_verified(path)
        self._note(datetime.now(UTC), path, "verification not possible", str(error))

    def _error(self, event: events.Event, what: str, error: Exception) -> None:
        self.log.error(what, db=event.path, error=error)
        self._note(event.at, event.path, what, str(error))

    def _note(self, at: datetime, path: str, what: str, error: str) -> None:
        self._errors.append({"time": at.isoformat(), "db": path, "what": what, "error": redact(error)})

    def _file(self, event: events.Event, level: int, info: Any) -> None:
        made = {
            "time": event.at.isoformat(),
            "db": event.path,
            "level": level,
            "name": info.name,
            "size": info.size,
        }
        self._files.append(made)

    def details(self) -> dict[str, Any]:
        """For the page: recent errors and files, newest last."""
        return {"errors": list(self._errors), "files": list(self._files)}
