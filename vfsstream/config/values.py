"""The syntaxes of single values, as Go's standard library and Litestream read them: durations, sizes, numbers,
truth values, TXIDs and times. Pure: text in, value out, :class:`ValueError` with a plain sentence otherwise.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from vfsstream.ltx.names import TXID

__all__ = [
    "format_duration",
    "parse_bool",
    "parse_duration",
    "parse_int",
    "parse_size",
    "parse_time",
    "parse_txid",
]

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]+)")
_MAX_INT64 = (1 << 63) - 1
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_INT = re.compile(r"[+-]?(0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO]?(?:_?[0-7])+|0|[1-9](?:_?[0-9])*)")
_SIZE = re.compile(r"([0-9.,]+)\s*([A-Za-z]*)")
_SIZE_POWERS = {letter: power for power, letter in enumerate("kmgtpe", start=1)}
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d{1,2}):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?\s*(Z|z|[+-]\d\d:\d\d)?)?", re.ASCII
)
_AGO = re.compile(r"(?:(\d+)|an?)\s*(second|sec|s|minute|min|m|hour|hr|h|day|d|week|w)s?\s+ago", re.ASCII)
_AGO_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_duration(text: str) -> timedelta:
    """A duration in Go's syntax, as ``1m30s``, ``500ms``, ``1.5h`` or ``0``; exact to the microsecond, rounded up.

    Raises:
        ValueError: another form, or more than 2**63 nanoseconds.
    """
    return timedelta(microseconds=-(-parse_nanoseconds(text) // 1000))


def parse_nanoseconds(text: str) -> int:
    """Like :func:`parse_duration`, in nanoseconds."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    example = "a duration has a unit, as 500ms, 10s, 1m30s or 24h"
    total, position = 0, 0
    while match := _PART.match(rest, position):
        whole, fraction, unit = match[1], match[2] or "", match[3]
        if not (whole or fraction) or unit not in _UNITS:
            raise ValueError(f"invalid duration {text!r}: {example}")
        scale = _UNITS[unit]
        total += int(whole or "0") * scale
        if fraction:
            total += int(fraction) * scale // 10 ** len(fraction)
        position = match.end()
    if position != len(rest) or not rest:
        raise ValueError(f"invalid duration {text!r}: {example}")
    if total > _MAX_INT64:
        raise ValueError(f"invalid duration {text!r}: longer than 292 years")
    return sign * total


def format_duration(value: timedelta) -> str:
    """A duration as Go prints it: ``24h0m0s``, ``1m30s``, ``500ms``, ``0s``."""
    micro = round(value / timedelta(microseconds=1))
    if micro < 0:
        return "-" + format_duration(-value)
    if micro == 0:
        return "0s"
    for unit, scale in (("µs", 1), ("ms", 1000)):
        if micro < scale * 1000:
            return f"{_decimal(micro, scale)}{unit}"
    minutes, rest = divmod(micro, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 1_000_000)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(value: int, scale: int) -> str:
    whole, fraction = divmod(value, scale)
    digits = str(fraction).rjust(len(str(scale)) - 1, "0").rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


def parse_size(text: str) -> int:
    """A size in bytes: ``5MB`` (powers of 1000), ``5MiB`` (powers of 1024), ``1048576``.

    Raises:
        ValueError: another form, or more than 2**63 bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"invalid size {text!r}: expected bytes, or a number with a unit, as 5MB or 16MiB")
    unit = match[2].lower()
    prefix, binary = unit.removesuffix("b"), False
    if prefix.endswith("i"):
        prefix, binary = prefix[:-1], True
    if (prefix and prefix not in _SIZE_POWERS) or (binary and not prefix):
        raise ValueError(f"unknown unit {match[2]!r} of a size: kB MB GB TB, or KiB MiB GiB TiB")
    try:
        number = float(match[1].replace(",", ""))
    except ValueError:
        raise ValueError(f"invalid size {text!r}: expected one number and a unit") from None
    result = number * (1024 if binary else 1000) ** (_SIZE_POWERS[prefix] if prefix else 0)
    if result >= float(1 << 63):
        raise ValueError(f"size {text!r} is too large")
    return int(result)


def parse_bool(text: str) -> bool:
    """A truth value of a command-line flag.

    Raises:
        ValueError: not one of Go's spellings.
    """
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"invalid boolean {text!r}: true or false")


def parse_int(text: str) -> int:
    """An integer with Go's prefixes: ``8``, ``-1``, ``0x8``, ``0b11``, ``017`` (octal), ``1_000``.

    Raises:
        ValueError: another form, or beyond 64 bits.
    """
    if not _INT.fullmatch(text):
        raise ValueError(f"invalid integer {text!r}")
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    octal = len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567_"
    value = sign * (int(digits, 8) if octal else int(digits, 0))
    if not -(1 << 63) <= value <= _MAX_INT64:
        raise ValueError(f"integer {text!r} is out of range")
    return value


def parse_txid(text: str) -> TXID:
    """A TXID as a user gives it: 16 hex digits, ``0x3e8``, or fewer than 16 digits read as a decimal number.

    Raises:
        ValueError: anything else; bare short hex is refused because it could be meant either way.
    """
    if re.fullmatch(r"[0-9a-fA-F]{16}", text):
        return TXID(int(text, 16))
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}", text):
        return TXID(int(text, 16))
    if re.fullmatch(r"[0-9]{1,15}", text):
        return TXID(int(text))
    if re.fullmatch(r"[0-9a-fA-F]{1,15}", text):
        raise ValueError(f"invalid TXID {text!r}: write 0x{text.lower()} or all 16 hex digits")
    raise ValueError(f"invalid TXID {text!r}: expected 16 hex digits, 0x and hex digits, or a decimal number")


def parse_time(text: str, now: datetime) -> tuple[datetime, bool]:
    """A point in time and whether its zone was assumed to be UTC.

    Accepts RFC 3339 as ``2026-01-02T03:04:05Z``; also a date alone, a time without zone (UTC), ``now``,
    ``5 minutes ago``, ``1h30m ago``.

    Args:
        now: what relative phrases count from; aware.

    Raises:
        ValueError: another form, or a date that does not exist.
    """
    words = text.strip().lower()
    if words == "now":
        return now, False
    if words == "yesterday":
        return now - timedelta(days=1), False
    if words.endswith(" ago"):
        return now - _parse_ago(words), False
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"invalid time {text!r}: expected RFC 3339, as 2026-01-02T03:04:05Z, or '5 minutes ago'")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    micro = int((match[7] or "0")[:6].ljust(6, "0"))
    zone = match[8]
    try:
        value = datetime(year, month, day, hour, minute, second, micro, tzinfo=_zone(zone))
    except ValueError as error:
        raise ValueError(f"invalid time {text!r}: {error}") from None
    return value.astimezone(UTC), zone is None


def _zone(text: str | None) -> timezone:
    if text is None or text in "Zz":
        return UTC
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[4:6])))


def _parse_ago(words: str) -> timedelta:
    match = _AGO.fullmatch(words)
    try:
        if match is not None:
            return timedelta(seconds=int(match[1] or 1) * _AGO_UNITS[match[2][0]])
        return parse_duration(words.removesuffix(" ago").strip().replace(" ", ""))
    except (ValueError, OverflowError):
        raise ValueError(f"invalid time {words!r}: expected as '5 minutes ago' or '1h30m ago'") from None
