"""What compaction, snapshots and retention need of a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from vfsstream.ltx.header import Header
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.replica.replica import Replica

__all__ = ["Maintained"]


class Maintained(Protocol):
    """A database under maintenance."""

    @property
    def path(self) -> Path: ...
    @property
    def replica(self) -> Replica: ...
    @property
    def own_folder(self) -> Path | None: ...
    @property
    def replica_position(self) -> TXID | None: ...
    @property
    def needs_snapshot(self) -> bool: ...
    @property
    def listing(self) -> Mapping[int, Sequence[FileInfo]] | None: ...
    def local_file(self, txid: int) -> Path | None: ...
    def forget_local(self, max_txid: int) -> None: ...
    def snapshot_written(self, txid: TXID) -> None: ...
    def compare_again(self) -> None: ...
    def snapshot_pages(
        self,
    ) -> AbstractContextManager[tuple[Header, Iterator[tuple[int, bytes | memoryview]]]]: ...
