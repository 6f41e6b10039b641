"""The files that led to the last view, written down for a process that starts when the store cannot be asked."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from vfsstream.errors import LtxError
from vfsstream.ltx import HEADER_SIZE, index_start
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.stores.smallfile import replace_file
from vfsstream.vfs.indexcache import IndexCache
from vfsstream.vfs.opening import LoadedFile, known_file, yield_now
from vfsstream.vfs.pagemap import Incoming, kept_versions
from vfsstream.vfs.view import View

__all__ = ["KeptPlan", "by_level"]

MOST = 1000
"""Transactions written down after the plan of the last open; later ones must be looked for."""
EVERY = 5.0
"""Seconds between two writings."""


class KeptPlan:
    """The plan of one replica in its cache directory.

    Args:
        indexes: where the page indexes of its files are kept.
    """

    def __init__(self, indexes: IndexCache) -> None:
        self.indexes = indexes
        self._path: Path = indexes.directory / "plan.json"
        self._files: list[FileInfo] = []
        self._txid = 0
        self._transactions = 0
        self._written = 0.0

    def load(self) -> tuple[list[LoadedFile], float] | None:
        """The files of the last view, and how many seconds ago that was; ``None`` when anything is missing."""
        try:
            found = json.loads(self._path.read_text())
            infos, age = [_parse(row) for row in found["files"]], time.time() - float(found["as_of"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        loaded = [known_file(self.indexes, info) for info in infos]
        if not loaded or any(file is None for file in loaded):
            return None
        return [file for file in loaded if file is not None], max(0.0, age)

    def begin(self, files: Sequence[LoadedFile], view: View, age: float = 0.0) -> None:
        """A view was opened that was the newest ``age`` seconds ago: its indexes are kept already."""
        self._files = [file.info for file in files]
        self._txid, self._transactions = view.txid, 0
        self.write(age)

    def follow(self, loaded: LoadedFile, view: View) -> None:
        """One more file was applied."""
        newer = view.txid > self._txid
        connects = loaded.info.min_txid <= self._txid + 1
        if not newer or not connects or self._transactions >= MOST or loaded.data is None:
            return
        with contextlib.suppress(LtxError):
            data = loaded.data
            self.indexes.save(loaded.info, data[:HEADER_SIZE], data[index_start(data[-24:], len(data)) :])
            self._files.append(loaded.info)
            self._txid, self._transactions = view.txid, self._transactions + 1
        if time.monotonic() > self._written + EVERY:
            self.write()

    def repointed(self, loaded: LoadedFile, view: View) -> None:
        """A compacted file was found to hold page images that were known by other files before."""
        versions = kept_versions(view, Incoming(loaded.info, loaded.header, loaded.index), yield_now)
        if versions is not None:
            self.indexes.save_versions(loaded.info, versions)

    def write(self, age: float = 0.0) -> None:
        """Write down what was the newest ``age`` seconds ago."""
        self._written = time.monotonic()
        plan = {"as_of": time.time() - age, "files": [_row(info) for info in self._files]}
        with contextlib.suppress(OSError):
            replace_file(self._path, json.dumps(plan).encode(), shared=True)

    def close(self, age: float) -> None:
        """The last word; indexes that nobody needs any more are removed."""
        if self._files:
            self.write(age)
            self.indexes.prune(self._files)


def _row(info: FileInfo) -> list[object]:
    created = info.created_at.isoformat() if info.created_at is not None else None
    return [info.min_txid, info.max_txid, info.level, info.size, created, info.exact_time]


def _parse(row: Sequence[object]) -> FileInfo:
    low, high, level, size, created, exact = row
    if not all(isinstance(number, int) for number in (low, high, level, size)):
        raise ValueError(f"not a file: {row}")
    when = datetime.fromisoformat(str(created)) if created is not None else None
    return FileInfo(TXID(low), TXID(high), int(level), int(size), when, bool(exact))  # type: ignore[call-overload, arg-type]


def by_level(infos: Iterable[FileInfo]) -> dict[int, list[FileInfo]]:
    """The shape of a listing."""
    found: dict[int, list[FileInfo]] = {}
    for info in infos:
        found.setdefault(info.level, []).append(info)
    return found
