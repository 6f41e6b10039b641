"""How one database is replicated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from vfsstream.errors import UsageError

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The knobs of one database; the defaults are Litestream's where it has them.

    Attributes:
        monitor_interval: upper bound between two thorough looks (files replaced, log deleted, checkpoints due).
        poll_interval: between two cheap looks at the wal-index.
        sync_interval: average time between two files under constant writing; a lone commit does not wait for it.
        sync_burst: so many files may be written at once before ``sync_interval`` spaces them out.
        checkpoint_interval: longest time that captured frames stay in the log; zero switches the timer off.
        busy_timeout: longest wait for one of SQLite's locks, so also the longest stall caused by one checkpoint.
        min_checkpoint_pages: frames in the log from which a checkpoint is tried.
        truncate_pages: frames from which blocking readers are waited for and the log is truncated.
        max_sync_wal_bytes: one file covers about so much of the log, ending at a commit; 0 means no limit.
        upload_concurrency: files in flight at once when there is a backlog. With more than one, a crash may leave a
            hole in the replica that Litestream cannot restore across until the next start fills it.
        lease: keep a second replicator away by a lock object, where the store can do that.
        lease_ttl: how long a lease outlives its last use.
        lease_owner: the name that others are shown; by default host name and process id.
        fork: when the replica holds another history than the local files: refuse, or go on above it in full.
        contact_interval: between two looks at all that the replica has, made only when there is something to upload.
        shutdown_sync_timeout: how long a close tries to upload the rest.
        shutdown_sync_interval: between two of these tries.
        max_backoff: longest pause after repeated errors.
        stall_after: data older than this that is not in the replica is reported as a stall.
        fingerprints: remember a checksum per page, so that an unprovable increment uploads only changed pages.
    """

    monitor_interval: timedelta = timedelta(seconds=1)
    poll_interval: timedelta = timedelta(milliseconds=10)
    sync_interval: timedelta = timedelta(seconds=1)
    sync_burst: int = 4
    checkpoint_interval: timedelta = timedelta(minutes=1)
    busy_timeout: timedelta = timedelta(seconds=1)
    min_checkpoint_pages: int = 1000
    truncate_pages: int = 121359
    max_sync_wal_bytes: int = 64 << 20
    upload_concurrency: int = 1
    lease: bool = True
    lease_ttl: timedelta = timedelta(seconds=60)
    lease_owner: str | None = None
    fork: Literal["refuse", "take-over"] = "refuse"
    contact_interval: timedelta = timedelta(hours=1)
    shutdown_sync_timeout: timedelta = timedelta(seconds=30)
    shutdown_sync_interval: timedelta = timedelta(milliseconds=500)
    max_backoff: timedelta = timedelta(minutes=5)
    stall_after: timedelta = timedelta(seconds=60)
    fingerprints: bool = True

    def __post_init__(self) -> None:
        for name in ("monitor_interval", "poll_interval", "sync_interval", "shutdown_sync_interval", "lease_ttl"):
            if getattr(self, name) <= timedelta(0):
                raise UsageError(f"{name} must be greater than zero, found {getattr(self, name)}")
        zero_allowed = (
            "checkpoint_interval",
            "busy_timeout",
            "shutdown_sync_timeout",
            "max_backoff",
            "stall_after",
        )
        for name in zero_allowed:
            if getattr(self, name) < timedelta(0):
                raise UsageError(f"{name} must not be negative, found {getattr(self, name)}")
        for name in ("sync_burst", "min_checkpoint_pages", "upload_concurrency"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("truncate_pages", "max_sync_wal_bytes"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, found {getattr(self, name)}")
        if self.truncate_pages == 0:
            object.__setattr__(self, "truncate_pages", type(self).__dataclass_fields__["truncate_pages"].default)
        if self.fork not in ("refuse", "take-over"):
            raise UsageError(f"fork must be 'refuse' or 'take-over', found {self.fork!r}")
