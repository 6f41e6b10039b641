"""The writer lease: an object that keeps a second replicator away from a replica.

The object has Litestream's format. It is renewed only by somebody who is about to write, so an idle replicator makes
no request; whoever finds it expired may take it over, and the former holder learns that before its next upload.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vfsstream.errors import AlreadyExists, LeaseHeld, NotFound
from vfsstream.stores.base import Store
from vfsstream.stores.smallfile import replace_file

__all__ = ["Lease", "LeaseRecord"]

_KEY = "lock.json"


class LeaseRecord:
    """What the object says: who holds the lease, until when, and how many holders there were."""

    def __init__(self, generation: int, expires_at: datetime, owner: str) -> None:
        self.generation, self.expires_at, self.owner = generation, expires_at, owner

    @classmethod
    def parse(cls, data: bytes) -> LeaseRecord:
        """Read the object; something unreadable is an expired lease of nobody."""
        try:
            record = json.loads(data)
            expires = datetime.fromisoformat(record["expires_at"])
            expires = expires if expires.tzinfo else expires.replace(tzinfo=UTC)
            return cls(int(record["generation"]), expires, str(record.get("owner", "")))
        except (ValueError, TypeError, KeyError):
            return cls(0, datetime.fromtimestamp(0, UTC), "")

    def pack(self) -> bytes:
        """The object's content."""
        text = self.expires_at.isoformat(timespec="microseconds")
        return json.dumps({"generation": self.generation, "expires_at": text, "owner": self.owner}).encode()

    def same_holder(self, other: LeaseRecord | None) -> bool:
        """Whether both speak of one and the same acquisition."""
        return other is not None and (self.generation, self.owner) == (other.generation, other.owner)


class Lease:
    """The lease on one replica. Not thread-safe.

    Args:
        store: the replica's store.
        memory: a local file that remembers our own acquisitions over a crash, one a line.
        owner: the name shown to others.
        ttl: how long it outlives its last use.
    """

    def __init__(
        self,
        store: Store,
        memory: Path,
        owner: str | None,
        ttl: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._memory, self._ttl, self._now = store, memory, ttl, now
        self._owner = owner or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._held: LeaseRecord | None = None
        self._known: tuple[LeaseRecord, ...] = ()
        if memory.exists():
            self._known = tuple(LeaseRecord.parse(line) for line in memory.read_bytes().splitlines())

    def ensure(self) -> None:
        """Hold the lease for at least half its time.

        Raises:
            LeaseHeld: somebody else has it.
        """
        now = self._now()
        if self._held is not None and self._held.expires_at - now > self._ttl / 2:
            return
        try:
            current: LeaseRecord | None = LeaseRecord.parse(self._store.get(_KEY))
        except NotFound:
            current = None
        if (
            current is not None
            and not self._ours(current)
            and (self._held is not None or current.expires_at > now)
        ):
            self._held = None
            raise LeaseHeld(
                f"{self._store.describe()} is being written by {current.owner or 'an unnamed replicator'} "
                f"(lease until {current.expires_at.isoformat(timespec='seconds')})",
                hint="stop the other replicator, or give this one a replica of its own",
            )
        self._take(current, now)

    def _ours(self, current: LeaseRecord) -> bool:
        return any(current.same_holder(record) for record in (self._held, *self._known))

    def _remember(self, *records: LeaseRecord) -> None:
        """Acquisitions of ours that the object may name when we are killed now."""
        self._known = records
        replace_file(self._memory, b"\n".join(record.pack() for record in records))

    def _take(self, current: LeaseRecord | None, now: datetime) -> None:
        if current is not None and current.same_holder(self._held):
            fresh = LeaseRecord(current.generation, now + self._ttl, self._owner)
            self._store.put(_KEY, fresh.pack())
        else:
            fresh = LeaseRecord((current.generation if current else 0) + 1, now + self._ttl, self._owner)
            if current is not None and self._ours(current):
                self._remember(current, fresh)
            else:
                self._remember(fresh)
            if current is not None:
                self._store.delete([_KEY])
            with contextlib.suppress(AlreadyExists):  # somebody was faster; who, is read below
                self._store.put(_KEY, fresh.pack(), if_absent=True)
        seen = LeaseRecord.parse(self._store.get(_KEY))
        if not seen.same_holder(fresh):
            self._held = None
            raise LeaseHeld(
                f"{self._store.describe()} is being written by {seen.owner or 'an unnamed replicator'}"
            )
        self._held = fresh
        self._remember(fresh)

    def release(self) -> None:
        """Give the lease back if we still have it."""
        if self._held is None:
            return
        try:
            if LeaseRecord.parse(self._store.get(_KEY)).same_holder(self._held):
                self._store.delete([_KEY])
        except NotFound:
            pass
        self._held = None
