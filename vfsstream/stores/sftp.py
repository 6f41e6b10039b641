"""SFTP: objects as files on a server reached by SSH.

A put writes beside the target under a temporary name and renames it over; the object's own time is the file's
mtime, whole seconds, as Litestream keeps it. Handles of files in use stay open and are checked on every read, so a
page costs one round trip.
"""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import NoReturn
from urllib.parse import unquote

from vfsstream.errors import AccessDenied, AlreadyExists, NotFound, StoreError, UrlError
from vfsstream.stores import sftp_wire as wire
from vfsstream.stores.base import TIMESTAMP, Capabilities, Fetched, ObjectInfo, Source, Store, chunks_of
from vfsstream.stores.deadline import time_left
from vfsstream.stores.extras import require
from vfsstream.stores.leftovers import TEMP_SUFFIX, Leftovers, temporary_name
from vfsstream.stores.sftp_connect import SftpLogin, parse_host_key
from vfsstream.stores.sftp_session import MAX_CHANNELS, ChannelPool
from vfsstream.stores.sftp_wire import Attributes, SftpChannel, SftpStatus, SourceFailed
from vfsstream.stores.url import StoreUrl

__all__ = ["SftpStore", "open_url"]


_STREAM_FIRST, _STREAM_NEXT, _STREAM_CHUNK = 1 << 20, 4 << 20, 1 << 20
_QUERY = frozenset({"key-path", "key-passphrase", "host-key", "known-hosts", "agent", "login-relative"})


class SftpStore(Store):
    """Objects as files below ``root``, which need not exist before the first put.

    Args:
        login: where and who.
        root: a directory; relative to the login directory unless it starts with a slash.
        concurrent_writes: send the blocks of an upload without waiting for each.
    """

    kind = "sftp"
    capabilities = Capabilities(can_put_if_absent=True, cheap_miss=True, max_concurrency=MAX_CHANNELS)

    def __init__(self, login: SftpLogin, root: str, *, concurrent_writes: bool = True) -> None:
        require("paramiko", "sftp", "sftp:// replicas")
        self.login = login
        self.root = root
        self._write_window = wire.WINDOW if concurrent_writes else 1
        self._pool = ChannelPool(login)
        # The source of an upload may read from this very store: uploads must never hold every channel.
        self._uploads = threading.BoundedSemaphore(MAX_CHANNELS - 2)
        self._leftovers = Leftovers()

    def _path(self, key: str) -> str:
        if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
            raise StoreError(f"invalid key {key!r} for {self.describe()}")
        return posixpath.join(self.root, key)

    @contextmanager
    def _channel(self, key: str, action: str) -> Iterator[SftpChannel]:
        path = posixpath.join(self.root, key)
        try:
            with self._pool.channel(path) as channel:
                yield channel
        except SftpStatus as status:
            self._fail(status, key, action)
        except SourceFailed as failed:
            if failed.__cause__ is not None:
                raise failed.__cause__ from None
            raise

    def _fail(self, status: SftpStatus, key: str, action: str) -> NoReturn:
        if status.code == wire.NO_SUCH_FILE:
            raise NotFound(key) from status
        message = f"cannot {action} {posixpath.join(self.root, key)} on sftp server {self.login.address}: {status}"
        if status.code == wire.PERMISSION_DENIED:
            advice = f"check owner and permissions of the path for user {self.login.user!r}"
            raise AccessDenied(message, hint=advice) from status
        if status.code == wire.EOF:
            raise StoreError(f"{message}: the file shrank while it was read", retryable=True) from status
        final = status.code in (wire.UNSUPPORTED, wire.BAD_MESSAGE)
        hint = "is the disk of the server full?" if action == "write" and not final else None
        raise StoreError(message, retryable=not final, hint=hint) from status

    # Looking

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        found = []
        for name, attributes in self._entries(prefix):
            key = prefix + name
            if name.endswith(TEMP_SUFFIX):
                self._leftovers.look(key, _info(key, attributes).modified)
                continue
            if start_after is not None and key <= start_after:
                continue
            if attributes.is_file:
                found.append(_info(key, attributes))
        return iter(sorted(found, key=lambda info: info.key))

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        names = [name for name, attributes in self._entries(prefix) if attributes.is_directory]
        return iter(sorted(name for name in names if name not in (".", "..")))

    def _entries(self, prefix: str) -> Sequence[tuple[str, Attributes]]:
        directory = posixpath.join(self.root, prefix.rstrip("/")).rstrip("/") or ("/" if self.root else "")
        try:
            with self._channel(prefix, "list") as channel:
                return channel.list(directory)
        except NotFound:
            return []

    def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with self._channel(key, "stat") as channel:
            return _info(key, channel.stat(path))

    # Reading

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        if offset < 0 and size is not None:
            raise ValueError("a range from the end reads to the end: size must be None")
        path = self._path(key)
        with self._channel(key, "read") as channel:
            data, attributes = channel.read(path, offset, size)
        return Fetched(data, attributes.size)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        path = self._path(key)
        first = self._read(path, key, offset, _STREAM_FIRST)
        return self._chunks(path, key, offset, first)

    def _read(self, path: str, key: str, offset: int, size: int) -> tuple[bytes, Attributes]:
        with self._channel(key, "read") as channel:
            return channel.read(path, offset, size)

    def _chunks(self, path: str, key: str, offset: int, first: tuple[bytes, Attributes]) -> Iterator[bytes]:
        """No channel is held between reads: a restore keeps more files open than there are channels."""
        data, opened = first
        while data:
            for start in range(0, len(data), _STREAM_CHUNK):
                yield data[start : start + _STREAM_CHUNK]
            offset += len(data)
            if offset >= opened.size:
                return
            data, now = self._read(path, key, offset, _STREAM_NEXT)
            if now != opened:
                raise StoreError(f"{self.describe()}: {key} was replaced while it was read")

    # Changing

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        path = self._path(key)
        temp = temporary_name(path)
        mtime = _seconds((metadata or {}).get(TIMESTAMP))
        with self._upload_slot(), self._channel(key, "write") as channel:
            for left in self._leftovers.take():
                with suppress(SftpStatus):
                    channel.remove(self._path(left))
            try:
                if if_absent and _exists(channel, path):
                    raise AlreadyExists(key)
                size = self._upload(channel, temp, source, mtime)
                if if_absent:
                    self._rename_new(channel, temp, path, key)
                else:
                    channel.rename(temp, path)
            except BaseException:
                with suppress(Exception):
                    channel.remove(temp)
                raise
        stored = datetime.fromtimestamp(mtime, UTC) if mtime is not None else datetime.now(UTC)
        return ObjectInfo(key, size, stored)

    @contextmanager
    def _upload_slot(self) -> Iterator[None]:
        while not self._uploads.acquire(timeout=time_left(1.0)):
            continue
        try:
            yield
        finally:
            self._uploads.release()

    def _upload(self, channel: SftpChannel, temp: str, source: Source, mtime: int | None) -> int:
        chunks = chunks_of(source)
        try:
            return channel.write(temp, chunks, mtime, self._write_window)
        except SftpStatus as status:
            directory = posixpath.dirname(temp)
            if status.code != wire.NO_SUCH_FILE or not directory:
                raise
        try:
            channel.make_directories(directory)
            return channel.write(temp, chunks, mtime, self._write_window)
        except SftpStatus as status:
            if status.code == wire.NO_SUCH_FILE:
                raise SftpStatus(wire.FAILURE, f"{status}: the directory cannot be made") from status
            raise

    def _rename_new(self, channel: SftpChannel, temp: str, path: str, key: str) -> None:
        try:
            channel.rename_new(temp, path)
        except SftpStatus as status:
            if status.code == wire.FAILURE and _exists(channel, path):
                raise AlreadyExists(key) from status
            raise

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        if len(wanted) <= 2:
            denied = [error for key in wanted if (error := self._remove(key)) is not None]
        else:
            workers = min(MAX_CHANNELS, len(wanted))
            with ThreadPoolExecutor(workers, thread_name_prefix="vfsstream-sftp-delete") as pool:
                denied = [error for error in pool.map(self._remove, wanted) if error is not None]
        if denied:
            raise denied[0]

    def _remove(self, key: str) -> AccessDenied | None:
        path = self._path(key)
        try:
            with self._channel(key, "delete") as channel:
                channel.remove(path)
        except NotFound:
            return None
        except AccessDenied as error:
            return error
        return None

    def remove_directory(self, prefix: str) -> None:
        path = self._path(prefix.rstrip("/"))
        with suppress(NotFound), self._channel(prefix, "remove the directory") as channel:
            try:
                channel.remove_directory(path)
            except SftpStatus as status:
                if status.code != wire.FAILURE:  # what a directory with something in it gives
                    raise

    def describe(self) -> str:
        root = self.root if self.root.startswith("/") or not self.root else f"/{self.root}"
        return f"sftp://{self.login.user}@{self.login.address}{root}"

    def close(self) -> None:
        self._pool.close()


def _exists(channel: SftpChannel, path: str) -> bool:
    try:
        channel.stat(path)
    except SftpStatus as status:
        if status.code == wire.NO_SUCH_FILE:
            return False
        raise
    return True


def _info(key: str, attributes: Attributes) -> ObjectInfo:
    # Whole seconds are not the object's own time: who needs that reads the header.
    return ObjectInfo(key, attributes.size, datetime.fromtimestamp(attributes.mtime, UTC))


def _seconds(timestamp: str | None) -> int | None:
    return None if timestamp is None else int(datetime.fromisoformat(timestamp).timestamp() // 1)


# From URL and configuration


def open_url(url: StoreUrl, options: Mapping[str, str]) -> SftpStore:
    """The store of an ``sftp://`` URL, or of the configuration keys when the URL names no host.

    Raises:
        UrlError: host or user is missing, or a value is impossible.
        MissingExtra: paramiko is not installed.
    """
    require("paramiko", "sftp", "sftp:// replicas")
    unknown = sorted(set(url.query) - _QUERY)
    if unknown:
        raise UrlError(
            f"unknown parameter {unknown[0]!r} in an sftp:// URL", hint=f"known: {' '.join(sorted(_QUERY))}"
        )
    given = {**url.query, **{key: value for key, value in options.items() if value not in (None, "")}}
    host, port = _host(url, given)
    user = url.user or given.get("user")
    if not user:
        raise UrlError("an sftp replica needs a user", hint="sftp://user@host/path, or the key `user`")
    if given.get("host-key"):
        parse_host_key(given["host-key"])
    login = SftpLogin(
        host=host,
        port=port,
        user=user,
        password=url.password if url.password is not None else given.get("password"),
        key_path=given.get("key-path"),
        key_passphrase=given.get("key-passphrase"),
        host_key=given.get("host-key"),
        known_hosts=given.get("known-hosts"),
        agent=_flag(given, "agent", False),
    )
    root = _root(url, given)
    if _flag(given, "login-relative", False):
        root = root.lstrip("/")
    return SftpStore(login, root, concurrent_writes=_flag(given, "concurrent-writes", True))


def _host(url: StoreUrl, given: Mapping[str, str]) -> tuple[str, int]:
    host, port = url.host, url.port
    if not host:
        host = given.get("host", "")
    if port is None and host.count(":") == 1:
        host, _, digits = host.partition(":")
        if not digits.isascii() or not digits.isdigit() or not 0 < int(digits) < 65536:
            raise UrlError(f"port {digits!r} of sftp host {host!r} is not a number from 1 to 65535")
        port = int(digits)
    elif port is None and host.startswith("[") and "]:" in host:
        host, _, digits = host.partition("]:")
        port = int(digits) if digits.isascii() and digits.isdigit() else 22
    if not host:
        raise UrlError("an sftp replica needs a host", hint="sftp://user@host/path, or the key `host`")
    return host.strip("[]"), port or 22


def _root(url: StoreUrl, given: Mapping[str, str]) -> str:
    raw = unquote(url.raw_path) if url.raw_path else given.get("path", "")
    root = posixpath.normpath(raw) if raw else ""
    return "" if root == "." else "/" + root.lstrip("/") if root.startswith("/") else root


def _flag(given: Mapping[str, str], key: str, default: bool) -> bool:
    value = str(given.get(key, default)).lower()
    if value in ("true", "1", "t", "yes"):
        return True
    if value in ("false", "0", "f", "no"):
        return False
    raise UrlError(f"{key}: {given[key]!r} is neither true nor false")
