"""Where a replica's files lie in a store: both families of keys, written once."""

from __future__ import annotations

from vfsstream.ltx.names import TXID, format_name, parse_name

__all__ = ["Layout", "layout_for"]

_FLAT_HEX_KINDS = frozenset({"s3", "oss"})


class Layout:
    """The keys of LTX files.

    Args:
        flat_hex: ``True``: ``0000/NAME`` (S3 and OSS); ``False``: ``ltx/0/NAME`` (all others).
    """

    def __init__(self, *, flat_hex: bool) -> None:
        self.flat_hex = flat_hex

    def level_prefix(self, level: int) -> str:
        """The directory of a level, with its slash."""
        return f"{level:04x}/" if self.flat_hex else f"ltx/{level}/"

    def key(self, level: int, min_txid: int, max_txid: int) -> str:
        """The key of one file."""
        return self.level_prefix(level) + format_name(min_txid, max_txid)

    def start_after(self, level: int, start: int) -> str | None:
        """A key that sorts directly before every file of ``min_txid >= start``."""
        if start <= 1:
            return None
        return f"{self.level_prefix(level)}{start - 1:016x}-~"

    def parse(self, key: str) -> tuple[TXID, TXID] | None:
        """The TXID range of a key, or ``None`` for a foreign object."""
        return parse_name(key.rpartition("/")[2])


def layout_for(kind: str) -> Layout:
    """The layout that Litestream uses on this kind of store."""
    return Layout(flat_hex=kind in _FLAT_HEX_KINDS)
