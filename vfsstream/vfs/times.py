"""Times and durations as users write them: RFC 3339, relative expressions, Go durations, sizes."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from vfsstream.errors import OptionError

__all__ = ["format_duration", "format_ms", "parse_duration", "parse_moment", "parse_size"]

_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(-?\d+)\s*([kmgt]?)(i?b?)", re.IGNORECASE)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def parse_duration(text: str, key: str) -> float:
    """Seconds of a duration in Go's syntax, as ``1m30s`` or ``250ms``.

    Raises:
        OptionError: naming the key and the text.
    """
    if text == "0":
        return 0.0
    position, seconds = 0, 0.0
    while match := _PART.match(text, position):
        seconds += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not position or position != len(text):
        raise OptionError(f"{key}={text}: not a duration", hint="as 250ms, 2s or 1m30s")
    return seconds


def parse_size(text: str, key: str) -> int:
    """Bytes: a plain number, or one with a suffix: ``64MB`` and ``64MiB`` both count in powers of 1,024.

    Raises:
        OptionError: naming the key and the text.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise OptionError(f"{key}={text}: not a size", hint="bytes, or a number with KB, MB or GB")
    size = int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ")
    if size < 0:
        raise OptionError(f"{key}={text}: a size cannot be negative")
    return size


def parse_moment(text: str, key: str, now: datetime | None = None) -> datetime:
    """A moment: RFC 3339, or anything that a person would write, as ``5 minutes ago`` or ``yesterday``.

    Expressions without a zone mean UTC.

    Raises:
        OptionError: naming the key and the text.
    """
    stripped = text.strip()
    if _RFC3339.fullmatch(stripped):
        try:
            return datetime.fromisoformat(stripped.upper()).astimezone(UTC)
        except ValueError as error:
            raise OptionError(f"{key}={text}: {error}") from error
    import dateparser

    settings = {"TIMEZONE": "UTC", "RETURN_AS_TIMEZONE_AWARE": True, "RELATIVE_BASE": now or datetime.now(UTC)}
    parsed = dateparser.parse(stripped, languages=["en"], settings=settings) if stripped else None
    if parsed is None:
        raise OptionError(
            f"{key}: invalid timestamp {text!r}",
            hint="RFC 3339 as 2026-01-31T12:00:00Z, or a relative time as '5 minutes ago'",
        )
    found: datetime = parsed.astimezone(UTC)
    return found


def format_ms(milliseconds: int) -> str:
    """RFC 3339 in UTC, with as many decimals as there are."""
    from vfsstream.replica import format_time

    return format_time(milliseconds)


def format_duration(seconds: float) -> str:
    """A duration in Go's syntax."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
