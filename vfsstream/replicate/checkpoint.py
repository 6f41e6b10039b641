"""Checkpoints: when (pure) and how (under a seal that is held only while frames are copied)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from vfsstream.errors import DatabaseError
from vfsstream.replicate.capture import Capture
from vfsstream.replicate.events import CheckpointResult
from vfsstream.replicate.logrange import LogRange, Torn
from vfsstream.replicate.publish import Written
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.source import Source
from vfsstream.replicate.wal import frame_end

__all__ = ["Pacing", "Situation", "checkpoint", "is_due"]

_PENDING_LIMIT = 16 << 20  # bytes of the log that may be copied to memory while writers wait
_LITTLE = 1 << 20  # bytes of the log that are copied so fast that writers hardly notice
_ROUNDS = 20
_MAX_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Situation:
    """What the decision to checkpoint rests on.

    Attributes:
        lap_end: offset behind the last captured frame of the lap: a logical size, never that of the file.
        page_size: bytes.
        uncopied: there are frames that are not in the database yet.
        since_last: seconds since the last checkpoint, or since the start.
    """

    lap_end: int
    page_size: int
    uncopied: bool
    since_last: float


def is_due(now: Situation, settings: Settings) -> str | None:
    """``"emergency"`` (wait for readers and truncate), ``"size"``, ``"time"`` or ``None``."""
    if not now.uncopied:
        return None
    if now.lap_end >= frame_end(settings.truncate_pages, now.page_size):
        return "emergency"
    often_enough = now.since_last >= settings.monitor_interval.total_seconds()
    if often_enough and now.lap_end >= frame_end(settings.min_checkpoint_pages, now.page_size):
        return "size"
    interval = settings.checkpoint_interval
    if timedelta(0) < interval <= timedelta(seconds=now.since_last):
        return "time"
    return None


class Pacing:
    """Backs off while a long reader keeps checkpoints from having an effect."""

    def __init__(self) -> None:
        self._failures = 0
        self._not_before = 0.0
        self._lap: bytes | None = None

    def allows(self, now: float) -> bool:
        """Whether another attempt is reasonable at monotonic time ``now``."""
        return now >= self._not_before

    @property
    def failures(self) -> int:
        """Attempts in a row without effect."""
        return self._failures

    def record(self, now: float, salts: bytes, *, complete: bool) -> None:
        """Note an attempt. One that copied all, but whose lap then went on, was in vain as well."""
        effective = complete and salts != self._lap
        self._lap = salts if complete else self._lap
        self._failures = 0 if effective else self._failures + 1
        pause = min(_MAX_PAUSE, 2.0 ** (self._failures - 1)) if self._failures else 0.0
        self._not_before = now + pause


def checkpoint(
    source: Source, capture: Capture, settings: Settings, *, wait_for_readers: bool = False
) -> tuple[CheckpointResult, list[Written]]:
    """Copy the log into the database so that nothing is lost, and say how long writers had to wait.

    First everything is captured and as much as possible copied while writers go on. Then, under SQLite's write
    lock, the few frames that came since are kept in memory, the rest is copied, and the read transaction moves on.
    Encoding happens after the lock is gone.

    Args:
        wait_for_readers: try until the busy timeout is over, and truncate the log afterwards.
    """
    written: list[Written] = []
    for _ in range(_ROUNDS):
        for _ in range(_ROUNDS):
            if _is_little(source, capture) or (step := capture.step(settings.max_sync_wal_bytes)) is None:
                break
            written.append(step)
        source.advance_read()
        source.checkpoint("PASSIVE")
        try:
            result, pending = _sealed(source, capture, settings, wait_for_readers)
            capture.at_point("checkpoint:released")
            if pending is not None and (step := capture.write_pending(pending)) is not None:
                written.append(step)
        except Torn:
            continue
        if wait_for_readers and result.complete:
            result = _truncate(source, result)
        return result, written
    raise DatabaseError(f"{source.path} is written too fast to be checkpointed")


def _is_little(source: Source, capture: Capture) -> bool:
    """Whether what is not captured may as well wait for the seal, so that one checkpoint writes one file."""
    captured, index = capture.captured, source.index()
    if captured is None or not captured.watched or index.salts != captured.salts:
        return False
    return frame_end(index.max_frame, source.page_size) - captured.end <= _LITTLE


def _sealed(
    source: Source, capture: Capture, settings: Settings, wait: bool
) -> tuple[CheckpointResult, LogRange | None]:
    patience = settings.busy_timeout.total_seconds() if wait else 0.0
    with source.sealed():
        started = time.monotonic()
        before = source.index()
        if capture.captured is not None and before.salts == capture.captured.salts:
            size = frame_end(before.max_frame, source.page_size) - capture.captured.end
            if size > _PENDING_LIMIT:
                raise Torn
        pending = capture.pending()
        capture.at_point("checkpoint:sealed")
        while True:
            source.end_read()
            try:
                source.checkpoint("PASSIVE")
            finally:
                source.begin_read()
            after = source.index()
            complete = after.backfilled >= after.max_frame
            if complete or time.monotonic() - started >= patience:
                break
            time.sleep(0.005)
    stall = time.monotonic() - started
    return CheckpointResult(complete, after.max_frame, after.backfilled, False, stall), pending


def _truncate(source: Source, result: CheckpointResult) -> CheckpointResult:
    # Our read transaction uses the database file alone now. It lets the log be truncated, but no frame that slipped
    # in after the seal can be copied and so none can be cut off. Whoever waited for that would wait for ourselves, and
    # keep the writers waiting: the next writer begins a new lap anyway, and the file shrinks another time.
    started = time.monotonic()
    busy, _, _ = source.checkpoint("TRUNCATE", wait=False)
    stall = max(result.stall_seconds, time.monotonic() - started)
    return CheckpointResult(True, result.log_frames, result.done_frames, not busy, stall)
