"""Try what replication and reading will ask of a store, and say what each answer means for both."""

from __future__ import annotations

import contextlib
import os
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from vfsstream.errors import AlreadyExists, NotFound, VfsstreamError
from vfsstream.stores.base import TIMESTAMP, ObjectInfo, Store

__all__ = ["Finding", "check_store"]

_OWN_TIME = "2026-01-02T03:04:05.678Z"
_READS = 12
_SKEW_NOTICED, _SKEW_FATAL = 5.0, 300.0
_TIME_IS_THE_OBJECTS_OWN = frozenset({"file", "sftp"})


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question.

    Attributes:
        name: what was tried.
        verdict: ``ok``, ``warn`` (works, with a loss that ``meaning`` states), ``fail`` or ``skip``.
        detail: what was seen.
        meaning: what it means for replicating there and for querying there.
        seconds: how long it took.
    """

    name: str
    verdict: str
    detail: str
    meaning: str
    seconds: float = 0.0


class _Failed(Exception):
    """A store that answers wrongly."""


def check_store(
    store: Store, *, size: int = 8 << 20, progress: Callable[[str], None] | None = None
) -> list[Finding]:
    """Run all checks below a directory of their own, and remove what they wrote.

    Args:
        size: bytes of the object whose transfer is timed.
        progress: called with the name of each check before it runs.
    """
    checks = _Checks(store, size)
    findings: list[Finding] = []
    try:
        for name, meaning, check in checks.all():
            if progress is not None:
                progress(name)
            findings.append(_run(name, meaning, check, usable=not findings or findings[0].verdict != "fail"))
    finally:
        checks.clean_up()
    return findings


def _run(name: str, meaning: tuple[str, str], check: Callable[[], tuple[str, str]], *, usable: bool) -> Finding:
    good, bad = meaning
    if not usable:
        return Finding(name, "skip", "nothing can be written here", bad)
    start = time.perf_counter()
    try:
        verdict, detail = check()
    except (_Failed, VfsstreamError) as error:
        verdict, detail = "fail", str(error)
    took = time.perf_counter() - start
    return Finding(name, verdict, detail, good if verdict == "ok" else bad, took)


class _Checks:
    def __init__(self, store: Store, size: int) -> None:
        self.store, self.size = store, size
        self.directory = f"vfsstream-check-{secrets.token_hex(4)}/"
        self.keys = [f"{self.directory}{n:016x}-{n:016x}.ltx" for n in range(1, 6)]
        self.small = os.urandom(100_000)
        self.written: dict[str, ObjectInfo] = {}

    def all(self) -> Iterator[tuple[str, tuple[str, str], Callable[[], tuple[str, str]]]]:
        """Name, what it means when it works and when it does not, and the check."""
        yield "put", ("replicate: can upload", "replicate: impossible here"), self.put
        yield (
            "ranged get",
            ("vfs: reads single pages", "vfs: impossible here; restore may work"),
            self.ranged_get,
        )
        yield (
            "missing object",
            ("vfs: asks for the next file without listing", "vfs: has to list to see new transactions"),
            self.missing,
        )
        yield (
            "list with start",
            ("both: new files are found without listing old ones", "both: each look lists a whole level"),
            self.list_with_start,
        )
        yield (
            "own timestamp",
            (
                "restore -timestamp: needs no reads to choose files",
                "restore -timestamp: reads the head of each file",
            ),
            self.own_timestamp,
        )
        yield (
            "conditional put",
            (
                "replicate: a second writer is refused",
                "replicate: a second writer is not noticed at once; run one only",
            ),
            self.conditional_put,
        )
        yield (
            "clock skew",
            ("both: times agree", "replicate: retention and leases count wrongly; set the clocks"),
            self.clock_skew,
        )
        yield (
            "latency",
            ("vfs: time of a cold page", "vfs: each cold page waits this long; use a cache"),
            self.latency,
        )
        yield (
            "throughput",
            ("both: time of snapshots and restores", "both: snapshots and restores are slow"),
            self.throughput,
        )
        yield (
            "delete",
            ("replicate: retention frees space", "replicate: retention cannot delete; space grows"),
            self.delete,
        )

    def _put(self, key: str, data: bytes, **more: bool) -> None:
        self.written[key] = self.store.put(key, data, metadata={TIMESTAMP: _OWN_TIME}, **more)

    def put(self) -> tuple[str, str]:
        self.put_at = datetime.now(UTC)
        for key in self.keys[:3]:
            self._put(key, self.small)
        self._put(self.keys[0], self.small)  # again: files of the same name are replaced
        return "ok", f"{len(self.small)} bytes, also over an object of the same name"

    def ranged_get(self) -> tuple[str, str]:
        key, data = self.keys[0], self.small
        for offset, size, wanted in ((0, 100, data[:100]), (50_000, 4096, data[50_000:54_096])):
            if self.store.get(key, offset, size) != wanted:
                raise _Failed(f"bytes {offset} to {offset + size} came back wrong")
        if self.store.get(key, -1000) != data[-1000:]:
            raise _Failed("the last 1000 bytes came back wrong")
        return "ok", "from the start, from the middle, from the end"

    def missing(self) -> tuple[str, str]:
        try:
            self.store.fetch(self.keys[4], 0, 100)
        except NotFound:
            if not self.store.capabilities.cheap_miss:
                return "warn", "recognised, at the cost of more than one request"
            return "ok", "recognised as missing"
        raise _Failed("an object that does not exist was read")

    def list_with_start(self) -> tuple[str, str]:
        everything = [info.key for info in self.store.list(self.directory)]
        if everything != self.keys[:3]:
            raise _Failed(f"listed {len(everything)} of 3 objects, or in a wrong order")
        after = [info.key for info in self.store.list(self.directory, self.keys[1])]
        if after != self.keys[2:3]:
            raise _Failed("a listing that starts after a key is wrong")
        if not self.store.capabilities.can_start_after:
            return "warn", "in order; the start is sought on this side"
        return "ok", "in order, from a start on"

    def own_timestamp(self) -> tuple[str, str]:
        wanted = datetime.fromisoformat(_OWN_TIME)
        (info, *_) = self.store.list(self.directory)
        listed = info.metadata.get(TIMESTAMP)
        if listed and datetime.fromisoformat(listed) == wanted:
            return "ok", "kept to the millisecond, and listed"
        kept = self.store.head(self.keys[0]).metadata.get(TIMESTAMP)
        if kept and datetime.fromisoformat(kept) == wanted:
            return "warn", "kept to the millisecond, but not listed"
        return "warn", "not kept; the files themselves have it"

    def conditional_put(self) -> tuple[str, str]:
        if not self.store.capabilities.can_put_if_absent:
            return "warn", "this kind of store has none"
        self._put(self.keys[3], b"first", if_absent=True)
        with contextlib.suppress(AlreadyExists):
            self.store.put(self.keys[3], b"second", if_absent=True)
            return "warn", "the condition was ignored"
        if self.store.get(self.keys[3]) != b"first":
            raise _Failed("the object was replaced in spite of the condition")
        return "ok", "a taken name is refused"

    def clock_skew(self) -> tuple[str, str]:
        if self.store.kind in _TIME_IS_THE_OBJECTS_OWN:
            return "skip", "the store's time is the object's own"
        (info, *_) = self.store.list(self.directory)
        if info.modified is None:
            return "skip", "the store tells no time"
        skew = (info.modified - self.put_at).total_seconds()
        if abs(skew) >= _SKEW_FATAL:
            raise _Failed(f"the store's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}")
        return ("warn" if abs(skew) >= _SKEW_NOTICED else "ok"), f"{abs(skew):.0f} s"

    def latency(self) -> tuple[str, str]:
        times = []
        for number in range(_READS):
            start = time.perf_counter()
            self.store.fetch(self.keys[0], number * 4096, 4096)
            times.append((time.perf_counter() - start) * 1000)
        median, worst = statistics.median(times), max(times)
        verdict = "ok" if median < 250 else "warn"
        return verdict, f"4 KiB in {median:.1f} ms (median of {_READS}), at worst {worst:.1f} ms"

    def throughput(self) -> tuple[str, str]:
        data, key = os.urandom(self.size), self.keys[3]
        start = time.perf_counter()
        self._put(key, data)
        up = self.size / (time.perf_counter() - start) / 1e6
        start = time.perf_counter()
        back = b"".join(self.store.stream(key))
        down = self.size / (time.perf_counter() - start) / 1e6
        if back != data:
            raise _Failed(f"an object of {self.size} bytes came back wrong")
        return ("ok" if min(up, down) >= 1 else "warn"), f"{up:.1f} MB/s up, {down:.1f} MB/s down"

    def delete(self) -> tuple[str, str]:
        self.store.delete([*self.written, self.keys[4]])
        left = [info.key for info in self.store.list(self.directory)]
        if left:
            raise _Failed(f"{len(left)} of {len(self.written)} objects are still there")
        self.written.clear()
        return "ok", "present and missing ones in one call"

    def clean_up(self) -> None:
        with contextlib.suppress(VfsstreamError):
            if self.written:
                self.store.delete(list(self.written))
        with contextlib.suppress(VfsstreamError):
            self.store.remove_directory(self.directory)
