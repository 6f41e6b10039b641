"""The daemon: starts everything in order, waits for signals and the child, ends everything in order.

The main thread only waits for events; every other part has a thread of its own.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfsstream import __version__
from vfsstream.config.checks import database_path, secrets_of
from vfsstream.config.schema import Config
from vfsstream.daemon.child import Child, split_command
from vfsstream.daemon.control import ControlServer, rfc3339_nano
from vfsstream.daemon.fleet import Fleet, Target, check_replicas, targets
from vfsstream.daemon.limits import raise_descriptor_limit
from vfsstream.daemon.logs import Log
from vfsstream.daemon.reports import Reports
from vfsstream.daemon.settings import needs_restart, verify_settings
from vfsstream.daemon.systemd import Notifier
from vfsstream.daemon.verify import Verifier
from vfsstream.errors import ReplicaEmpty, VfsstreamError
from vfsstream.replicate.sharedfiles import be_alone

if TYPE_CHECKING:
    from vfsstream.daemon.web import Web

__all__ = ["UNREPLICATED", "Daemon", "restore_missing"]

UNREPLICATED = 4
"""The exit status that says: not everything is in the replica."""

_SCAN = 1.0
_CHILD_PATIENCE = 3  # signals until a child that ignores them is killed


class Daemon:
    """One run of ``replicate``.

    Args:
        config: what to do.
        log: where to say it.
        load: reads the configuration again, for SIGHUP; ``None`` when there is no file.
        command: the program to run, else the configuration's.
    """

    def __init__(
        self, config: Config, log: Log, load: Callable[[], Config] | None = None, command: str | None = None
    ) -> None:
        self.config, self.log, self._load = config, log, load
        self._words = split_command(command or config.exec or "") if command is not None or config.exec else None
        self._events: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._started = datetime.now(UTC)
        self._notifier = Notifier()
        self._child: Child | None = None
        self._child_status: int | None = None
        self._web: Web | None = None
        self._signals = 0
        self.reports = Reports(log)
        self.fleet = Fleet(config, log, self.reports.observe, self.reports.metrics_trace)
        self.reports.states = self.fleet.states
        self.verifier = Verifier(
            verify_settings(config), self.fleet.subjects, log, self.reports.verified, self.reports.not_verified
        )
        self.fleet.verdict = self.verifier.verdict

    def run(self) -> int:
        """Until a signal or the end of the child; returns the exit status.

        Raises:
            UsageError, DatabaseError, ConflictError: it cannot start as configured.
        """
        raise_descriptor_limit()
        self.log.info("vfsstream", version=__version__, pid=os.getpid())
        with ExitStack() as stack:
            be_alone()
            stack.callback(be_alone, False)
            stack.enter_context(self._handlers())
            closing = False
            try:
                self._start(stack)
                self._wait()
                closing = True
            finally:
                if not closing and self._child is not None:
                    self._child.send(signal.SIGTERM)
                status = self._finish()
        return status

    # --- start ------------------------------------------------------------------------------------------------

    def _start(self, stack: ExitStack) -> None:
        config = self.config
        wanted = list(targets(config))
        check_replicas(wanted)
        restore_missing([t for t in wanted if t.database.restore_if_db_not_exists], self.log)
        if config.socket.enabled:
            control = ControlServer(
                config.socket.path, config.socket.permissions, self.fleet, self._info, database_path
            )
            stack.callback(control.close)
            self.log.info("control socket", path=config.socket.path)
        self._doors(stack)
        self.fleet.begin(wanted)
        self.verifier.start()
        stack.callback(self.verifier.close)
        if not wanted and not config.dbs:
            self.log.error("no databases are configured")
        if self._words:
            self._sync_before_child(wanted)
            self._child = Child(self._words, lambda status: self._events.put(("child", status)))
            self.log.info("child started", pid=self._child.pid)
        self._notifier.send("READY=1")

    def _doors(self, stack: ExitStack) -> None:
        config = self.config
        secrets = tuple(secrets_of(config))
        if config.addr:
            from vfsstream.daemon.web import Web

            lag = config.health_max_lag.total_seconds()
            web = Web(
                config.addr,
                self.fleet.states,
                self.reports.metrics,
                lag,
                details=self.reports.details,
                secrets=secrets,
            )
            stack.callback(web.close)
            self._web = web
            self.reports.every_second(web.record)
            host = config.addr.rpartition(":")[0] or "127.0.0.1"
            self.log.info("serving metrics and dashboard", url=f"http://{host}:{web.port}/")
        if config.heartbeat_url:
            from vfsstream.daemon.heartbeat import Heartbeat

            beat = Heartbeat(config.heartbeat_url, config.heartbeat_interval, self.fleet.states, self.log)
            beat.start()
            stack.callback(beat.close)
        if config.mcp_addr:
            from vfsstream.daemon.mcp import serve_http

            stack.callback(serve_http(config.mcp_addr, config, token=config.mcp_token))
            self.log.info("serving MCP", address=config.mcp_addr)

    def _sync_before_child(self, wanted: list[Target]) -> None:
        """What is there already goes up first; a replica that cannot be reached holds no application back."""
        for target in wanted:
            if not os.path.exists(target.path):
                continue
            try:
                self.fleet.service.sync(target.path, wait=False, timeout=10.0)
            except VfsstreamError as error:
                self.log.warn("first sync failed", db=target.path, error=error)

    # --- run --------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        next_sign = time.monotonic()
        while True:
            pause = min(_SCAN, (self._notifier.watchdog or 10.0) / 3)
            try:
                kind, number = self._events.get(timeout=pause)
            except queue.Empty:
                now = time.monotonic()
                if now >= next_sign:
                    next_sign = now + pause
                    self._each_second()
                continue
            if kind == "child":
                self._child_ended(number)
                return
            if number == signal.SIGHUP:
                self._reload()
            elif self._stop_asked(number):
                return

    def _each_second(self) -> None:
        if self._notifier.watchdog is not None:
            self._notifier.send("WATCHDOG=1")
        self.reports.tick()

    def _stop_asked(self, number: int) -> bool:
        """Whether to end now; with a child its end is awaited, and replication goes on until then."""
        self._signals += 1
        name = signal.Signals(number).name
        if self._child is None:
            self.log.info("signal received, stopping; again to give up uploading", signal=name)
            return True
        if self._signals >= _CHILD_PATIENCE:
            self.log.warn("child ignores signals, killed", pid=self._child.pid)
            self._child.kill()
        else:
            self.log.info("signal passed on to the child", signal=name, pid=self._child.pid)
            self._child.send(number)
        return False

    def _child_ended(self, status: int) -> None:
        asked = self._signals > 0 and status < 0
        self._child_status = 0 if asked else 128 - status if status < 0 else status
        self.log.info("child ended", status=status)

    def _reload(self) -> None:
        if self._load is None:
            self.log.warn("no configuration file to read again")
            return
        self._notifier.send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = self._load()
            self.fleet.reload(config)
            self.verifier.change(verify_settings(config))
            self.log.secrets = tuple({*self.log.secrets, *secrets_of(config)})
            if self._web is not None:
                self._web.change(config.health_max_lag.total_seconds(), self.log.secrets)
            for key in needs_restart(self.config, config):
                self.log.warn("this change needs a restart", key=key)
            self.config = config
            self.log.info("configuration read again", databases=len(config.dbs))
        except VfsstreamError as error:
            self.log.error("configuration not changed", error=error)
        self._notifier.send("READY=1")

    # --- end --------------------------------------------------------------------------------------------------

    def _finish(self) -> int:
        self._notifier.send("STOPPING=1")
        done = threading.Event()
        watcher = threading.Thread(
            target=self._watch_for_second, args=(done,), name="vfsstream-interrupt", daemon=True
        )
        watcher.start()
        self.verifier.close()
        try:
            result = self.fleet.close(self.config.shutdown_sync_timeout)
        finally:
            done.set()
            watcher.join(1.0)
        for path, one in result.databases.items():
            if not one.uploaded and one.position:
                reached = int(one.replica_position or 0)
                self.log.error(
                    "not everything is in the replica",
                    db=path,
                    txid=int(one.position),
                    replica=reached,
                    error=one.error,
                )
        behind = any(not one.uploaded and one.position for one in result.databases.values())
        self.log.info("stopped", uploaded=not behind)
        return self._child_status or (UNREPLICATED if behind else 0)

    def _watch_for_second(self, done: threading.Event) -> None:
        while not done.is_set():
            try:
                kind, number = self._events.get(timeout=0.1)
            except queue.Empty:
                continue
            if kind == "signal" and number != signal.SIGHUP:
                self.log.warn("second signal, uploading given up")
                self.fleet.service.interrupt()

    @contextmanager
    def _handlers(self) -> Iterator[None]:
        def handle(number: int, frame: Any) -> None:
            self._events.put(("signal", number))

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _info(self) -> dict[str, Any]:
        uptime = datetime.now(UTC) - self._started
        answer = {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": int(uptime.total_seconds()),
            "started_at": rfc3339_nano(self._started),
            "database_count": len(self.fleet.service.paths),
        }
        verdicts = [verdict for path in self.fleet.service.paths if (verdict := self.verifier.verdict(path))]
        if verdicts:
            answer["last_verified_at"] = rfc3339_nano(min(verdict.at for verdict in verdicts))
            answer["damaged_count"] = sum(not verdict.ok for verdict in verdicts)
        return answer


def restore_missing(wanted: list[Target], log: Log) -> None:
    """Restore databases that do not exist; no backup is fine, anything else ends the start.

    Raises:
        VfsstreamError: a backup exists but cannot be restored.
    """
    from vfsstream.replicate.restore import restore

    for target in wanted:
        if Path(target.path).exists():
            continue
        with target.open() as replica:
            try:
                result = restore(replica, target.path)
            except ReplicaEmpty:
                log.info("no backup to restore, starting anew", db=target.path)
            else:
                log.info("restored", db=target.path, txid=result.txid)
