"""SSH for the SFTP store: connecting, whom to trust, logging in, and a bounded pool of channels."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vfsstream.errors import AccessDenied, StoreError, UrlError, VfsstreamError
from vfsstream.stores.deadline import time_left
from vfsstream.stores.sftp_wire import SftpChannel, SftpStatus, SourceFailed

__all__ = ["ChannelPool", "SftpLogin", "parse_host_key"]

_log = logging.getLogger("vfsstream.sftp")

IO_TIMEOUT = 30.0
CONNECT_TIMEOUT = 10.0
KEEPALIVE = 30
MAX_CHANNELS = 8
"""OpenSSH allows ten sessions on a connection; two are left to others."""


@dataclass(frozen=True, slots=True)
class SftpLogin:
    """Where to connect and as whom.

    Attributes:
        host_key: one line as in ``authorized_keys``; the server must have this key.
        known_hosts: file to look the server's key up in; ``None``: the user's own, if there is one.
        agent: ask a running SSH agent for keys.
    """

    host: str
    port: int
    user: str
    password: str | None = field(default=None, repr=False)
    key_path: str | None = None
    key_passphrase: str | None = field(default=None, repr=False)
    host_key: str | None = None
    known_hosts: str | None = None
    agent: bool = False

    @property
    def address(self) -> str:
        """Host and port, the port only where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 22 else f"{host}:{self.port}"


def parse_host_key(line: str) -> tuple[str, bytes]:
    """Type and bytes of a public key in the form of ``authorized_keys``.

    Raises:
        UrlError: it is not such a line.
    """
    parts = line.split()
    with contextlib.suppress(ValueError, IndexError):
        data = base64.b64decode(parts[1], validate=True)
        length = int.from_bytes(data[:4], "big")
        if data[4 : 4 + length].decode("ascii", "replace") == parts[0]:
            return parts[0], data
    raise UrlError(
        f"host-key {line!r} is not a public key", hint="one line as in authorized_keys: ssh-ed25519 AAAA..."
    )


def fingerprint(key: bytes) -> str:
    """As ssh shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def connect(login: SftpLogin) -> Any:
    """A connected, checked and authenticated paramiko Transport.

    Raises:
        AccessDenied: host key or credentials are wrong.
        StoreError: the server cannot be reached.
    """
    import paramiko

    sock = _dial(login)
    try:
        transport = paramiko.Transport(sock)
        transport.name = "vfsstream-ssh"
        transport.daemon = True
        _silence(transport)
        transport.banner_timeout = transport.auth_timeout = time_left(CONNECT_TIMEOUT)
        pinned = _expected_keys(login)
        _prefer_key_types(transport, [name for name, _ in pinned])
    except BaseException:
        sock.close()
        raise
    try:
        transport.start_client(timeout=time_left(CONNECT_TIMEOUT))
        _check_host_key(login, transport.get_remote_server_key(), pinned)
        _authenticate(login, transport)
        transport.set_keepalive(KEEPALIVE)
    except BaseException as error:
        transport.close()
        raise _connect_error(login, error) from error
    return transport


def _dial(login: SftpLogin) -> socket.socket:
    try:
        sock = socket.create_connection((login.host, login.port), timeout=time_left(CONNECT_TIMEOUT))
    except socket.gaierror as error:
        raise StoreError(
            f"sftp host {login.host!r} cannot be found: {error.strerror}",
            retryable=error.errno == socket.EAI_AGAIN,
            hint="check the host name in the replica URL",
        ) from error
    except OSError as error:
        raise StoreError(f"cannot connect to sftp server {login.address}: {error}", retryable=True) from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _silence(transport: Any) -> None:
    """What paramiko logs is raised as well; unasked it would print tracebacks."""
    channel = "vfsstream.sftp.paramiko"
    logger = logging.getLogger(channel)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    transport.set_log_channel(channel)


def _connect_error(login: SftpLogin, error: BaseException) -> BaseException:
    import paramiko

    if isinstance(error, VfsstreamError) or not isinstance(error, Exception):
        return error
    where = f"sftp server {login.address}"
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return StoreError(f"{where}: no common method: {error}")
    if isinstance(error, TimeoutError):
        return StoreError(f"{where} did not answer within {CONNECT_TIMEOUT:.0f} s", retryable=True)
    return StoreError(f"cannot open a session at {where}: {_words(error)}", retryable=True)


# Whom to trust


def _expected_keys(login: SftpLogin) -> list[tuple[str, bytes]]:
    if login.host_key:
        return [parse_host_key(login.host_key)]
    import paramiko

    path = Path(login.known_hosts).expanduser() if login.known_hosts else Path.home() / ".ssh" / "known_hosts"
    hosts = paramiko.HostKeys()
    try:
        hosts.load(str(path))
    except OSError as error:
        if login.known_hosts:
            raise AccessDenied(f"known-hosts file {path}: {error.strerror}") from error
        return []
    name = login.host if login.port == 22 else f"[{login.host}]:{login.port}"
    found = hosts.lookup(name) or {}
    keys = [(key.get_name(), key.asbytes()) for key in found.values()]
    if login.known_hosts and not keys:
        raise AccessDenied(f"known-hosts file {path} has no key of {name}", hint="add it, or set host-key")
    return keys


def _prefer_key_types(transport: Any, names: list[str]) -> None:
    """Ask first for the kind of key that we can check."""
    options = transport.get_security_options()
    rsa = ["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"]
    wanted = [kind for name in names for kind in (rsa if name == "ssh-rsa" else [name])]
    offered = list(options.key_types)
    first = [kind for kind in dict.fromkeys(wanted) if kind in offered]
    options.key_types = first + [kind for kind in offered if kind not in first]


def _check_host_key(login: SftpLogin, key: Any, expected: list[tuple[str, bytes]]) -> None:
    name, data = key.get_name(), key.asbytes()
    line = f"{name} {base64.b64encode(data).decode()}"
    if not expected:
        _log.warning(
            "the key of sftp server %s is not checked: set host-key to %r if it is the right one (%s)",
            login.address,
            line,
            fingerprint(data),
        )
        return
    if data not in [known for _, known in expected]:
        shown = ", ".join(f"{kind} {fingerprint(known)}" for kind, known in expected)
        raise AccessDenied(
            f"host key mismatch at sftp server {login.address}: "
            f"it has {name} {fingerprint(data)}, expected {shown}",
            hint=f"somebody may be in between; if the server was really set up anew, set host-key to: {line}",
        )


# Who we are


def _authenticate(login: SftpLogin, transport: Any) -> None:
    """Password, then key file, then agent: the first that the server accepts."""
    import paramiko

    refused: list[str] = []
    for name, attempt in _methods(login, transport):
        try:
            attempt()
        except paramiko.BadAuthenticationType as error:
            refused.append(f"{name} not accepted here, only {' '.join(error.allowed_types)}")
        except paramiko.AuthenticationException as error:
            refused.append(f"{name} refused" if "failed" in str(error) else f"{name}: {error}")
        if transport.is_authenticated():
            return
    tried = "; ".join(refused) or "no password and no key"
    raise AccessDenied(
        f"sftp server {login.address} refused user {login.user!r}: {tried}",
        hint="check user, password and key-path",
    )


def _methods(login: SftpLogin, transport: Any) -> Iterator[tuple[str, Any]]:
    if login.password is not None:
        yield "password", lambda: transport.auth_password(login.user, login.password)
    if login.key_path is not None:
        key = _load_key(login.key_path, login.key_passphrase)
        yield f"key {login.key_path}", lambda: transport.auth_publickey(login.user, key)
    if login.agent:
        import paramiko

        agent = paramiko.Agent()
        try:
            for key in agent.get_keys():
                yield "agent's key", lambda key=key: transport.auth_publickey(login.user, key)
        finally:
            agent.close()
    if login.password is None and login.key_path is None:
        yield "no credentials", lambda: transport.auth_none(login.user)


def _load_key(path: str, passphrase: str | None) -> Any:
    import paramiko

    place = Path(path).expanduser()
    secret = passphrase.encode() if passphrase else None
    try:
        return paramiko.PKey.from_path(place, secret)
    except OSError as error:
        raise AccessDenied(f"key-path {path}: {error.strerror or error}", hint="the private key file") from error
    except paramiko.PasswordRequiredException as error:
        raise AccessDenied(f"key-path {path} is encrypted", hint="set key-passphrase") from error
    except Exception as error:  # paramiko lets errors of the cryptography package through
        if isinstance(error, TypeError) and secret is None:
            raise AccessDenied(f"key-path {path} is encrypted", hint="set key-passphrase") from error
        raise AccessDenied(
            f"key-path {path} cannot be read: {error}", hint="a private key of OpenSSH or PEM"
        ) from error


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
        return StoreError(f"lost the connection to {where}: {_words(error)}", retryable=True)

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
            text = f"no sftp session at {self.login.address}: {_words(error)}"
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


def _words(error: BaseException) -> str:
    """Why, also where the library says nothing."""
    text = str(error).strip().rstrip(":")
    return text or ("the server closed it" if isinstance(error, EOFError) else type(error).__name__)
