"""What a YAML scalar means for a key of each kind: the conversions of YAML 1.1 as Litestream's loader makes them.

A value arrives as the source's own spelling and whether it stood there plain (without quotes), so that
``path: 0123`` stays ``0123`` and a quoted ``"5"`` is no number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from vfsstream.config.values import parse_duration, parse_int, parse_size

__all__ = [
    "BOOL",
    "DURATION",
    "INTEGER",
    "KINDS",
    "SHARE",
    "SIZE",
    "STRING",
    "STRINGS",
    "Key",
    "Kind",
    "key",
    "store",
]

_TRUE = frozenset({"y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"})
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        word: what the reference table calls it.
        convert: text and plainness to the value; :class:`ValueError` otherwise.
        example: one for messages.
    """

    word: str
    convert: Callable[[str, bool], Any]
    example: str


def _string(text: str, plain: bool) -> str:
    return text


def _bool(text: str, plain: bool) -> bool:
    if plain and text in _TRUE:
        return True
    if plain and text in _FALSE:
        return False
    raise ValueError("expected true or false, without quotes")


def _integer(text: str, plain: bool) -> int:
    if not plain:
        raise ValueError("expected a number, without quotes")
    try:
        return parse_int(text)
    except ValueError:
        if not _FLOAT.fullmatch(text):
            raise ValueError("expected a whole number") from None
    number = float(text)
    if abs(number) >= 1 << 63:
        raise ValueError("the number is too large")
    return int(number)


def _duration(text: str, plain: bool) -> timedelta:
    if not plain or not (_FLOAT.fullmatch(text) or re.fullmatch(r"[+-]?0[xXbB][0-9a-fA-F_]+", text)):
        return parse_duration(text)
    # Litestream takes a bare number for nanoseconds. Where that can be meant it is kept; below a millisecond
    # the writer meant seconds, and a replicator spinning every 5 ns is not what they want.
    nanoseconds = _integer(text, True)
    if 0 < abs(nanoseconds) < 10**6:
        raise ValueError(f"a bare number is nanoseconds; write a unit, as {text}s")
    return timedelta(microseconds=-(-nanoseconds // 1000))


def _size(text: str, plain: bool) -> int:
    return parse_size(text)


def _share(text: str, plain: bool) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError("expected a share, as 0.1 or 10%") from None
    if not 0 < value <= 1:
        raise ValueError("a share is above 0 and at most 1, or above 0% and at most 100%")
    return value


STRING = Kind("string", _string, "text")
BOOL = Kind("bool", _bool, "true")
INTEGER = Kind("integer", _integer, "8")
DURATION = Kind("duration", _duration, "30s")
SIZE = Kind("size", _size, "16MiB")
SHARE = Kind("share", _share, "10%")
STRINGS = Kind("list of strings", _string, "[a, b]")
KINDS = (STRING, BOOL, INTEGER, DURATION, SIZE, SHARE, STRINGS)


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        kind: of its value; ``None`` for a section or a list of sections.
        doc: one line for the reference table.
        secret: never shown.
        choices: the words allowed, or empty.
        above: the value must be greater than this; at least it when ``inclusive``.
        shown: how the default reads in the table when it is not the field's own.
        inherited: a value at the top level is the default of every replica.
        ours: Litestream does not know it.
        schemes: kinds of storage that it is for; empty means all.
    """

    kind: Kind | None
    doc: str
    secret: bool = False
    choices: tuple[str, ...] = ()
    above: timedelta | int | None = None
    inclusive: bool = False
    shown: str | None = None
    inherited: bool = True
    ours: bool = False
    schemes: tuple[str, ...] = ()


def key(kind: Kind | None, doc: str, default: Any = None, *, factory: Any = None, **settings: Any) -> Any:
    """A dataclass field that is a key of the configuration."""
    metadata = {"key": Key(kind, doc, **settings)}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def store(kind: Kind, schemes: str, doc: str, **settings: Any) -> Any:
    """A key for some kinds of storage only, unset by default."""
    words = tuple(schemes.split())
    return key(kind, f"{', '.join(words)}: {doc}", schemes=words, **settings)
