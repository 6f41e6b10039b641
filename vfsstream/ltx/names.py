"""Transaction identifiers, LTX file names and the lock page: the small vocabulary of the format."""

from __future__ import annotations

import re

from vfsstream.errors import UsageError

__all__ = [
    "LEVELS",
    "PAGE_SIZES",
    "SNAPSHOT_LEVEL",
    "TXID",
    "format_name",
    "lock_pgno",
    "parse_name",
]

PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
"""The page sizes of SQLite, in bytes."""

SNAPSHOT_LEVEL = 9
"""The level that holds full images of the database."""

LEVELS = range(SNAPSHOT_LEVEL + 1)
"""Every level of a replica: 0 raw, 1 to 8 compacted, 9 snapshots."""

_PENDING_BYTE = 0x40000000  # https://sqlite.org/fileformat2.html#lockbyte
_TXID_TEXT = re.compile(r"[0-9a-fA-F]{16}")
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.ltx")


class TXID(int):
    """A transaction identifier: unsigned 64 bits, 1 is the first, 0 means none. Prints as 16 hex digits."""

    __slots__ = ()

    def __new__(cls, value: int = 0) -> TXID:
        if not 0 <= value < 1 << 64:
            raise UsageError(f"TXID out of range: {int(value)}")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> TXID:
        """Read exactly 16 hex digits of either case.

        Raises:
            UsageError: anything else, ``0x`` and blanks included.
        """
        if not _TXID_TEXT.fullmatch(text):
            raise UsageError(f"invalid TXID {text!r}", hint="expected exactly 16 hex digits")
        return cls(int(text, 16))

    def __str__(self) -> str:
        return f"{int(self):016x}"

    def __repr__(self) -> str:
        return f"TXID({int(self):#x})"

    def __format__(self, spec: str) -> str:
        return format(int(self), spec) if spec else str(self)

    def next(self) -> TXID:
        """The TXID after this one."""
        return TXID(self + 1)


def format_name(min_txid: int, max_txid: int) -> str:
    """The file name of the TXID range, as ``0000000000000001-000000000000000a.ltx``."""
    return "%016x-%016x.ltx" % (min_txid, max_txid)  # noqa: UP031 - an f-string asks TXID in Python: five times slower


def parse_name(name: str) -> tuple[TXID, TXID] | None:
    """The TXID range that a file name states, or ``None`` when it is not the name of an LTX file.

    Upper case, foreign names and ranges that run backwards or start at 0 are not LTX files.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    low, high = int(match[1], 16), int(match[2], 16)
    return (TXID(low), TXID(high)) if 0 < low <= high else None


def lock_pgno(page_size: int) -> int:
    """The page that holds SQLite's lock bytes: counted in commit, never stored in a file."""
    return _PENDING_BYTE // page_size + 1
