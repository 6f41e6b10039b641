"""Reading headers and page indexes of many LTX files at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vfsstream.ltx import HEADER_SIZE, Header, PageIndex, index_start
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica

__all__ = ["LoadedFile", "load_file", "read_plan_files"]

WHOLE = 256 * 1024
"""Files up to this size are read whole: one request instead of two, and their pages come along."""

HEAD = 65536
MIN_TAIL = 32768


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


def load_whole(replica: Replica, info: FileInfo, data: bytes) -> LoadedFile:
    """The file out of its complete bytes."""
    name = replica.key(info)
    header = Header.unpack(data[:HEADER_SIZE], name=name)
    start = index_start(data[-24:], len(data), name=name)
    return LoadedFile(info, header, PageIndex.decode(data[start:], header, len(data), name=name), data, data)


def load_file(replica: Replica, info: FileInfo) -> LoadedFile:
    """Header and index of one file.

    Raises:
        NotFound: the file is gone.
        LtxError: it breaks a rule of the format.
        StoreError: the transport failed.
    """
    if info.size <= WHOLE:
        return load_whole(replica, info, replica.fetch(info).data)
    name = replica.key(info)
    head = replica.fetch(info, 0, HEAD).data
    tail = replica.fetch(info, -max(MIN_TAIL, info.size // 250)).data
    start = index_start(tail[-24:], info.size, name=name)
    missing = info.size - len(tail) - start
    if missing > 0:
        tail = replica.fetch(info, start, missing).data + tail
    header = Header.unpack(head[:HEADER_SIZE], name=name)
    index = PageIndex.decode(tail[len(tail) - (info.size - start) :], header, info.size, name=name)
    return LoadedFile(info, header, index, None, head)


def read_plan_files(
    replica: Replica, infos: Sequence[FileInfo], pool: ThreadPoolExecutor | None = None, index_cache: Any = None
) -> list[LoadedFile]:
    """Headers and indexes of several files, read in parallel, in the order of ``infos``.

    Raises:
        NotFound: a file is gone: list again.
        LtxError: a file breaks a rule of the format.
        StoreError: the transport failed.
    """
    if len(infos) == 1:
        return [load_file(replica, infos[0])]
    if pool is not None:
        return list(pool.map(lambda info: load_file(replica, info), infos))
    with ThreadPoolExecutor(min(len(infos), 16), thread_name_prefix="vfsstream-open") as own:
        return list(own.map(lambda info: load_file(replica, info), infos))
