"""Reading headers and page indexes of many LTX files in one round trip.

A small file is read whole. Of a larger one the head and a tail are read side by side; the tail is guessed long
enough for the page index, and only a wrong guess costs another request.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vfsstream.errors import LtxError, StoreError
from vfsstream.ltx import HEADER_SIZE, Header, PageIndex, index_start
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica
from vfsstream.replica.parallel import side_by_side

__all__ = ["IndexStore", "LoadedFile", "known_file", "load_file", "load_whole", "read_plan_files", "yield_now"]

WHOLE = 256 * 1024
"""Files up to this size are read whole: one request instead of two, and their pages come along."""

HEAD = 65536
MIN_TAIL = 32768
WORKERS = 32


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """An LTX file whose header and page index are known.

    Attributes:
        data: the whole file when it is small, else ``None``.
        head: the first bytes of the file.
    """

    info: FileInfo
    header: Header
    index: PageIndex
    data: bytes | None
    head: bytes


class IndexStore(Protocol):
    """Keeps headers and page indexes for the next process."""

    def load(self, info: FileInfo) -> tuple[bytes, bytes] | None:
        """``(header, the bytes from the index to the end of the file)``, or ``None``."""

    def save(self, info: FileInfo, head: bytes, tail: bytes) -> None:
        """Keep them."""


def yield_now() -> None:
    """Let other threads run: long work of ours must not hold the interpreter for more than a millisecond."""
    time.sleep(0)


def load_whole(replica: Replica, info: FileInfo, data: bytes) -> LoadedFile:
    """The file out of its complete bytes."""
    name = replica.key(info)
    header = Header.unpack(data[:HEADER_SIZE], name=name)
    start = index_start(data[-24:], len(data), name=name)
    return LoadedFile(
        info, header, PageIndex.decode(memoryview(data)[start:], header, len(data), name, yield_now), data, data
    )


def load_file(replica: Replica, info: FileInfo) -> LoadedFile:
    """Header and index of one file.

    Raises:
        NotFound: the file is gone.
        LtxError: it breaks a rule of the format.
        StoreError: the transport failed.
    """
    return read_plan_files(replica, [info])[0]


def read_plan_files(
    replica: Replica,
    infos: Sequence[FileInfo],
    index_cache: IndexStore | None = None,
) -> list[LoadedFile]:
    """Headers and indexes of several files, read in parallel, in the order of ``infos``.

    Args:
        index_cache: where indexes of earlier processes are.

    Raises:
        NotFound: a file is gone: list again.
        LtxError: a file breaks a rule of the format.
        StoreError: the transport failed.
    """
    known: dict[FileInfo, LoadedFile] = {}
    if index_cache is not None:
        found = ((info, known_file(index_cache, info, replica.key(info))) for info in infos)
        known = {info: file for info, file in found if file is not None}
    missing = [info for info in infos if info not in known]
    known.update(_read(replica, missing, index_cache))
    return [known[info] for info in infos]


def _read(
    replica: Replica, infos: Sequence[FileInfo], index_cache: IndexStore | None
) -> dict[FileInfo, LoadedFile]:
    """All heads and tails in one round, then what a tail was too short for."""
    wanted = [(info, offset) for info in infos for offset in ((0,) if info.size <= WHOLE else (0, -_tail(info)))]

    def fetch(part: tuple[FileInfo, int]) -> bytes:
        info, offset = part
        size = None if offset else min(HEAD, info.size) if info.size > WHOLE else None
        data = replica.fetch(info, offset, size).data
        due = -offset or size or info.size
        if len(data) != due:
            raise StoreError(
                f"{replica.key(info)}: {len(data)} bytes of {due}: cut short, or another size than listed"
            )
        return data

    parts = iter(side_by_side(fetch, wanted, WORKERS, "open"))
    loaded = {}
    for info in infos:
        head, end = next(parts), next(parts) if info.size > WHOLE else None
        try:
            loaded[info], tail = _understood(replica, info, head, end)
        except LtxError:  # a wrong answer looks like a damaged file, which is the same at the second look
            head, end = fetch((info, 0)), None if end is None else fetch((info, -len(end)))
            loaded[info], tail = _understood(replica, info, head, end)
        if index_cache is not None:
            index_cache.save(info, head[:HEADER_SIZE], tail)
    return loaded


def _understood(replica: Replica, info: FileInfo, head: bytes, end: bytes | None) -> tuple[LoadedFile, bytes]:
    """A file, and its bytes from the index on, out of its beginning and its end (``None``: the beginning is all)."""
    if end is None:
        return load_whole(replica, info, head), head[index_start(head[-24:], info.size) :]
    tail = _whole_index(replica, info, end)
    return _assemble(replica.key(info), info, head, tail), tail


def _tail(info: FileInfo) -> int:
    """Bytes that hold the index of nearly every file: 0.2 % of it for pages of 4 KiB, less for larger ones."""
    return min(info.size, max(MIN_TAIL, info.size // 250))


def _whole_index(replica: Replica, info: FileInfo, tail: bytes) -> bytes:
    """The bytes from the index to the end of the file."""
    start = index_start(tail[-24:], info.size, name=replica.key(info))
    have = info.size - len(tail)
    if start < have:
        return replica.fetch(info, start, have - start).data + tail
    return tail[start - have :]


def _assemble(name: str, info: FileInfo, head: bytes, tail: bytes) -> LoadedFile:
    header = Header.unpack(head[:HEADER_SIZE], name=name)
    return LoadedFile(info, header, PageIndex.decode(tail, header, info.size, name, yield_now), None, head)


def known_file(index_cache: IndexStore, info: FileInfo, name: str | None = None) -> LoadedFile | None:
    """A file whose header and index an earlier process read, without any request."""
    kept = index_cache.load(info)
    if kept is None:
        return None
    try:
        return _assemble(name or info.name, info, *kept)
    except LtxError:
        return None
