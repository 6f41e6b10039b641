"""A folder as a store.

Keys are paths below the root. A put writes beside the target under a temporary name, fsyncs, renames and fsyncs
the directory; the object's own time is the file's mtime, as Litestream keeps it. Reading works on every platform.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vfsstream.errors import AccessDenied, AlreadyExists, NotFound, StoreError
from vfsstream.stores.base import TIMESTAMP, Capabilities, Fetched, ObjectInfo, Source, Store, chunks_of
from vfsstream.stores.leftovers import TEMP_SUFFIX
from vfsstream.stores.memory import slice_range

if TYPE_CHECKING:
    from vfsstream.stores.url import StoreUrl

__all__ = ["TEMP_SUFFIX", "FileStore", "sync_directory"]

_CHUNK = 1 << 20
_OWN_TEMP = re.compile(r".+\.[0-9]+\.[0-9a-f]{8}" + re.escape(TEMP_SUFFIX))
_DAY = 86400.0
_FORBIDDEN = frozenset(("", ".", ".."))
_READING = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class FileStore(Store):
    """Objects as files below ``root``, which need not exist before the first put.

    Args:
        root: a directory.
        mode: permission bits of new files; directories add the matching search bits.
    """

    kind = "file"
    capabilities = Capabilities(
        can_start_after=False,
        can_put_if_absent=True,
        cheap_miss=True,
        listing_has_timestamp=True,
        can_watch=hasattr(select, "poll"),  # not on Windows
        max_concurrency=8,
    )

    def __init__(self, root: str | os.PathLike[str], *, mode: int = 0o600) -> None:
        self.root = Path(root).absolute()
        self._folder = os.path.join(self.root, "")
        self.mode = mode
        self._swept: dict[Path, float] = {}

    def _path(self, key: str) -> Path:
        self._check(key)
        return self.root / key

    def _check(self, key: str) -> None:
        if not _FORBIDDEN.isdisjoint(key.split("/")) or "\0" in key:
            raise StoreError(f"invalid key {key!r} for {self.describe()}")

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        directory = self.root / prefix.rstrip("/") if prefix else self.root
        found = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    key = prefix + entry.name
                    if entry.name.endswith(TEMP_SUFFIX) or (start_after is not None and key <= start_after):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # deleted while we list
                        if entry.is_file():
                            found.append(_info(key, entry.stat()))
        except (FileNotFoundError, NotADirectoryError):
            return iter(())
        except OSError as error:
            self._fail(error, prefix, "list")
        return iter(sorted(found, key=lambda info: info.key))

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        directory = self.root / prefix.rstrip("/") if prefix else self.root
        try:
            with os.scandir(directory) as entries:
                return iter(sorted(entry.name for entry in entries if entry.is_dir()))
        except (FileNotFoundError, NotADirectoryError):
            return iter(())
        except OSError as error:
            self._fail(error, prefix, "list")

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        self._check(key)
        try:
            descriptor = os.open(self._folder + key, _READING)
            try:
                total = os.fstat(descriptor).st_size
                start, stop = slice_range(total, offset, size)
                if start:
                    os.lseek(descriptor, start, os.SEEK_SET)
                data = _read_exactly(descriptor, stop - start)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._fail(error, key, "read")
        if len(data) != stop - start:
            raise StoreError(f"{self._path(key)}: file shrank while it was read", retryable=True)
        return Fetched(data, total)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        try:
            file = open(self._path(key), "rb", buffering=0)  # noqa: SIM115 - closed by the generator
        except OSError as error:
            self._fail(error, key, "read")
        return self._chunks(file, key, offset)

    def _chunks(self, file: object, key: str, offset: int) -> Iterator[bytes]:
        with file as opened:  # type: ignore[attr-defined]
            try:
                opened.seek(offset)
                while chunk := opened.read(_CHUNK):
                    yield chunk
            except OSError as error:
                self._fail(error, key, "read")

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        path = self._path(key)
        temp = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}{TEMP_SUFFIX}")
        try:
            self._make_directories(path.parent)
            self._sweep(path.parent)
            try:
                self._write(temp, source, (metadata or {}).get(TIMESTAMP))
                self._publish(temp, path, key, if_absent)
            except BaseException:
                with contextlib.suppress(OSError):
                    temp.unlink()
                raise
            return _info(key, path.stat())
        except OSError as error:
            self._fail(error, key, "write")

    def _write(self, temp: Path, source: Source, timestamp: str | None) -> None:
        from vfsstream.stores.writeback import WriteBehind

        descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), self.mode)
        with open(descriptor, "wb", buffering=0) as file:
            behind = WriteBehind(file.fileno())
            for chunk in chunks_of(source):
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) or 0 :]
                behind.wrote(len(chunk))
            os.fsync(file.fileno())
        if timestamp is not None:
            nanoseconds = round(datetime.fromisoformat(timestamp).timestamp() * 1000) * 1_000_000
            os.utime(temp, ns=(nanoseconds, nanoseconds))

    def _publish(self, temp: Path, path: Path, key: str, if_absent: bool) -> None:
        if if_absent:
            try:
                os.link(temp, path)  # fails if the name is taken, unlike a rename
            except FileExistsError as error:
                raise AlreadyExists(key) from error
            temp.unlink()
        else:
            os.replace(temp, path)
        sync_directory(path.parent)

    def _make_directories(self, directory: Path) -> None:
        mode = self.mode | (self.mode & 0o444) >> 2  # who may read a file may search its directory
        missing = []
        while not directory.exists():
            missing.append(directory)
            directory = directory.parent
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=mode)
                sync_directory(path.parent)

    def _sweep(self, directory: Path) -> None:
        """Once a day: remove what killed writers left unfinished more than a day ago."""
        now = time.time()
        if now - self._swept.get(directory, 0.0) < _DAY:
            return
        self._swept[directory] = now
        with os.scandir(directory) as entries:
            for entry in entries:
                if _OWN_TEMP.fullmatch(entry.name):
                    with contextlib.suppress(OSError):  # not the modification time, which writers set
                        if entry.stat().st_ctime < now - _DAY:
                            os.unlink(entry.path)

    def delete(self, keys: Iterable[str]) -> None:
        denied: OSError | None = None
        for key in keys:
            try:
                self._path(key).unlink(missing_ok=True)
            except PermissionError as error:
                denied = error
            except OSError as error:
                self._fail(error, key, "delete")
        if denied is not None:
            self._fail(denied, str(denied.filename), "delete")

    def remove_directory(self, prefix: str) -> None:
        try:
            (self.root / prefix).rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                self._fail(error, prefix, "remove the directory")

    def head(self, key: str) -> ObjectInfo:
        try:
            return _info(key, self._path(key).stat())
        except OSError as error:
            self._fail(error, key, "stat")

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None]:
        from vfsstream.stores.watch import watch_directory

        return watch_directory(self.root / prefix, wake, hidden_suffix=TEMP_SUFFIX)

    def describe(self) -> str:
        return f"file://{self.root.as_posix()}"

    def _fail(self, error: OSError, key: str, action: str) -> NoReturn:
        if isinstance(error, (NotFound, AlreadyExists, StoreError)):
            raise error
        if action != "write" and isinstance(error, FileNotFoundError | NotADirectoryError):
            raise NotFound(key) from error
        message = f"cannot {action} {self.root / key}: {error.strerror}"
        if isinstance(error, PermissionError):
            raise AccessDenied(message, hint="check owner and permissions of the path") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC):
            raise StoreError(message, retryable=True, hint="free some space on the volume") from error
        raise StoreError(message, retryable=error.errno in (errno.EIO, errno.EAGAIN, errno.ESTALE)) from error


def sync_directory(directory: Path) -> None:
    """Make a rename durable. Windows has no such call and needs none."""
    if os.name == "nt":  # pragma: no cover
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    modified = datetime.fromtimestamp(status.st_mtime_ns // 1_000_000 / 1000, UTC)
    text = modified.strftime("%Y-%m-%dT%H:%M:%S") + f".{status.st_mtime_ns // 1_000_000 % 1000:03d}"
    return ObjectInfo(key, status.st_size, modified, {TIMESTAMP: text.rstrip("0").rstrip(".") + "Z"})


def _read_exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(descriptor, size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def open_url(url: StoreUrl, options: Mapping[str, str]) -> FileStore:
    """The folder that a file URL or a path names."""
    return FileStore(url.path)
