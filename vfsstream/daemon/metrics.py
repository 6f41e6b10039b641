"""Prometheus metrics: Litestream's names and labels, so that its dashboards keep working, and ours beside them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from prometheus_client import (
    CollectorRegistry,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from vfsstream.daemon.manager import DatabaseState
from vfsstream.daemon.verdict import Verdict
from vfsstream.errors import CorruptError, NotFound
from vfsstream.replicate import events, timetable
from vfsstream.stores.trace import Trace

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
disable_created_metrics()  # type: ignore[no-untyped-call]
_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60)
_OPERATIONS = {"put": "PUT", "fetch": "GET", "stream": "GET", "list": "LIST", "head": "HEAD", "delete": "DELETE"}


class Metrics:
    """Counts what happens, and asks for the state of the databases when scraped.

    Args:
        states: gives the databases as they are now.
    """

    def __init__(self, states: Callable[[], Sequence[DatabaseState]]) -> None:
        self._states = states
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, tuple[str, ...]], float] = defaultdict(float)  # guarded by _lock
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._duration = Histogram(
            "litestream_replica_operation_duration_seconds",
            "Time of one operation of a replica",
            ("replica_type", "operation"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def trace(self, trace: Trace) -> None:
        """Count one attempt of a storage operation."""
        kind, operation = trace.kind, _OPERATIONS.get(trace.operation, trace.operation.upper())
        self._duration.labels(kind, operation).observe(trace.seconds)
        self._add("operations", (kind, operation))
        if operation not in ("LIST", "DELETE"):
            self._add("operation_bytes", (kind, operation), trace.bytes)
        if trace.error is not None and not isinstance(trace.error, NotFound):
            self._add("operation_errors", (kind, operation, trace.result))

    def event(self, event: events.Event) -> None:
        """Count one event of a database."""
        path = event.path
        if isinstance(event, events.Synced):
            self._add("sync", (path,))
            self._add("sync_seconds", (path,), event.seconds)
            self._add("wal_bytes", (path,), event.size)
        elif isinstance(event, events.SyncFailed):
            self._add("sync", (path,))
            self._add("sync_error", (path,))
        elif isinstance(event, events.Checkpointed):
            mode = "TRUNCATE" if event.result.truncated else "PASSIVE"
            self._add("checkpoint", (path, mode))
            self._add("checkpoint_seconds", (path, mode), event.result.stall_seconds)
        elif isinstance(event, events.CheckpointFailed):
            self._add("checkpoint_error", (path, "TRUNCATE" if event.waited else "PASSIVE"))
        elif isinstance(event, timetable.MaintenanceFailed):
            if isinstance(event.error, CorruptError):  # what compaction reads and writes is always checked
                self._add("verify_error", (path,))
        elif isinstance(event, timetable.ProblemsFound):
            self._add("verify_error", (path,))
        elif isinstance(event, events.FullImage):
            self._add("full_images", (path,))
        elif isinstance(event, events.Stalled):
            self._add("stalls", (path,))
        elif isinstance(event, events.Uploaded):
            self._add("uploaded_files", (path,))
            self._add("uploaded_bytes", (path,), event.info.size)

    def verified(self, path: str, verdict: Verdict) -> None:
        """Count a verification of a replica."""
        self._add("verifications", (path,))
        self._add("verified_bytes", (path,), verdict.bytes)
        if not verdict.ok:
            self._add("verify_errors", (path, "damage"))

    def not_verified(self, path: str) -> None:
        """Count one that could not be made."""
        self._add("verify_errors", (path, "unreachable"))

    def _add(self, name: str, labels: tuple[str, ...], amount: float = 1) -> None:
        with self._lock:
            self._counts[name, labels] += amount

    def totals(self) -> dict[str, float]:
        """Requests and bytes by operation, for the dashboard."""
        with self._lock:
            counts = dict(self._counts)
        result: dict[str, float] = defaultdict(float)
        for (name, labels), value in counts.items():
            if name in ("operations", "operation_bytes", "operation_errors"):
                result[f"{name}.{labels[1]}"] += value
        return dict(result)

    def text(self) -> bytes:
        """The answer to a scrape."""
        # Names that do not end in _total: the library knows no counters of that kind, Litestream's are.
        return generate_latest(self.registry).replace(b" untyped\n", b" counter\n")

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        with self._lock:
            counts = dict(self._counts)
        states = self._states()
        yield from _counted(_zeros(states) | counts)
        yield from _gauges(states)


def _zeros(states: Sequence[DatabaseState]) -> dict[tuple[str, tuple[str, ...]], float]:
    """Counters of known databases begin at 0, so that the first failure is an increase."""
    plain = ("sync", "sync_error", "sync_seconds", "wal_bytes", "verify_error")
    ours = ("full_images", "stalls", "uploaded_files", "uploaded_bytes", "verifications", "verified_bytes")
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    for state in states:
        found |= {(name, (state.path,)): 0.0 for name in (*plain, *ours)}
        found |= {("checkpoint_error", (state.path, mode)): 0.0 for mode in ("PASSIVE", "TRUNCATE")}
        found |= {("verify_errors", (state.path, reason)): 0.0 for reason in ("damage", "unreachable")}
    return found


def _counted(counts: dict[tuple[str, tuple[str, ...]], float]) -> Iterator[Metric]:
    db, mode, operation = ("db",), ("db", "mode"), ("replica_type", "operation")
    plain: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
        # Litestream's counters without the suffix _total; the text format knows them only as untyped.
        ("litestream_sync_count", "Number of syncs", "sync", db),
        ("litestream_sync_error_count", "Number of failed syncs", "sync_error", db),
        ("litestream_sync_seconds", "Time spent syncing", "sync_seconds", db),
        ("litestream_total_wal_bytes", "Bytes written to LTX files", "wal_bytes", db),
        ("litestream_checkpoint_count", "Number of checkpoints", "checkpoint", mode),
        ("litestream_checkpoint_error_count", "Number of failed checkpoints", "checkpoint_error", mode),
        ("litestream_checkpoint_seconds", "Time spent in checkpoints", "checkpoint_seconds", mode),
        ("litestream_compaction_verify_error_count", "Failed checks after compaction", "verify_error", db),
        ("litestream_replica_operation_bytes", "Bytes moved by replica operations", "operation_bytes", operation),
    )
    for name, text, counter, labels in plain:
        metric = Metric(name, text, "unknown")
        for (found, values), value in counts.items():
            if found == counter:
                metric.add_sample(name, dict(zip(labels, values, strict=True)), value)
        yield metric
    totals: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
        ("litestream_replica_operation", "Replica operations", "operations", operation),
        ("litestream_replica_operation_errors", "Failed ones", "operation_errors", (*operation, "code")),
        ("vfsstream_full_images", "Full images written because an increment was not provable", "full_images", db),
        ("vfsstream_stalls", "Times that replication fell behind", "stalls", db),
        ("vfsstream_uploaded_files", "LTX files uploaded", "uploaded_files", db),
        ("vfsstream_uploaded_bytes", "Bytes of LTX files uploaded", "uploaded_bytes", db),
        ("vfsstream_verifications", "Verifications of the replica", "verifications", db),
        ("vfsstream_verified_bytes", "Bytes that they read", "verified_bytes", db),
        (
            "vfsstream_verify_errors",
            "Those that found damage, or no way to read",
            "verify_errors",
            (*db, "reason"),
        ),
    )
    for name, text, counter, labels in totals:
        family = CounterMetricFamily(name, text, labels=labels)
        for (found, values), value in counts.items():
            if found == counter:
                family.add_metric(values, value)
        yield family


def _gauges(states: Sequence[DatabaseState]) -> Iterator[Metric]:
    now = datetime.now(UTC)

    def last_sync(state: DatabaseState) -> float | None:
        return (now - state.last_sync_at).total_seconds() if state.last_sync_at else None

    def verified(state: DatabaseState) -> float | None:
        return state.verified_at.timestamp() if state.verified_at else None

    def whole(state: DatabaseState) -> float | None:
        return float(state.verify_problem is None) if state.verified_at else None

    gauges: tuple[tuple[str, str, Callable[[DatabaseState], float | None]], ...] = (
        ("litestream_db_size", "Bytes of the database", lambda state: state.database_size),
        ("litestream_wal_size", "Bytes of the log", lambda state: state.wal_size),
        ("litestream_txid", "Newest local TXID", lambda state: state.txid),
        ("litestream_disk_full", "1 while local space is missing", lambda state: float(state.disk_full)),
        ("vfsstream_replica_txid", "Newest TXID of the replica", lambda state: state.replica_txid),
        ("vfsstream_lag_seconds", "Age of the oldest commit not in the replica", lambda state: state.lag_seconds),
        ("vfsstream_lag_txids", "TXIDs not in the replica", lambda state: state.lag_txids),
        ("vfsstream_stalled", "1 while replication is behind", lambda state: float(state.stalled)),
        ("vfsstream_seconds_since_upload", "Since the last successful upload", last_sync),
        (
            "vfsstream_last_verified_timestamp_seconds",
            "End of the last verification, seconds since 1970",
            verified,
        ),
        ("vfsstream_verified_ok", "1 when the last verification found the replica whole", whole),
    )
    # A gauge in spite of its name, as Litestream's; the whole path, because file names alone may collide.
    retention = Metric(
        "litestream_l0_retention_files_total", "Level-0 files by what retention makes of them", "gauge"
    )
    for state in states:
        for status, count in (state.l0_files or {}).items():
            retention.add_sample(retention.name, {"db": state.path, "status": status}, count)
    yield retention
    for name, text, value in gauges:
        family = GaugeMetricFamily(name, text, labels=("db",))
        for state in states:
            found = value(state)
            if found is not None:
                family.add_metric((state.path,), found)
        yield family
    yield GaugeMetricFamily("vfsstream_scrape_timestamp_seconds", "When this was made", value=time.time())
