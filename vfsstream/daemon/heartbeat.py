"""Tells a dead man's switch that everything is replicated: no call means look at it."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from vfsstream.daemon.logs import Log
from vfsstream.daemon.manager import DatabaseState

__all__ = ["Heartbeat", "healthy"]

_LOOK = 15.0
_TIMEOUT = 30.0


def healthy(states: Sequence[DatabaseState], now: datetime, within: timedelta) -> bool:
    """Whether there is a database to replicate, and each was uploaded or had nothing to upload ``within`` so long."""
    enabled = [state for state in states if state.enabled]
    return bool(enabled) and all(_fresh(state, now, within) for state in enabled)


def _fresh(state: DatabaseState, now: datetime, within: timedelta) -> bool:
    if state.stalled or state.error is not None or state.last_sync_at is None:
        return False
    idle = state.lag_txids == 0 and state.lag_seconds == 0
    return idle or now - state.last_sync_at <= within


class Heartbeat:
    """Calls a URL every interval while all databases are healthy.

    Args:
        url: http or https; never shown, it is a secret of its own kind.
        interval: between two calls; a failed one is not repeated sooner.
        look: seconds between two looks.
    """

    def __init__(
        self,
        url: str,
        interval: timedelta,
        states: Callable[[], Sequence[DatabaseState]],
        log: Log,
        look: float = _LOOK,
    ) -> None:
        self._url, self._interval, self._states, self._log, self._look = url, interval, states, log, look
        self._stop = threading.Event()
        self._last: datetime | None = None
        self._thread = threading.Thread(target=self._loop, name="vfsstream-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; a call in flight is left behind."""
        self._stop.set()
        self._thread.join(1.0)

    def _loop(self) -> None:
        while not self._stop.wait(self._look):
            self.beat(datetime.now(UTC))

    def beat(self, now: datetime) -> bool:
        """One look; returns whether a call was made and answered well."""
        if self._last is not None and now - self._last < self._interval:
            return False
        if not healthy(self._states(), now, self._interval):
            return False
        self._last = now
        try:
            with urllib.request.urlopen(self._url, timeout=_TIMEOUT):
                return True
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "code", None) or getattr(error, "reason", None) or type(error).__name__
            self._log.error("heartbeat failed", error=str(reason).replace(self._url, "***"))
            return False
