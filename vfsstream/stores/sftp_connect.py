"""SSH for the SFTP store: connecting, whom to trust, logging in."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vfsstream.errors import AccessDenied, StoreError, UrlError, VfsstreamError
from vfsstream.stores.deadline import time_left

__all__ = ["CONNECT_TIMEOUT", "SftpLogin", "connect", "fingerprint", "parse_host_key", "words_of"]

_log = logging.getLogger("vfsstream.sftp")

CONNECT_TIMEOUT = 10.0
KEEPALIVE = 30


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
    return StoreError(f"cannot open a session at {where}: {words_of(error)}", retryable=True)


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


def words_of(error: BaseException) -> str:
    """Why, also where the library says nothing."""
    text = str(error).strip().rstrip(":")
    return text or ("the server closed it" if isinstance(error, EOFError) else type(error).__name__)
