"""Unfinished files on servers that do not rename them by themselves, and what killed writers left of them."""

from __future__ import annotations

import os
import re
import threading
import time
from datetime import UTC, datetime, timedelta

__all__ = ["TEMP_SUFFIX", "Leftovers", "temporary_name"]

TEMP_SUFFIX = ".tmp"
"""Ends the name of every unfinished file; never listed."""

_OURS = re.compile(r".+\.[0-9]+\.([0-9]{16,20})" + re.escape(TEMP_SUFFIX))
_OLD = timedelta(days=1)


def temporary_name(path: str) -> str:
    """A name beside a path that nobody else has, and that tells when it was given."""
    return f"{path}.{os.getpid()}.{time.time_ns()}{TEMP_SUFFIX}"


class Leftovers:
    """What listings showed of unfinished files that nobody will finish. Thread-safe.

    Readers list too and may change nothing: only the next write asks what is to be removed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: set[str] = set()

    def look(self, key: str, modified: datetime | None) -> None:
        """A listing has an unfinished file.

        Args:
            modified: when it last grew, by the server's clock.
        """
        match = _OURS.fullmatch(key)
        now = datetime.now(UTC)
        if match is None or modified is None or now - modified < _OLD:
            return
        if now.timestamp() - int(match[1]) / 1e9 >= _OLD.total_seconds():
            with self._lock:
                self._found.add(key)

    def take(self) -> list[str]:
        """Those found since the last call."""
        if not self._found:
            return []
        with self._lock:
            found, self._found = sorted(self._found), set()
        return found
