"""The first hundred bytes of an LTX file."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vfsstream.errors import LtxError
from vfsstream.ltx.checksum import FLAG
from vfsstream.ltx.names import PAGE_SIZES, TXID, lock_pgno

__all__ = ["HEADER_SIZE", "NO_CHECKSUM", "Header"]

HEADER_SIZE = 100
"""Bytes of the header; the first page frame follows directly."""

NO_CHECKSUM = 2
"""Header flag: database checksums are not tracked, both are zero. Set in every file that Litestream writes."""

_MAGIC = b"LTX1"
_LAYOUT = struct.Struct(">4sIIIQQqQqqIIQ20s")


@dataclass(frozen=True, slots=True)
class Header:
    """What an LTX file says about itself before its first page.

    Attributes:
        page_size: bytes, 512 to 65536.
        commit: size of the database in pages once this file is applied.
        min_txid: first TXID covered.
        max_txid: last TXID covered.
        timestamp: milliseconds since 1970-01-01 UTC.
        wal_offset: where in the source WAL the copied frames began; 0 outside level 0 and snapshots.
        wal_size: bytes of the WAL covered.
        wal_salt1: of the source WAL.
        wal_salt2: of the source WAL.
        flags: 0 or ``NO_CHECKSUM``.
        pre_apply_checksum: database checksum before this file, 0 when not tracked or a snapshot.
        node_id: 0 in every file that Litestream writes.
    """

    page_size: int
    commit: int
    min_txid: TXID
    max_txid: TXID
    timestamp: int
    wal_offset: int = 0
    wal_size: int = 0
    wal_salt1: int = 0
    wal_salt2: int = 0
    flags: int = NO_CHECKSUM
    pre_apply_checksum: int = 0
    node_id: int = 0

    @property
    def is_snapshot(self) -> bool:
        """A file that starts at TXID 1 holds every page of the database, at whatever level it lies."""
        return self.min_txid == 1

    @property
    def tracks_checksums(self) -> bool:
        """The database checksums before and after are stored."""
        return not self.flags & NO_CHECKSUM

    @property
    def lock_pgno(self) -> int:
        """The page that is counted in ``commit`` and never stored."""
        return lock_pgno(self.page_size)

    def pack(self) -> bytes:
        """The header as stored.

        Raises:
            LtxError: a field breaks a rule of the format.
        """
        self.validate()
        return _LAYOUT.pack(
            _MAGIC,
            self.flags,
            self.page_size,
            self.commit,
            self.min_txid,
            self.max_txid,
            self.timestamp,
            self.pre_apply_checksum,
            self.wal_offset,
            self.wal_size,
            self.wal_salt1,
            self.wal_salt2,
            self.node_id,
            b"",
        )

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, name: str | None = None) -> Header:
        """Read and check a header.

        Args:
            data: at least the first 100 bytes of the file.
            name: key or path of the file, for messages.

        Raises:
            LtxError: too short, another magic, or a field that breaks a rule.
        """
        if len(data) < HEADER_SIZE:
            raise LtxError(
                f"LTX header truncated: {len(data)} of {HEADER_SIZE} bytes", name=name, offset=len(data)
            )
        fields = _LAYOUT.unpack_from(data)
        magic, flags, page_size, commit, low, high, timestamp, pre, offset, size, salt1, salt2, node, _ = fields
        if magic != _MAGIC:
            raise LtxError(f"not an LTX file: it begins with {magic!r}, expected {_MAGIC!r}", name=name, offset=0)
        header = cls(
            page_size, commit, TXID(low), TXID(high), timestamp, offset, size, salt1, salt2, flags, pre, node
        )
        header.validate(name)
        return header

    def validate(self, name: str | None = None) -> None:
        """Check every rule of the format that concerns the header alone.

        Raises:
            LtxError: the first rule broken, with the offset of the field.
        """
        plain = (
            self.page_size in PAGE_SIZES and 0 < self.min_txid <= self.max_txid and not self.flags & ~NO_CHECKSUM
        )
        if not plain or self.wal_offset <= 0 or self.wal_size < 0:
            self._judge(name)
        self._validate_checksum(name)

    def _judge(self, name: str | None) -> None:
        for broken, message, offset in (
            (self.flags & ~NO_CHECKSUM, f"unknown header flags {self.flags:#x}", 4),
            (self.page_size not in PAGE_SIZES, f"invalid page size {self.page_size}", 8),
            (self.min_txid == 0, "first TXID is 0", 16),
            (self.max_txid == 0, "last TXID is 0", 24),
            (self.min_txid > self.max_txid, f"TXIDs run backwards: {self.min_txid} to {self.max_txid}", 16),
            (self.wal_offset < 0, f"negative WAL offset {self.wal_offset}", 48),
            (self.wal_size < 0, f"negative WAL size {self.wal_size}", 56),
            ((self.wal_salt1 or self.wal_salt2) and not self.wal_offset, "WAL salt without WAL offset", 64),
            (self.wal_size and not self.wal_offset, "WAL size without WAL offset", 56),
        ):
            if broken:
                raise LtxError(message, name=name, offset=offset)

    def check_span(self, min_txid: int, max_txid: int, name: str | None = None) -> None:
        """Check that the file is the one that its name promises.

        Args:
            min_txid: first TXID in the file's name.
            max_txid: last TXID in the file's name.
            name: key or path of the file, for messages.

        Raises:
            LtxError: the header states other TXIDs.
        """
        if (self.min_txid, self.max_txid) != (min_txid, max_txid):
            stated, named = f"{self.min_txid} to {self.max_txid}", f"{TXID(min_txid)} to {TXID(max_txid)}"
            raise LtxError(f"the header states TXIDs {stated}, the name {named}", name=name, offset=16)

    def _validate_checksum(self, name: str | None) -> None:
        pre = self.pre_apply_checksum
        if self.is_snapshot and pre:
            raise LtxError("a snapshot states a database checksum before it", name=name, offset=40)
        if not self.tracks_checksums and pre:
            raise LtxError("a database checksum in a file that tracks none", name=name, offset=40)
        if self.tracks_checksums and not self.is_snapshot and not pre & FLAG:
            raise LtxError(f"invalid database checksum before the file: {pre:016x}", name=name, offset=40)
