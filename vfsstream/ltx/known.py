"""Files whose pages were verified before and whose checksums were remembered: no page is decompressed again.

That the stored bytes still are those that were verified is shown by a checksum over them, which costs a tenth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from vfsstream.ltx.header import Header

__all__ = ["Known"]

_CHUNK = 256 << 10


@dataclass(frozen=True, slots=True)
class Known:
    """A file in today's encoding, and what is remembered of it.

    Attributes:
        header: of the file.
        size: bytes of the file.
        checksum: CRC-64 of the file's bytes as stored.
        read: gives the next so many bytes of the file, from its beginning on; fewer at its end.
        records: what :meth:`vfsstream.ltx.rows.Rows.records` made of all its pages, cut between records; raises
            :class:`LtxError` at its end when these are not the bytes that were kept.
    """

    header: Header
    size: int
    checksum: int
    read: Callable[[int], bytes]
    records: Iterable[bytes]

    def chunks(self) -> Iterator[bytes]:
        """The file, for whoever does without what is remembered."""
        while data := self.read(_CHUNK):
            yield data
