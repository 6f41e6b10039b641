"""The description of one LTX file that every plan works on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from vfsstream.ltx.names import TXID, format_name

__all__ = ["FileInfo"]


@dataclass(frozen=True, slots=True, order=True)
class FileInfo:
    """One LTX file of a replica, as its listing shows it. Sorts by (min_txid, max_txid, level).

    Attributes:
        min_txid: first TXID covered.
        max_txid: last TXID covered.
        level: 0 to 9.
        size: bytes.
        created_at: aware UTC time of the last transaction in it (header timestamp) when known exactly,
            else the store's time; see ``exact_time``.
        exact_time: ``True`` when ``created_at`` is the LTX header's timestamp.
    """

    min_txid: TXID
    max_txid: TXID
    level: int
    size: int
    created_at: datetime | None = None
    exact_time: bool = False

    @property
    def name(self) -> str:
        """File name without directory."""
        return format_name(self.min_txid, self.max_txid)

    @property
    def is_snapshot(self) -> bool:
        """A file that starts at TXID 1 holds the whole database, at whatever level."""
        return self.min_txid == 1

    def __str__(self) -> str:
        return f"L{self.level}/{self.name}"
