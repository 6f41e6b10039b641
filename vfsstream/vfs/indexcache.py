"""Headers and page indexes of LTX files on disk: files never change, so the next process need not ask for them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastcrc.crc64 import go_iso

from vfsstream.ltx import HEADER_SIZE
from vfsstream.plan.files import FileInfo
from vfsstream.stores.smallfile import replace_file
from vfsstream.vfs.diskcache import identity

if TYPE_CHECKING:
    import numpy

__all__ = ["IndexCache"]

KEEP = 7 * 24 * 3600.0
"""Seconds after which an index that no plan uses any more is removed."""
MOST = 8192
"""Indexes kept at most."""


class IndexCache:
    """One small file per LTX file, written under a temporary name, with a checksum.

    A file that cannot be read or does not match counts as absent; one that cannot be written is not kept.

    Args:
        directory: of the replica; a subdirectory is made in it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "index"
        with contextlib.suppress(OSError):
            self.directory.mkdir(exist_ok=True)

    def _path(self, info: FileInfo) -> Path:
        return self.directory / hashlib.sha256(identity(info).encode()).hexdigest()[:32]

    def load(self, info: FileInfo) -> tuple[bytes, bytes] | None:
        """``(header, the bytes from the index to the end of the file)``, or ``None``."""
        try:
            data = self._path(info).read_bytes()
        except OSError:
            return None
        body = data[:-8]
        if len(body) < HEADER_SIZE or go_iso(body) != int.from_bytes(data[-8:], "big"):
            return None
        return body[:HEADER_SIZE], body[HEADER_SIZE:]

    def versions(self, info: FileInfo, count: int) -> numpy.ndarray[Any, Any] | None:
        """The versions of the ``count`` pages of a file, in the order of its index, where they are known."""
        import numpy

        try:
            data = self._versions_path(info).read_bytes()
        except OSError:
            return None
        body = data[:-8]
        if len(body) != 8 * count or go_iso(body) != int.from_bytes(data[-8:], "big"):
            return None
        return numpy.frombuffer(body, "<u8")

    def save_versions(self, info: FileInfo, versions: numpy.ndarray[Any, Any]) -> None:
        """Keep the versions of the pages of a file that holds page images known before."""
        body = versions.astype("<u8").tobytes()
        with contextlib.suppress(OSError):
            data = body + int(go_iso(body)).to_bytes(8, "big")
            replace_file(self._versions_path(info), data, shared=True)

    def _versions_path(self, info: FileInfo) -> Path:
        return self._path(info).with_suffix(".versions")

    def save(self, info: FileInfo, head: bytes, tail: bytes) -> None:
        """Keep the header and the index of a file."""
        body = head + tail
        with contextlib.suppress(OSError):
            replace_file(self._path(info), body + int(go_iso(body)).to_bytes(8, "big"), shared=True)

    def prune(self, used: Iterable[FileInfo]) -> None:
        """Remove what has not been used for a week, and the oldest of too many; what is used now counts as used."""
        for info in used:
            for path in (self._path(info), self._versions_path(info)):
                with contextlib.suppress(OSError):
                    os.utime(path)
        ages: list[tuple[float, Path]] = []
        with contextlib.suppress(OSError):
            for path in self.directory.iterdir():
                with contextlib.suppress(OSError):
                    ages.append((path.stat().st_mtime, path))
        ages.sort(reverse=True)
        limit = time.time() - KEEP
        for number, (age, path) in enumerate(ages):
            if age < limit or number >= MOST:
                with contextlib.suppress(OSError):
                    path.unlink()
