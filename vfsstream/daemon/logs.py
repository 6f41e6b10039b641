"""The log: one line per event on stderr, as text, JSON or short text; no secrets, no floods."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

from vfsstream.config.secrets import redact
from vfsstream.config.values import format_duration

__all__ = ["LEVELS", "Log", "make_log"]

TRACE = 5
LEVELS = {"trace": TRACE, "debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}
_NAMES = {TRACE: "TRACE", 10: "DEBUG", 20: "INFO", 30: "WARN", 40: "ERROR"}
_SHORT = {TRACE: "TRC", 10: "DBG", 20: "INF", 30: "WRN", 40: "ERR"}
_COLOURS = {30: "\x1b[33m", 40: "\x1b[31m"}


class Log:
    """Writes events.

    Args:
        write: takes one finished line.
        level: least level shown, a number of :data:`LEVELS`.
        form: ``text``, ``json`` or ``pretty``.
        colour: in ``pretty``.
        secrets: values that are replaced wherever they appear.
        burst: so many lines of one message and database in ``window`` seconds, then they are counted instead.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        level: int = 20,
        form: str = "text",
        *,
        colour: bool = False,
        secrets: tuple[str, ...] = (),
        burst: int = 10,
        window: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.level, self.form, self.colour, self.secrets = level, form, colour, secrets
        self._write, self._burst, self._window, self._clock = write, burst, window, clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, Any], list[float]] = {}  # guarded by _lock: first time, lines, suppressed

    def trace(self, message: str, **fields: Any) -> None:
        self._log(TRACE, message, fields)

    def debug(self, message: str, **fields: Any) -> None:
        self._log(10, message, fields)

    def info(self, message: str, **fields: Any) -> None:
        self._log(20, message, fields)

    def warn(self, message: str, **fields: Any) -> None:
        self._log(30, message, fields)

    def error(self, message: str, **fields: Any) -> None:
        self._log(40, message, fields)

    def _log(self, level: int, message: str, fields: dict[str, Any]) -> None:
        if level < self.level:
            return
        suppressed = self._admit(message, fields.get("db"))
        if suppressed is None:
            return
        if suppressed:
            fields = {**fields, "suppressed": suppressed}
        self._write(self._line(level, message, {name: self._clean(value) for name, value in fields.items()}))

    def _admit(self, message: str, database: Any) -> int | None:
        """``None``: too many of these lately. Else how many were left out before this one."""
        now = self._clock()
        with self._lock:
            entry = self._seen.get((message, database))
            if entry is None or now - entry[0] >= self._window:
                if len(self._seen) > 10_000:
                    self._seen.clear()
                self._seen[message, database] = [now, 1, 0]
                return int(entry[2]) if entry else 0
            entry[1] += 1
            if entry[1] <= self._burst:
                return 0
            entry[2] += 1
            return None

    def _clean(self, value: Any) -> Any:
        if isinstance(value, (bool, int, float)) or value is None:
            return value
        if isinstance(value, timedelta):
            return format_duration(value)
        text = redact(str(value))
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def _line(self, level: int, message: str, fields: dict[str, Any]) -> str:
        now = datetime.now(UTC)
        if self.form == "json":
            head = {"time": _stamp(now), "level": _NAMES[level], "msg": message}
            # 'level' is a compaction level in some events and must not appear twice.
            named = {("ltx_level" if name == "level" else name): value for name, value in fields.items()}
            return json.dumps({**head, **named}, ensure_ascii=False)
        pairs = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())
        if self.form == "pretty":
            word = _SHORT[level]
            if self.colour and level in _COLOURS:
                word = f"{_COLOURS[level]}{word}\x1b[0m"
            return f"{now:%H:%M:%S} {word} {message} {pairs}".rstrip()
        return f"time={_stamp(now)} level={_NAMES[level]} msg={_quoted(message)} {pairs}".rstrip()


def _stamp(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if text and not any(character in ' "=\\' or not character.isprintable() for character in text):
        return text
    return json.dumps(text, ensure_ascii=False)


def make_log(level: str, form: str, *, stream: TextIO | None = None, secrets: tuple[str, ...] = ()) -> Log:
    """The log on stderr; warnings of libraries go there too."""
    out = sys.stderr if stream is None else stream
    lock = threading.Lock()

    def write(line: str) -> None:
        with lock:
            out.write(line + "\n")
            out.flush()

    log = Log(write, LEVELS.get(level, 20), form, colour=out.isatty(), secrets=secrets)
    logging.basicConfig(handlers=[_Bridge(log)], level=logging.WARNING, force=True)
    return log


class _Bridge(logging.Handler):
    """Passes what libraries say on to our log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        method = self._log.error if record.levelno >= logging.ERROR else self._log.warn
        method(record.getMessage(), system=record.name)
