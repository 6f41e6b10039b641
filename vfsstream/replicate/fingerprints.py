"""One checksum per page of the state that the newest local file describes.

With it a database whose changes cannot be proven from the log is compared page by page, and only what differs is
written. Kept as a base file (8 bytes per page) and a journal of changes; nothing of it stays in memory.
"""

from __future__ import annotations

import contextlib
import struct
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vfsstream.ltx.checksum import crc64
from vfsstream.replicate.localfiles import disk_errors
from vfsstream.stores.smallfile import replace_file

if TYPE_CHECKING:
    import numpy as np

    Sums = np.ndarray[tuple[int], np.dtype[np.uint64]]

PagesOf = Callable[[int], tuple[int, Iterable[tuple[int, bytes]]] | None]

__all__ = ["Changes", "Fingerprints"]

_BASE = struct.Struct("<8sQQQ")
_RECORD = struct.Struct("<4sIQQQ")
_MAGIC, _RECORD_MAGIC = b"VFSPAGE1", b"VFSR"
_LEAST_JOURNAL = 1 << 20


class Changes:
    """The pages of one file and their checksums, in the order in which they were written."""

    def __init__(self) -> None:
        self.pgnos, self.sums = array("I"), array("Q")

    def add(self, pgno: int, page: bytes | memoryview) -> None:
        """Note a page."""
        self.pgnos.append(pgno)
        self.sums.append(crc64(page))


class Fingerprints:
    """The files in a meta directory's own folder."""

    def __init__(self, directory: Path) -> None:
        self.base, self.journal = directory / "pages.base", directory / "pages.journal"

    def record(self, txid: int, commit: int, changes: Changes, *, full: bool) -> None:
        """The file of ``txid`` was published with these pages."""
        body = changes.pgnos.tobytes() + changes.sums.tobytes()
        count = len(changes.pgnos)
        head = _RECORD.pack(_RECORD_MAGIC, count, txid, commit, _sum(body, count, txid, commit))
        with disk_errors("write", self.journal, txid):
            if full and count:
                self._write_base(txid, commit, changes)
                return
            with open(self.journal, "ab") as file:
                file.write(head + body)
                size = file.tell()
        if size > _LEAST_JOURNAL and size > 2 * self._base_size():
            self.fold(txid)

    def _write_base(self, txid: int, commit: int, changes: Changes) -> None:
        import numpy as np

        sums = np.zeros(commit, np.uint64)
        sums[np.frombuffer(changes.pgnos, np.uint32).astype(np.int64) - 1] = np.frombuffer(changes.sums, np.uint64)
        self._save(txid, sums)

    def _save(self, txid: int, sums: Sums) -> None:
        body = sums.tobytes()
        replace_file(self.base, _BASE.pack(_MAGIC, txid, len(sums), _sum(body, txid, len(sums))) + body)
        self.journal.write_bytes(b"")

    def fold(self, txid: int) -> None:
        """Make the journal part of the base."""
        sums = self.load(txid)
        if sums is not None:
            with disk_errors("write", self.base, txid):
                self._save(txid, sums)

    def load(self, txid: int, pages_of: PagesOf | None = None) -> Sums | None:
        """The checksums of the state at ``txid`` (page 1 first), or ``None`` when they are not known.

        Args:
            pages_of: ``(commit, pages)`` of a local file, for TXIDs that the journal does not have.
        """
        import numpy as np

        found = self._load_base()
        if found is None or found[0] > txid:
            return None
        at, sums = found
        for at_next, commit, pgnos, page_sums in self._records(at):
            if at_next > txid:
                break
            sums, at = _apply(sums, commit, pgnos, page_sums), at_next
        while at < txid and pages_of is not None:
            following = pages_of(at + 1)
            if following is None:
                return None
            commit, pages = following
            changes = Changes()
            for pgno, page in pages:
                changes.add(pgno, page)
            pgnos, page_sums = np.frombuffer(changes.pgnos, np.uint32), np.frombuffer(changes.sums, np.uint64)
            sums, at = _apply(sums, commit, pgnos, page_sums), at + 1
        return sums if at == txid else None

    def forget(self) -> None:
        """Delete both files."""
        with disk_errors("delete", self.base):
            self.base.unlink(missing_ok=True)
            self.journal.unlink(missing_ok=True)

    def _base_size(self) -> int:
        with contextlib.suppress(OSError):
            return self.base.stat().st_size
        return 0

    def _load_base(self) -> tuple[int, Sums] | None:
        import numpy as np

        with contextlib.suppress(OSError, struct.error):
            data = self.base.read_bytes()
            magic, txid, count, total = _BASE.unpack_from(data)
            body = memoryview(data)[_BASE.size :]
            if magic == _MAGIC and len(body) == 8 * count and _sum(body, txid, count) == total:
                return txid, np.frombuffer(body, np.uint64).copy()
        return None

    def _records(self, after: int) -> Iterable[tuple[int, int, Sums, Sums]]:
        import numpy as np

        with contextlib.suppress(OSError, struct.error):
            data = self.journal.read_bytes()
            offset = 0
            while offset < len(data):
                magic, count, txid, commit, total = _RECORD.unpack_from(data, offset)
                body = memoryview(data)[offset + _RECORD.size : offset + _RECORD.size + 12 * count]
                if magic != _RECORD_MAGIC or len(body) != 12 * count or _sum(body, count, txid, commit) != total:
                    return
                offset += _RECORD.size + 12 * count
                if txid <= after:
                    continue
                if txid != after + 1:
                    return
                after = txid
                yield (
                    txid,
                    commit,
                    np.frombuffer(body[: 4 * count], np.uint32),
                    np.frombuffer(body[4 * count :], np.uint64),
                )


def _sum(body: bytes | memoryview, *numbers: int) -> int:
    return crc64(body, crc64(struct.pack(f"<{len(numbers)}Q", *numbers)))


def _apply(sums: Sums, commit: int, pgnos: Sums, page_sums: Sums) -> Sums:
    import numpy as np

    grown = np.zeros(commit, np.uint64)
    grown[: min(commit, len(sums))] = sums[:commit]
    grown[pgnos.astype(np.int64) - 1] = page_sums
    return grown
