"""One SFTP channel, spoken to in pipelined rounds: a page costs one round trip, a megabyte hardly more.

paramiko brings the SSH transport, the packets and their numbering. Its own file objects wait for one answer at a
time, lose the errors of pipelined writes, and start a thread per read-ahead, so the requests are made here.
A channel belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import stat
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Attributes", "Handle", "SftpChannel", "SftpStatus", "SourceFailed"]

BLOCK = 32 * 1024
"""The largest read or write that every server must accept."""

WINDOW = 64
"""Requests in flight on one channel; OpenSSH's own client uses as many."""

_KEPT_HANDLES = 24

# Numbers of the protocol, version 3.
_OPEN, _CLOSE, _READ, _WRITE, _FSTAT, _FSETSTAT = 3, 4, 5, 6, 8, 10
_OPENDIR, _READDIR, _REMOVE, _MKDIR, _RMDIR, _STAT, _RENAME, _EXTENDED = 11, 12, 13, 14, 15, 17, 18, 200
_R_STATUS, _R_HANDLE, _R_DATA, _R_NAME, _R_ATTRS = 101, 102, 103, 104, 105
_FLAG_READ, _FLAG_WRITE, _FLAG_CREATE, _FLAG_TRUNCATE, _FLAG_EXCLUSIVE = 1, 2, 8, 16, 32

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, NO_CONNECTION, CONNECTION_LOST, UNSUPPORTED = (
    range(9)
)


class SftpStatus(Exception):
    """The server refused a request; the channel is still good.

    Attributes:
        code: of the protocol.
        text: the server's words.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text or f"status {code}")
        self.code, self.text = code, text


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of one file: size in bytes, modification time in seconds, kind."""

    size: int
    mtime: int
    mode: int

    @property
    def is_directory(self) -> bool:
        """It is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """It is a regular file; a server that tells no mode has only those."""
        return stat.S_ISREG(self.mode) or self.mode == 0


@dataclass(frozen=True, slots=True)
class Handle:
    """A file held open for reading, and what it was when it was opened."""

    handle: bytes
    attributes: Attributes


class SourceFailed(Exception):
    """The source of an upload raised; its error is the cause. The channel is still good."""


class _Round:
    """Requests in flight together; their answers may come in any order."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._answers: dict[int, tuple[int, Any]] = {}

    def send(self, kind: int, *arguments: Any) -> int:
        number: int = self._client._async_request(self, kind, *arguments)
        return number

    def _async_response(self, kind: int, message: Any, number: int) -> None:
        """paramiko hands over an answer."""
        self._answers[number] = (kind, message)

    def wait(self, number: int) -> tuple[int, Any]:
        """The answer to one request; raises :class:`SftpStatus` if it is a refusal."""
        while number not in self._answers:
            self._client._read_response()
        kind, message = self._answers.pop(number)
        if kind == _R_STATUS:
            code = message.get_int()
            if code != OK:
                raise SftpStatus(code, message.get_binary().decode("utf-8", "replace"))
        return kind, message

    def wait_all(self, numbers: Iterable[int]) -> list[tuple[int, Any]]:
        """All answers, also when one is a refusal: nothing may be left in the channel. Raises the first."""
        answers: list[tuple[int, Any]] = []
        refused: SftpStatus | None = None
        for number in numbers:
            try:
                answers.append(self.wait(number))
            except SftpStatus as status:
                refused = refused or status
        if refused is not None:
            raise refused
        return answers


class SftpChannel:
    """An SFTP session of its own, with the files it holds open.

    Args:
        client: paramiko's SFTPClient.
    """

    def __init__(self, client: Any) -> None:
        from paramiko.sftp import int64
        from paramiko.sftp_attr import SFTPAttributes

        self.client = client
        self._int64, self._no_attributes = int64, SFTPAttributes()
        self._handles: OrderedDict[str, Handle] = OrderedDict()
        self._can_fsync = True
        self._can_posix_rename = True

    def holds(self, path: str) -> bool:
        """The file is held open: reading it here costs one round trip."""
        return path in self._handles

    def set_timeout(self, seconds: float) -> None:
        """Longest wait for any single packet."""
        self.client.get_channel().settimeout(seconds)

    @property
    def transport(self) -> Any:
        """The connection below."""
        return self.client.get_channel().get_transport()

    @property
    def alive(self) -> bool:
        """Neither the channel nor its connection is known to be closed."""
        active: bool = self.transport.is_active()
        return active and not self.client.get_channel().closed

    def close(self) -> None:
        """Close the channel; its open files go with it."""
        self._handles.clear()
        self.client.close()

    # Reading

    def read(self, path: str, offset: int, size: int | None) -> tuple[bytes, Attributes]:
        """A range by the rules of ``Store.fetch``, and the file as it is now."""
        handle = self._handles.get(path)
        if handle is not None:
            round_ = _Round(self.client)
            check = round_.send(_STAT, path)
            reads = self._send_reads(round_, handle, offset, size)
            try:
                now = _attributes(round_.wait(check)[1])
            except SftpStatus:
                _settle(round_, reads)
                self.forget(path)
                raise
            if now == handle.attributes:
                self._handles.move_to_end(path)
                return self._collect(round_, handle, offset, size, reads), now
            _settle(round_, reads)
            self.forget(path)
        handle = self._open(path)
        round_ = _Round(self.client)
        reads = self._send_reads(round_, handle, offset, size)
        return self._collect(round_, handle, offset, size, reads), handle.attributes

    def _open(self, path: str) -> Handle:
        round_ = _Round(self.client)
        opened = round_.send(_OPEN, path, _FLAG_READ, self._no_attributes)
        asked = round_.send(_STAT, path)
        (_, message), (_, attributes) = round_.wait_all([opened, asked])
        handle = Handle(message.get_binary(), _attributes(attributes))
        self._handles[path] = handle
        while len(self._handles) > _KEPT_HANDLES:
            _, old = self._handles.popitem(last=False)
            self._let_go(old.handle)
        return handle

    def forget(self, path: str) -> None:
        """Stop holding a file open."""
        handle = self._handles.pop(path, None)
        if handle is not None:
            self._let_go(handle.handle)

    def _let_go(self, handle: bytes) -> None:
        self.client._async_request(type(None), _CLOSE, handle)

    def _send_reads(
        self, round_: _Round, handle: Handle, offset: int, size: int | None
    ) -> deque[tuple[int, int, int]]:
        start, stop = _span(handle.attributes.size, offset, size)
        return deque(self._send_read(round_, handle, at, stop) for at in range(start, stop, BLOCK)[:WINDOW])

    def _send_read(self, round_: _Round, handle: Handle, at: int, stop: int) -> tuple[int, int, int]:
        length = min(BLOCK, stop - at)
        return round_.send(_READ, handle.handle, self._int64(at), length), at, length

    def _collect(
        self,
        round_: _Round,
        handle: Handle,
        offset: int,
        size: int | None,
        reads: deque[tuple[int, int, int]],
    ) -> bytes:
        start, stop = _span(handle.attributes.size, offset, size)
        result = bytearray(stop - start)
        following = start + len(reads) * BLOCK
        try:
            while reads:
                number, at, length = reads.popleft()
                data = round_.wait(number)[1].get_binary()
                if not data:
                    raise SftpStatus(EOF, "empty answer")
                result[at - start : at - start + len(data)] = data
                if len(data) < length:  # a server may give less than was asked for
                    reads.append(self._send_read(round_, handle, at + len(data), at + length))
                if following < stop:
                    reads.append(self._send_read(round_, handle, following, stop))
                    following += BLOCK
        except SftpStatus:
            _settle(round_, reads)
            raise
        return bytes(result)

    # Writing

    def write(self, path: str, chunks: Iterable[bytes], mtime: int | None, window: int = WINDOW) -> int:
        """Write a new file and close it; gives its size. The caller removes it if this raises."""
        flags = _FLAG_WRITE | _FLAG_CREATE | _FLAG_TRUNCATE | _FLAG_EXCLUSIVE
        round_ = _Round(self.client)
        handle = round_.wait(round_.send(_OPEN, path, flags, self._no_attributes))[1].get_binary()
        try:
            size = self._write_all(round_, handle, chunks, window)
            last = []
            if self._can_fsync:
                self._fsync(handle)
            if mtime is not None:
                last.append(round_.send(_FSETSTAT, handle, _times(mtime)))
            last.append(round_.send(_FSTAT, handle))
            attributes = _attributes(round_.wait_all(last)[-1][1])
        except Exception:
            with contextlib.suppress(Exception):
                self._let_go(handle)
            raise
        round_.wait(round_.send(_CLOSE, handle))
        if attributes.size != size:
            raise SftpStatus(FAILURE, f"{attributes.size} of {size} bytes arrived")
        return size

    def _write_all(self, round_: _Round, handle: bytes, chunks: Iterable[bytes], window: int) -> int:
        flying: deque[int] = deque()
        at = 0
        try:
            for chunk in _guarded(chunks):
                view = memoryview(chunk)
                for start in range(0, len(view), BLOCK):
                    block = bytes(view[start : start + BLOCK])
                    flying.append(round_.send(_WRITE, handle, self._int64(at), block))
                    at += len(block)
                    if len(flying) >= window:
                        round_.wait(flying.popleft())
        finally:
            round_.wait_all(flying)
        return at

    def _fsync(self, handle: bytes) -> None:
        round_ = _Round(self.client)
        try:
            round_.wait(round_.send(_EXTENDED, "fsync@openssh.com", handle))
        except SftpStatus as status:
            if status.code not in (UNSUPPORTED, BAD_MESSAGE):
                raise
            self._can_fsync = False

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing what is there; atomically where the server can."""
        self.forget(new)
        if self._can_posix_rename:
            try:
                self._simple(_EXTENDED, "posix-rename@openssh.com", old, new)
            except SftpStatus as status:
                if status.code != UNSUPPORTED:
                    raise
                self._can_posix_rename = False
            else:
                return
        try:
            self._simple(_RENAME, old, new)
        except SftpStatus as status:
            if status.code != FAILURE:
                raise
            self._simple(_REMOVE, new)
            self._simple(_RENAME, old, new)

    def rename_new(self, old: str, new: str) -> None:
        """Rename; refused when the new name is taken, as version 3 of the protocol has it."""
        self._simple(_RENAME, old, new)

    def remove(self, path: str) -> None:
        """Remove one file."""
        self.forget(path)
        self._simple(_REMOVE, path)

    def remove_directory(self, path: str) -> None:
        """Remove one directory; one that holds something is a FAILURE."""
        self._simple(_RMDIR, path)

    def make_directories(self, path: str) -> None:
        """Make a directory and those above it; existing ones are fine."""
        try:
            self._simple(_MKDIR, path, self._no_attributes)
        except SftpStatus as status:
            parent = path.rpartition("/")[0]
            if status.code == NO_SUCH_FILE and parent:
                self.make_directories(parent)
                self.make_directories(path)
                return
            try:
                there = self.stat(path).is_directory
            except SftpStatus:
                there = False
            if not there:
                raise

    # Looking

    def stat(self, path: str) -> Attributes:
        """Attributes of a path, links followed."""
        return _attributes(self._simple(_STAT, path)[1])

    def list(self, path: str, ahead: int = 4) -> list[tuple[str, Attributes]]:
        """Names and attributes in a directory, in the server's order."""
        round_ = _Round(self.client)
        handle = round_.wait(round_.send(_OPENDIR, path or "."))[1].get_binary()
        found: list[tuple[str, Attributes]] = []
        flying = deque(round_.send(_READDIR, handle) for _ in range(ahead))
        done = False
        try:
            while flying:
                try:
                    found.extend(_names(round_.wait(flying.popleft())[1]))
                except SftpStatus as status:
                    if status.code != EOF:
                        raise
                    done = True
                if not done:
                    flying.append(round_.send(_READDIR, handle))
        finally:
            self.client._async_request(type(None), _CLOSE, handle)
            _settle(round_, flying)
        return found

    def _simple(self, kind: int, *arguments: Any) -> tuple[int, Any]:
        round_ = _Round(self.client)
        return round_.wait(round_.send(kind, *arguments))


def _guarded(chunks: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from chunks
    except Exception as error:
        raise SourceFailed from error


def _settle(round_: _Round, requests: Iterable[Any]) -> None:
    """Take the answers nobody wants any more out of the channel."""
    for request in requests:
        try:
            round_.wait(request[0] if isinstance(request, tuple) else request)
        except SftpStatus:
            continue


def _span(total: int, offset: int, size: int | None) -> tuple[int, int]:
    from vfsstream.stores.memory import slice_range

    return slice_range(total, offset, size)


def _attributes(message: Any) -> Attributes:
    from paramiko.sftp_attr import SFTPAttributes

    return _plain(SFTPAttributes._from_msg(message))


def _plain(attributes: Any) -> Attributes:
    return Attributes(attributes.st_size or 0, attributes.st_mtime or 0, attributes.st_mode or 0)


def _names(message: Any) -> list[tuple[str, Attributes]]:
    from paramiko.sftp_attr import SFTPAttributes

    found = []
    for _ in range(message.get_int()):
        name, _long = message.get_binary().decode("utf-8", "surrogateescape"), message.get_binary()
        found.append((name, _plain(SFTPAttributes._from_msg(message))))
    return found


def _times(seconds: int) -> Any:
    from paramiko.sftp_attr import SFTPAttributes

    attributes = SFTPAttributes()
    attributes._flags |= attributes.FLAG_AMTIME
    attributes.st_atime = attributes.st_mtime = seconds
    return attributes
