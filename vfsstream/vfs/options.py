"""The options of an open database: URI parameters over per-name settings over the environment, validated."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from vfsstream.errors import OptionError, UsageError
from vfsstream.ltx.names import TXID
from vfsstream.vfs.times import parse_duration, parse_moment, parse_size

__all__ = ["ENVIRONMENT", "KEYS", "Options", "require_key", "validate_key"]

PREFETCH = ("auto", "off", "seq", "btree", "bulk")
SQLITE_KEYS = frozenset({"vfs", "mode", "cache", "immutable", "psow", "nolock", "modeof", "uri"})


@dataclass(frozen=True, slots=True)
class Options:
    """How a replica is read. Sizes in bytes, durations in seconds.

    Attributes:
        replica_url: the replica.
        cache_size: decoded pages in memory, shared by all connections of the process.
        poll_interval: pause between two looks for new transactions.
        max_poll_interval: the pause grows up to this while nothing comes; by default it does not grow.
        relist_interval: pause between two listings, which find compacted files and gaps.
        txid: open this transaction, for ever unchanged.
        time: open the state before this moment, for ever unchanged.
        wait: how long to wait for a replica that has no files yet.
        max_staleness: at the start of a transaction, look for news first if the last look is older.
        max_lag: a transaction on data whose last successful look is older than this fails.
        deadline: what one page may take, attempts included.
        prefetch: read-ahead: ``auto off seq btree bulk``.
        cache_dir: directory of the disk cache.
        disk_cache_size: bytes it may use.
        stale_ok: open the state that ``cache_dir`` knows without asking the store, and follow from there.
        bulk_max_bytes: largest database that may be fetched whole when many pages are missing.
        window_budget: bytes of compressed read-ahead in memory.
        max_requests: requests to the store at once.
        hydration_enabled: fetch the whole database to a local file in the background.
        hydration_path: where; by default a temporary file.
    """

    replica_url: str
    cache_size: int = 10 << 20
    poll_interval: float = 1.0
    max_poll_interval: float | None = None
    relist_interval: float = 15.0
    txid: TXID | None = None
    time: datetime | None = None
    wait: float = 0.0
    max_staleness: float | None = None
    max_lag: float | None = None
    deadline: float = 30.0
    prefetch: str = "auto"
    cache_dir: str | None = None
    disk_cache_size: int = 1 << 30
    stale_ok: bool = False
    bulk_max_bytes: int | None = None
    window_budget: int = 16 << 20
    max_requests: int = 32
    hydration_enabled: bool = False
    hydration_path: str | None = None

    @property
    def immutable(self) -> bool:
        """Opened at one transaction or moment: never follows."""
        return self.txid is not None or self.time is not None

    @classmethod
    def resolve(
        cls, parameters: Mapping[str, str], configured: Mapping[str, str], environment: Mapping[str, str]
    ) -> Options:
        """The options out of three layers; the first that has a key wins.

        Args:
            parameters: of the URI.
            configured: set for this database name.
            environment: of the process, as it is now.

        Raises:
            OptionError: naming the key and the value.
        """
        values: dict[str, Any] = {}
        for key, parse in KEYS.items():
            text, where = _look_up(key, parameters, configured, environment)
            if text is not None:
                values[key] = parse(text, where)
        for key in (*parameters, *configured):
            validate_key(key)
        if values.pop("write_enabled", False):
            raise OptionError("write_enabled: this reader never writes", hint="write to the primary database")
        for ignored in ("sync_interval", "buffer_path"):
            values.pop(ignored, None)
        if not values.get("replica_url"):
            raise OptionError(
                "no replica_url", hint="give replica_url=... in the URI, or set LITESTREAM_REPLICA_URL"
            )
        if "txid" in values and "time" in values:
            raise OptionError("txid and time exclude each other")
        options = cls(**values)
        if options.stale_ok and options.cache_dir is None:
            raise OptionError("stale_ok: there is no cache to open from", hint="give cache_dir=, too")
        if options.max_poll_interval is not None and options.max_poll_interval < options.poll_interval:
            raise OptionError(f"max_poll_interval={options.max_poll_interval:g}s is shorter than poll_interval")
        return options


def _look_up(
    key: str, parameters: Mapping[str, str], configured: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[str | None, str]:
    for layer in (parameters, configured):
        if key in layer:
            return layer[key], key
    for name in ENVIRONMENT.get(key, ()):
        if environment.get(name):
            return environment[name], name
    return None, key


def validate_key(key: str) -> None:
    """Refuse a key that is all but surely a misspelt one of ours. Foreign keys are none of our business.

    Raises:
        OptionError: naming the key that was meant.
    """
    if key in KEYS or key in SQLITE_KEYS:
        return
    close = difflib.get_close_matches(key.lower().replace("-", "_"), KEYS, 1, cutoff=0.85)
    if close:
        raise OptionError(f"unknown option {key!r}", hint=f"did you mean {close[0]!r}?")


def require_key(key: str) -> None:
    """Refuse a key that is not one of ours.

    Raises:
        OptionError: naming the keys there are.
    """
    if key not in KEYS:
        raise OptionError(f"unknown option {key!r}", hint=f"one of {' '.join(sorted(KEYS))}")


def _text(text: str, key: str) -> str:
    return text


def _flag(text: str, key: str) -> bool:
    lowered = text.lower()
    if lowered in ("true", "1", "yes", "on"):
        return True
    if lowered in ("false", "0", "no", "off", ""):
        return False
    raise OptionError(f"{key}={text}: not true or false")


def _duration(text: str, key: str) -> float:
    return parse_duration(text, key)


def _positive(text: str, key: str) -> float:
    seconds = parse_duration(text, key)
    if seconds <= 0:
        raise OptionError(f"{key}={text}: must be more than 0")
    return seconds


def _wait(text: str, key: str) -> float:
    return float("inf") if text.lower() == "forever" else parse_duration(text, key)


def _count(text: str, key: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise OptionError(f"{key}={text}: not a positive number")
    return int(text)


def _prefetch(text: str, key: str) -> str:
    if text.lower() not in PREFETCH:
        raise OptionError(f"{key}={text}: unknown", hint=f"one of {' '.join(PREFETCH)}")
    return text.lower()


def _txid(text: str, key: str) -> TXID:
    """As on the command line: 16 hex digits, ``0x...``, or fewer than 16 plain digits as a decimal number."""
    try:
        if text.lower().startswith("0x"):
            txid = TXID(int(text[2:], 16))
        elif len(text) < 16 and text.isdecimal():
            txid = TXID(int(text))
        else:
            txid = TXID.parse(text)
    except (UsageError, ValueError) as error:
        raise OptionError(f"{key}={text}: not a TXID", hint="16 hex digits, or a decimal number") from error
    if not txid:
        raise OptionError(f"{key}={text}: the first TXID is 1")
    return txid


Parse = Callable[[str, str], Any]

KEYS: Mapping[str, Parse] = {
    "replica_url": _text,
    "cache_size": parse_size,
    "poll_interval": _positive,
    "max_poll_interval": _positive,
    "relist_interval": _positive,
    "txid": _txid,
    "time": parse_moment,
    "wait": _wait,
    "max_staleness": _duration,
    "max_lag": _positive,
    "deadline": _positive,
    "prefetch": _prefetch,
    "cache_dir": _text,
    "disk_cache_size": parse_size,
    "stale_ok": _flag,
    "bulk_max_bytes": parse_size,
    "window_budget": parse_size,
    "max_requests": _count,
    "hydration_enabled": _flag,
    "hydration_path": _text,
    "write_enabled": _flag,
    "sync_interval": _duration,
    "buffer_path": _text,
}
"""Every key, and how its text is understood."""

_LITESTREAM = (
    "replica_url",
    "write_enabled",
    "sync_interval",
    "buffer_path",
    "hydration_enabled",
    "hydration_path",
)

ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    key: (f"VFSSTREAM_{key.upper()}", *((f"LITESTREAM_{key.upper()}",) if key in _LITESTREAM else ()))
    for key in KEYS
    if key not in ("txid", "time")
}
"""The environment variables of each key, the first that is set wins. Read at each open."""

assert {field.name for field in fields(Options)} <= KEYS.keys()
