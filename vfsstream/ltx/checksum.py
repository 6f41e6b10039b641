"""CRC-64/GO-ISO and the checksums that LTX builds from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastcrc import crc64 as _crc64

if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview

__all__ = ["FLAG", "crc64", "page_checksum", "rolling_checksum"]

FLAG = 1 << 63
"""Bit 63: set in every checksum that is present."""

crc64 = _crc64.go_iso
"""``crc64(data, initial=0)``: CRC-64/GO-ISO; ``initial`` is the finished CRC of what came before."""

if crc64(b"123456789") != 0xB90956C775A41001:  # pragma: no cover - a broken build of the dependency
    raise ImportError("fastcrc computes a wrong CRC-64/GO-ISO; reinstall fastcrc >= 0.5")


def page_checksum(pgno: int, page: Buffer) -> int:
    """The checksum of one page, page number included."""
    return FLAG | crc64(page, crc64(pgno.to_bytes(4, "big")))


def rolling_checksum(checksum: int, page_sum: int) -> int:
    """Add a page to a database checksum, or take it out again: the operation is its own inverse."""
    return FLAG | (checksum ^ page_sum)
