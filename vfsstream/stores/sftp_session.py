"""A bounded pool of SFTP channels on one connection."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vfsstream.errors import StoreError, VfsstreamError
from vfsstream.stores.deadline import time_left
from vfsstream.stores.sftp_connect import CONNECT_TIMEOUT, SftpLogin, connect, words_of
from vfsstream.stores.sftp_wire import SftpChannel, SftpStatus, SourceFailed

__all__ = ["MAX_CHANNELS", "ChannelPool"]

IO_TIMEOUT = 30.0
MAX_CHANNELS = 8
"""OpenSSH allows ten sessions on a connection; two are left to others."""


class ChannelPool:
    """SFTP channels on one connection, each used by one thread at a time.

    Everything below is touched only under ``_changed``; connecting and opening happen outside of it.
    """

    def __init__(self, login: SftpLogin, size: int = MAX_CHANNELS) -> None:
        self.login = login
        self._size = size
        self._changed = threading.Condition()
        self._transport: Any = None
        self._all: set[SftpChannel] = set()
        self._idle: list[SftpChannel] = []
        self._opening = False
        self._closed = False
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<ChannelPool {self.login.address} {len(self._all)} of {self._size} open, {len(self._idle)} idle>"

    @contextmanager
    def channel(self, path: str | None = None) -> Iterator[SftpChannel]:
        """A channel for this thread, by preference one that holds ``path`` open.

        Raises:
            StoreError: no connection, or it broke while the channel was used (then the channel is thrown away).
        """
        channel = self._take(path)
        try:
            channel.set_timeout(time_left(IO_TIMEOUT))
            yield channel
        except (SftpStatus, SourceFailed, VfsstreamError):
            self._give_back(channel)
            raise
        except Exception as error:
            self._abandon(channel)
            raise self._broken(error) from error
        except BaseException:
            self._discard(channel)
            raise
        else:
            self._give_back(channel)

    def _broken(self, error: Exception) -> StoreError:
        where = f"sftp server {self.login.address}"
        if isinstance(error, TimeoutError):
            return StoreError(f"{where} did not answer in time", retryable=True)
        return StoreError(f"lost the connection to {where}: {words_of(error)}", retryable=True)

    def _take(self, path: str | None) -> SftpChannel:
        end = time.monotonic() + time_left(IO_TIMEOUT)
        while True:
            with self._changed:
                self._forget_after_fork()
                dead = self._drop_dead()
                found = self._pick(path)
                if found is None and not self._may_open() and not dead:
                    left = end - time.monotonic()
                    if left <= 0:
                        raise StoreError(f"no free channel to sftp server {self.login.address}", retryable=True)
                    self._changed.wait(min(left, 1.0))
                    continue
                opening = found is None and self._may_open()
                self._opening = self._opening or opening
            for channel in dead:
                self._discard(channel)
            if found is not None:
                return found
            if opening and (channel_ := self._open()) is not None:
                return channel_

    def _may_open(self) -> bool:
        if self._closed:
            raise StoreError(f"the store on sftp server {self.login.address} is closed")
        return len(self._all) < self._size and not self._opening

    def _pick(self, path: str | None) -> SftpChannel | None:
        if not self._idle:
            return None
        place = len(self._idle) - 1
        if path is not None:
            place = next((i for i, channel in enumerate(self._idle) if channel.holds(path)), place)
        return self._idle.pop(place)

    def _drop_dead(self) -> list[SftpChannel]:
        dead = [channel for channel in self._idle if not channel.alive]
        if dead:
            self._idle = [channel for channel in self._idle if channel not in dead]
            self._all.difference_update(dead)
        return dead

    def _open(self) -> SftpChannel | None:
        """Open a channel, connecting first if need be; ``None`` when the server allows no more of them."""
        channel = None
        try:
            channel = self._open_session()
            return channel
        finally:
            with self._changed:
                self._opening = False
                if channel is not None:
                    self._all.add(channel)
                self._changed.notify_all()

    def _open_session(self) -> SftpChannel | None:
        import paramiko

        transport = self._transport
        if transport is None or not transport.is_active():
            transport = connect(self.login)
            with self._changed:
                if not self._closed:
                    self._transport = transport
            if self._transport is not transport:
                transport.close()
                raise StoreError(f"the store on sftp server {self.login.address} is closed")
        session = None
        try:
            session = transport.open_session(timeout=time_left(CONNECT_TIMEOUT))
            session.settimeout(time_left(IO_TIMEOUT))
            session.invoke_subsystem("sftp")
            return SftpChannel(paramiko.SFTPClient(session))
        except paramiko.ChannelException as error:
            with self._changed:
                if self._all:  # the server allows fewer sessions than we thought
                    self._size = len(self._all)
                    return None
            raise StoreError(
                f"sftp server {self.login.address} refused a session: {error}", retryable=True
            ) from error
        except Exception as error:
            if session is not None:
                session.close()
            text = f"no sftp session at {self.login.address}: {words_of(error)}"
            raise StoreError(text, retryable=True, hint="does the server offer the sftp subsystem?") from error

    def _give_back(self, channel: SftpChannel) -> None:
        with self._changed:
            if not self._closed and channel.alive and channel.transport is self._transport:
                self._idle.append(channel)
                self._changed.notify()
                return
        self._discard(channel)

    def _abandon(self, channel: SftpChannel) -> None:
        """The connection under a channel failed: whoever comes next gets a new one, whoever is busy may finish."""
        with self._changed:
            transport = channel.transport
            if transport is self._transport:
                self._transport = None
            stale = [other for other in self._idle if other.transport is transport]
            self._idle = [other for other in self._idle if other.transport is not transport]
        for other in [*stale, channel]:
            self._discard(other)

    def _discard(self, channel: SftpChannel) -> None:
        with contextlib.suppress(Exception):
            channel.close()
        with self._changed:
            self._all.discard(channel)
            transport = channel.transport
            unused = transport is not self._transport and all(c.transport is not transport for c in self._all)
            self._changed.notify_all()
        if unused:
            _hang_up(transport)

    def _forget_after_fork(self) -> None:
        """A forked child must not touch its parent's connection."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._transport, self._idle, self._all, self._opening = None, [], set(), False

    def close(self) -> None:
        """Close the connection and every channel. Idempotent."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            transport, self._transport = self._transport, None
            self._changed.notify_all()
        if self._pid != os.getpid():
            return
        for channel in idle:
            self._discard(channel)
        if transport is not None:
            _hang_up(transport)


def _hang_up(transport: Any) -> None:
    """Close a connection and wait for its thread."""
    with contextlib.suppress(Exception):
        transport.close()
    transport.join(5)
