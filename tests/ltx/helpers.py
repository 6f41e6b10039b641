"""Small LTX files for tests, and an independent CRC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from vfsstream.ltx import TXID, Header, encode

BASE = Header(512, 3, TXID(1), TXID(1), 1_700_000_000_000)


def header(**fields: Any) -> Header:
    """A valid header of a snapshot of three pages of 512 bytes, with some fields changed."""
    return replace(BASE, **fields)


def page(seed: int, size: int = 512) -> bytes:
    """A page that LZ4 can compress a little."""
    return (f"page {seed} of a test database; ".encode() * size)[: size - 1] + bytes([seed % 256])


def make(pages: Iterable[int] = (1, 2, 3), *, legacy: bool = False, seed: int = 0, **fields: Any) -> bytes:
    """A whole file that holds these pages."""
    head = header(**fields)
    contents = ((pgno, page(pgno + seed, head.page_size)) for pgno in pages)
    return b"".join(encode(head, contents, legacy=legacy))


def slow_crc64(data: bytes, initial: int = 0) -> int:
    """CRC-64/GO-ISO bit by bit: the oracle."""
    crc = initial ^ (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xD800000000000000 if crc & 1 else 0)
    return crc ^ (1 << 64) - 1
