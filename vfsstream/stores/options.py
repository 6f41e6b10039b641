"""Values of configuration keys and query parameters, read by one set of rules."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from vfsstream.errors import UrlError

__all__ = ["Options", "parse_boolean", "parse_endpoint", "parse_size"]

log = logging.getLogger("vfsstream.stores")

_TRUE, _FALSE = frozenset({"true", "1", "t", "yes", "on"}), frozenset({"false", "0", "f", "no", "off"})
_UNITS = {"": 0, "b": 0, "k": 1, "kb": 1, "m": 2, "mb": 2, "g": 3, "gb": 3, "t": 4, "tb": 4, "p": 5, "pb": 5}


def parse_boolean(text: str, name: str) -> bool:
    """A word of a configuration file.

    Raises:
        UrlError: any other word.
    """
    word = text.lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise UrlError(f"{name} is {text!r}", hint="true or false")


def parse_size(text: str, name: str) -> int:
    """Bytes: a number with an optional unit, ``MB`` of 1000s or ``MiB`` of 1024s.

    Raises:
        UrlError: anything else.
    """
    match = re.fullmatch(r"\s*([0-9][0-9.,]*)\s*([kmgtp]?i?b?)\s*", text, re.IGNORECASE)
    unit = match[2].lower() if match else ""
    base = 1024 if "i" in unit else 1000
    power = _UNITS.get(unit.replace("i", ""), -1)
    try:
        if match is None or power < 0:
            raise ValueError
        return int(float(match[1].replace(",", "")) * base**power)
    except ValueError:
        raise UrlError(f"{name} is {text!r}", hint="a size in bytes, or with a unit as 5MiB") from None


def parse_endpoint(text: str) -> str:
    """The URL of a service, without a slash at its end.

    Raises:
        UrlError: it is not one.
    """
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine or not text.isprintable():
        raise UrlError(f"endpoint is {text!r}", hint="http://HOST[:PORT] or https://HOST[:PORT]")
    return text.rstrip("/")


@dataclass(frozen=True, slots=True)
class Options:
    """Configuration keys and the query of a URL, read together.

    A key is named as in the configuration file, a parameter by its spellings in a URL; the first non-empty one
    wins. Configuration keys beat the URL.
    """

    keys: Mapping[str, str]
    query: Mapping[str, str]

    def text(self, key: str, *spellings: str) -> str:
        """The value, or an empty string."""
        return self.keys.get(key, "") or self.asked(*spellings)

    def asked(self, *spellings: str) -> str:
        """The value in the URL alone, or an empty string."""
        return next((self.query[name] for name in spellings if self.query.get(name)), "")

    def boolean(self, key: str, *spellings: str) -> bool | None:
        """The value, or ``None`` when it is set nowhere.

        A word that is neither true nor false is an error in a configuration file, and false in a URL, as it is
        for Litestream; there it is warned of.
        """
        if self.keys.get(key):
            return parse_boolean(self.keys[key], key)
        asked = self.asked(*spellings)
        if not asked:
            return None
        if asked.lower() not in _TRUE | _FALSE:
            log.warning("%s=%s in the replica URL is neither true nor false: taken as false", spellings[0], asked)
        return asked.lower() in _TRUE

    def integer(self, key: str, *spellings: str, default: int) -> int:
        """A positive whole number.

        Raises:
            UrlError: anything else.
        """
        found = self.text(key, *spellings)
        if not found:
            return default
        if not re.fullmatch(r"[0-9]+", found) or int(found) == 0:
            raise UrlError(f"{key or spellings[0]} is {found!r}", hint="a whole number of at least 1")
        return int(found)
