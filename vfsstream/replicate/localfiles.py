"""The meta directory of a database: local level-0 files, temporary files and the lock against a second instance."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vfsstream.errors import DatabaseError, DiskFull, LtxError, VfsstreamError
from vfsstream.ltx.names import TXID, format_name, parse_name
from vfsstream.plan.files import FileInfo
from vfsstream.stores.file import sync_directory
from vfsstream.stores.writeback import WriteBehind

if TYPE_CHECKING:
    from vfsstream.ltx import Header

__all__ = ["LocalFiles", "disk_errors", "meta_path_for"]

_TEMP = ".tmp"
_DAMAGED = ".damaged"
_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


def meta_path_for(database: str | os.PathLike[str]) -> Path:
    """The meta directory that Litestream uses for a database: ``.NAME-litestream`` beside it."""
    path = Path(database)
    return path.with_name(f".{path.name}-litestream")


@contextlib.contextmanager
def disk_errors(step: str, path: Path, txid: int | None = None) -> Iterator[None]:
    """Turn an OSError into one line that names the step, the path and the TXID.

    Raises:
        DiskFull: no space or quota left.
        DatabaseError: any other failure of a local file.
    """
    try:
        yield
    except VfsstreamError:  # some are OSErrors as well
        raise
    except OSError as error:
        what = f" for TXID {TXID(txid)}" if txid is not None else ""
        message = f"cannot {step} {path}{what}: {error.strerror or error}"
        if error.errno in _FULL:
            raise DiskFull(message, hint="free some space on the volume; replication goes on by itself") from error
        raise DatabaseError(message) from error


class LocalFiles:
    """Local level-0 files below one meta directory.

    Args:
        meta_dir: the directory; made by :meth:`prepare`.
        database: the file whose mode and owner new files take over.
    """

    def __init__(self, meta_dir: Path, database: Path) -> None:
        self.meta_dir = meta_dir
        self.level0 = meta_dir / "ltx" / "0"
        self.own = meta_dir / "vfsstream"
        self.database = database
        self._lock: int | None = None

    def prepare(self) -> None:
        """Make the directories with the mode and owner of the database's directory; remove temporary files."""
        with disk_errors("make directory", self.level0):
            parent = os.stat(self.database.parent)
            for directory in (self.meta_dir, self.level0.parent, self.level0, self.own):
                if not os.path.isdir(directory):
                    directory.mkdir(mode=stat.S_IMODE(parent.st_mode), parents=True, exist_ok=True)
                    self._give(directory, parent)
        self.remove_temporary()

    def remove_temporary(self) -> None:
        """Delete what a killed process left unfinished."""
        for folder, _, names in os.walk(self.meta_dir):
            for name in names:
                if name.endswith(_TEMP):
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join(folder, name))

    def lock(self) -> None:
        """Take the lock of this meta directory for the life of the process.

        Raises:
            DatabaseError: another process has it; the message names it.
        """
        import fcntl

        path = self.own / "lock"
        with disk_errors("open", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise DatabaseError(
                f"{self.database} is already being replicated by process {holder} ({path} is locked)",
                hint="stop the other instance first",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    def unlock(self) -> None:
        """Give the lock back. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, txid: int) -> Path:
        """Where the file of a TXID lies, whether it exists or not."""
        return self.level0 / format_name(txid, txid)

    def txids(self) -> list[TXID]:
        """The TXIDs of all local files, ascending."""
        with disk_errors("list", self.level0):
            try:
                names = os.listdir(self.level0)
            except FileNotFoundError:
                return []
        spans = filter(None, map(parse_name, names))
        return sorted(low for low, high in spans if low == high)

    def highest(self) -> TXID:
        """The highest TXID that was ever written here, a damaged file included; 0 when there is none."""
        with disk_errors("list", self.level0):
            try:
                names = os.listdir(self.level0)
            except FileNotFoundError:
                return TXID(0)
        spans = filter(None, (parse_name(name.removesuffix(_DAMAGED)) for name in names))
        return max((high for _, high in spans), default=TXID(0))

    def infos(self) -> list[FileInfo]:
        """All local files with size and header time, ascending; without those whose header is damaged."""
        return [_info(header, size) for header, size in self._headers()]

    def last_page_size_change(self) -> TXID | None:
        """The newest file whose pages have another size than those of the file before it."""
        headers = [header for header, _ in self._headers()]
        changed = [later.min_txid for earlier, later in pairwise(headers) if earlier.page_size != later.page_size]
        return max(changed, default=None)

    def _headers(self) -> Iterator[tuple[Header, int]]:
        for txid in self.txids():
            path = self.path(txid)
            with disk_errors("read", path, txid), contextlib.suppress(FileNotFoundError, LtxError):
                yield _header_and_size(path)

    def write(self, txid: int, produce: Callable[[BinaryIO], bool]) -> int | None:
        """Write the file of a TXID; it appears under its name complete and durable, or not at all.

        Args:
            produce: writes the content; ``False`` when there turned out to be nothing worth a file.

        Returns:
            The size, or ``None`` when there was nothing.
        """
        path, temp = self.path(txid), self.path(txid).with_name(format_name(txid, txid) + _TEMP)
        try:
            with disk_errors("write", temp, txid):
                owner = self.database.stat()
                flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                descriptor = os.open(temp, flags, stat.S_IMODE(owner.st_mode))
                with open(descriptor, "wb", buffering=0) as file:
                    if not produce(_Whole(file)):  # type: ignore[arg-type]
                        temp.unlink()
                        return None
                    os.fsync(file.fileno())
                    size = os.fstat(file.fileno()).st_size
                self._give(temp, owner)
            with disk_errors("publish", path, txid):
                os.replace(temp, path)
                sync_directory(self.level0)
        except BaseException:
            with contextlib.suppress(OSError):
                temp.unlink()
            raise
        return size

    def set_aside(self, txid: int) -> None:
        """Keep a damaged file as evidence, out of every listing."""
        path = self.path(txid)
        with disk_errors("rename", path, txid), contextlib.suppress(FileNotFoundError):
            os.replace(path, path.with_name(path.name + _DAMAGED))

    def delete(self, txids: list[TXID]) -> None:
        """Delete files, lowest first, so that an interruption leaves a contiguous rest."""
        for txid in sorted(txids):
            with disk_errors("delete", self.path(txid), txid):
                self.path(txid).unlink(missing_ok=True)

    def _give(self, path: Path, owner: os.stat_result) -> None:
        if os.geteuid() == 0:
            with contextlib.suppress(OSError):
                os.chown(path, owner.st_uid, owner.st_gid)


def _header_and_size(path: Path) -> tuple[Header, int]:
    from vfsstream.ltx import HEADER_SIZE, Header

    with open(path, "rb") as file:
        return Header.unpack(file.read(HEADER_SIZE), name=str(path)), os.fstat(file.fileno()).st_size


def _info(header: Header, size: int) -> FileInfo:
    created = datetime.fromtimestamp(header.timestamp / 1000, UTC)
    return FileInfo(header.min_txid, header.max_txid, 0, size, created, True)


class _Whole:
    """An unbuffered file whose writes are complete."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._behind = WriteBehind(file.fileno())

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._behind.wrote(len(data))
        return len(data)
