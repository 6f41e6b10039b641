"""The daemon's databases: the configuration's and those registered later, run by one service."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath
from typing import Any

from vfsstream.config.checks import database_path
from vfsstream.config.replicas import (
    append_path,
    databases_in,
    find_database,
    meta_path,
    open_replica,
    options_of,
    scheme_of,
    shown,
)
from vfsstream.config.schema import Config, Database, ReplicaConfig
from vfsstream.daemon.diagnosis import diagnose
from vfsstream.daemon.logs import Log
from vfsstream.daemon.manager import DatabaseState, NotManaged, NotRunning, SyncAnswer
from vfsstream.daemon.settings import database_settings, maintenance_settings
from vfsstream.daemon.verdict import Verdict
from vfsstream.daemon.verify import Subject
from vfsstream.errors import DatabaseError, VfsstreamError
from vfsstream.replica.replica import Replica
from vfsstream.replicate.directory import DirectorySettings, DirectoryWatcher
from vfsstream.replicate.events import Event
from vfsstream.replicate.service import Service
from vfsstream.replicate.servicestatus import ServiceResult, ServiceSettings, ServiceStatus
from vfsstream.stores.trace import Trace

__all__ = ["Fleet", "Target", "check_replicas", "targets"]


class Target:
    """One database to replicate, with all that the configuration says of it.

    Args:
        runtime: registered over the control socket: the file does not name it.
    """

    def __init__(
        self, config: Config, database: Database, replica: ReplicaConfig, path: str, *, runtime: bool = False
    ) -> None:
        self.runtime = runtime
        self.config, self.database, self.replica, self.path = config, database, replica, path
        self.meta = Path(meta_path(database, path))

    def same(self, other: Target) -> bool:
        """Whether both mean the same replication."""
        return self.identity() == other.identity()

    def identity(self) -> tuple[object, ...]:
        """Everything that the configuration says of it; hashable."""
        return (self.meta, *_meaning(self.config, self.database, self.replica))

    def under(self, config: Config) -> Target:
        """The same registration made under another configuration."""
        bare = replace(config, dbs=[])
        return Target(bare, self.database, self.replica, self.path, runtime=self.runtime)

    def open(self, trace: Callable[[Trace], None] | None = None) -> Replica:
        """Its replica; no request is made."""
        return _open(self.config, self.replica, trace)


def _meaning(config: Config, database: Database, replica: ReplicaConfig) -> tuple[object, ...]:
    place = (replica.url, repr(sorted(options_of(config, replica).items())))  # credentials may have changed alone
    return (*place, database_settings(config, database, replica), maintenance_settings(config))


def _open(config: Config, replica: ReplicaConfig, trace: Callable[[Trace], None] | None) -> Replica:
    found: Replica = open_replica(config, replica, trace=trace)
    return found


def targets(config: Config) -> Iterator[Target]:
    """Every database of the configuration; directories as they are now, watched ones left out.

    Raises:
        UsageError, DatabaseError: a directory that is missing or holds no database.
    """
    for entry in config.dbs:
        assert entry.replica is not None
        if entry.path:
            yield Target(config, entry, entry.replica, database_path(entry.path))
            continue
        if entry.watch:
            continue
        found = databases_in(entry)
        if not found:
            raise DatabaseError(f"no database matches {entry.pattern} in {entry.dir}", hint="or set watch: true")
        for path in found:
            yield _in_directory(config, entry, path)


def check_replicas(wanted: Iterable[Target]) -> None:
    """Find out what is impossible before any database is touched; no request is made.

    Raises:
        UsageError: a replica that cannot be opened as configured.
    """
    for target in wanted:
        target.open().close()


def _in_directory(config: Config, entry: Database, path: str) -> Target:
    assert entry.replica is not None
    relative = os.path.relpath(path, database_path(entry.dir or "")).replace(os.sep, "/")
    return Target(config, entry, append_path(entry.replica, relative), path)


def _identity(config: Config, entry: Database) -> tuple[object, ...]:
    """What makes two watched directories the same."""
    assert entry.replica is not None
    where = (entry.dir, entry.pattern, entry.recursive, entry.meta_dir, entry.meta_path)
    return (*where, *_meaning(config, entry, entry.replica))


class Fleet:
    """Implements :class:`~vfsstream.daemon.manager.Manager` on a :class:`Service`.

    Args:
        observer: is told every event.
        trace: is told every storage operation.
    """

    def __init__(
        self,
        config: Config,
        log: Log,
        observer: Callable[[Event], None] | None = None,
        trace: Callable[[Trace], None] | None = None,
    ) -> None:
        self.config, self.log, self._trace = config, log, trace
        settings = ServiceSettings(
            maintenance=maintenance_settings(config), shutdown_timeout=config.shutdown_sync_timeout
        )
        self.service = Service(settings, observer=observer)
        self.verdict: Callable[[str], Verdict | None] = lambda path: None
        self._lock = threading.Lock()
        self._targets: dict[str, Target] = {}  # guarded by _lock
        self._watchers: dict[tuple[object, ...], DirectoryWatcher] = {}  # guarded by _lock

    def add(self, target: Target) -> bool:
        """Begin to replicate a database; ``False`` when it is there already."""
        new = self.service.register(
            target.path,
            lambda: target.open(self._trace),
            settings=database_settings(target.config, target.database, target.replica),
            maintenance=maintenance_settings(target.config),
            meta_dir=target.meta,
        )
        if new:
            with self._lock:
                self._targets[target.path] = target
            self.log.info("replicating", db=target.path, replica=shown(target.config, target.replica))
        return new

    def watch(self, entry: Database) -> None:
        """Replicate the databases of a directory as they come and go.

        Raises:
            UsageError: no such directory.
        """
        top = database_path(entry.dir or "")
        config = self.config

        def opener(relative: PurePath) -> Callable[[], Replica]:
            return lambda: _in_directory(config, entry, os.path.join(top, relative)).open(self._trace)

        assert entry.replica is not None
        settings = DirectorySettings(
            Path(top),
            entry.pattern or "",
            entry.recursive,
            settings=database_settings(config, entry, entry.replica),
            maintenance=maintenance_settings(config),
            meta_dir=lambda relative: Path(meta_path(entry, os.path.join(top, relative))),
        )
        watcher = DirectoryWatcher(self.service, settings, opener)
        watcher.start()
        with self._lock:
            self._watchers[_identity(config, entry)] = watcher

    def begin(self, wanted: Sequence[Target]) -> None:
        """Start everything the configuration names."""
        self.service.start()
        for target in wanted:
            self.add(target)
        for entry in self.config.dbs:
            if entry.dir and entry.watch:
                self.watch(entry)

    def reload(self, config: Config) -> None:
        """Go over to another configuration: what vanished ends, what is new begins, what changed is restarted."""
        wanted = {target.path: target for target in targets(config)}
        check_replicas(wanted.values())
        entries = {_identity(config, entry): entry for entry in config.dbs if entry.dir and entry.watch}
        timeout = self.config.shutdown_sync_timeout.total_seconds()
        with self._lock:
            present, watchers = dict(self._targets), dict(self._watchers)
        registered = {path: target.under(config) for path, target in present.items() if target.runtime}
        wanted = registered | wanted
        with self._lock:
            self._watchers = {key: watcher for key, watcher in watchers.items() if key in entries}
        for path, target in present.items():
            entry = wanted.get(path)
            if entry is None or not entry.same(target):
                self.unregister(path, timeout)
        for key, watcher in watchers.items():
            if key not in entries:
                watcher.close()
                for managed in watcher.managed:
                    self.unregister(str(managed), timeout)
        self.config = config
        for path, target in wanted.items():
            self._try(path, lambda target=target: self.add(target))  # type: ignore[misc]
        for key, directory in entries.items():
            if key not in watchers:
                self._try(directory.dir, lambda directory=directory: self.watch(directory))  # type: ignore[misc]

    def subjects(self) -> dict[str, Subject]:
        """The databases whose replicas can be verified now: those that are replicated and have been uploaded."""
        found = {}
        for path, reached in self.service.positions().items():
            subject = self._subject(path) if reached else None
            if subject is not None:
                found[path] = subject
        return found

    def _subject(self, path: str) -> Subject | None:
        with self._lock:
            target = self._targets.get(path)
        if target is not None:
            return Subject(target.meta, lambda: target.open(self._trace))
        config = self.config
        entry = find_database(config, path)  # of a watched directory
        if entry is None:
            return None
        return Subject(Path(meta_path(entry[0], path)), lambda: _open(config, entry[1], self._trace))

    def _try(self, what: str | None, work: Callable[[], object]) -> None:
        try:
            work()
        except VfsstreamError as error:
            self.log.error("cannot replicate", db=what, error=error)

    # --- Manager ----------------------------------------------------------------------------------------------

    def states(self) -> Sequence[DatabaseState]:
        """Every database, by path."""
        return [_state(status, self.verdict(status.database.path)) for status in self.service.status()]

    def register(self, path: str, replica_url: str) -> bool:
        """Replicate one more database, with the settings of the top level."""
        config = replace(self.config, dbs=[])
        replica = ReplicaConfig(url=replica_url)
        scheme_of(replica)
        return self.add(Target(config, Database(path=path, replica=replica), replica, path, runtime=True))

    def unregister(self, path: str, timeout: float) -> int | None:
        """Close and forget a database."""
        result = self.service.unregister(path, timeout)
        with self._lock:
            self._targets.pop(path, None)
        return None if result is None else int(result.position)

    def _known(self, path: str) -> ServiceStatus:
        for status in self.service.status():
            if status.database.path == path:
                return status
        raise NotManaged(f"database not found: {path}")

    def start(self, path: str, timeout: float) -> tuple[bool, int]:
        """Replicate again."""
        self._known(path)
        changed = self.service.start_database(path)
        return changed, int(self._known(path).database.position)

    def stop(self, path: str, timeout: float) -> tuple[bool, int]:
        """Sync and stop.

        Raises:
            DatabaseError: stopped, but not everything is in the replica.
        """
        status = self._known(path)
        result = self.service.stop_database(path, timeout)
        if result is None:
            return False, int(status.database.position)
        if not result.uploaded and result.position:
            reached = result.replica_position or 0
            lacks = f"its replica has only TXID {int(reached)} of {int(result.position)}"
            raise DatabaseError(f"{path} is stopped, but {lacks}: {result.error}")
        return True, int(result.position)

    def sync(self, path: str, wait: bool, timeout: float) -> SyncAnswer:
        """Capture what is committed; with ``wait`` until it is in the replica."""
        before = self._known(path)
        if not before.enabled:
            raise NotRunning(f"database is stopped: {path}")
        txid = int(self.service.sync(path, wait=wait, timeout=timeout))
        reached = int(self._known(path).database.replica_position or 0)
        old = int(before.database.position)
        if txid == old and (not wait or int(before.database.replica_position or 0) == txid):
            return SyncAnswer("no_change", txid, reached)
        return SyncAnswer("synced" if wait else "synced_local", txid, reached)

    def diagnostics(self, path: str | None) -> list[dict[str, Any]]:
        """What each database is doing."""
        if path is not None:
            self._known(path)
        now = datetime.now(UTC)
        return [
            diagnose(status, self.verdict(status.database.path), now)
            for status in self.service.status()
            if path in (None, status.database.path)
        ]

    def close(self, timeout: timedelta) -> ServiceResult:
        """Upload the rest of everything, and end."""
        with self._lock:
            watchers = list(self._watchers.values())
        for watcher in watchers:
            watcher.close()
        return self.service.close(time.monotonic() + timeout.total_seconds())


def _state(status: ServiceStatus, verdict: Verdict | None) -> DatabaseState:
    database = status.database
    words = {"replicating": "replicating", "waiting": "open", "blocked": "open", "stopped": "stopped"}
    errors = [database.last_error, *status.maintenance.errors.values()]
    error = next((str(error) for error in errors if error is not None), None)
    return DatabaseState(
        path=database.path,
        status=words[database.state] if status.enabled else "stopped",
        replica=status.replica,
        replica_type=status.replica.partition("://")[0],
        txid=int(database.position),
        replica_txid=None if database.replica_position is None else int(database.replica_position),
        last_sync_at=database.last_upload_at,
        lag_seconds=database.lag_seconds,
        lag_txids=database.lag_txids,
        database_size=database.database_size,
        wal_size=database.wal_size,
        error=error,
        consecutive_errors=database.consecutive_errors,
        disk_full=database.disk_full,
        stalled=database.stalled,
        verified_at=verdict.at if verdict else None,
        l0_files={str(name): count for name, count in status.maintenance.l0.items()} or None,
        verify_problem=verdict.problems[0] if verdict and verdict.problems else None,
    )
