"""Where a NATS server is and as whom to go there."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vfsstream.errors import AccessDenied

__all__ = ["REQUEST_TIMEOUT", "NatsLogin"]

REQUEST_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class NatsLogin:
    """Where to connect and as whom; the first way of the list that is set is used."""

    servers: Sequence[str]
    jwt: str | None = field(default=None, repr=False)
    seed: str | None = field(default=None, repr=False)
    creds: str | None = None
    nkey: str | None = field(default=None, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    tls: bool = False
    root_cas: Sequence[str] = ()
    client_cert: str | None = None
    client_key: str | None = None
    max_reconnects: int = -1
    reconnect_wait: float = 0.0
    timeout: float = REQUEST_TIMEOUT

    @property
    def address(self) -> str:
        """The servers, for messages."""
        return ",".join(server.partition("://")[2] for server in self.servers)

    @property
    def secure(self) -> bool:
        """Whether TLS is wanted."""
        return bool(self.tls or self.root_cas or self.client_cert)

    def check_files(self) -> None:
        """See that every file can be read: the libraries that read them do not say which one is missing.

        Raises:
            AccessDenied: one cannot.
        """
        _check_files({"creds": [self.creds], "root-cas": self.root_cas})
        _check_files({"client-cert": [self.client_cert], "client-key": [self.client_key]})

    def tls_context(self) -> ssl.SSLContext:
        """Whom to trust, and who we are."""
        context = ssl.create_default_context()
        for path in self.root_cas:
            context.load_verify_locations(os.path.expanduser(path))
        if self.client_cert and self.client_key:
            context.load_cert_chain(os.path.expanduser(self.client_cert), os.path.expanduser(self.client_key))
        return context

    def credentials(self) -> dict[str, Any]:
        """The first way that is set, as nats-py wants it."""
        if self.jwt and self.seed:
            jwt, seed = self.jwt.encode(), self.seed.encode()
            return {"user_jwt_cb": lambda: bytearray(jwt), "signature_cb": lambda nonce: _sign(seed, nonce)}
        if self.creds:
            return {"user_credentials": os.path.expanduser(self.creds)}
        if self.nkey:
            return {"nkeys_seed_str": self.seed or self.nkey}
        if self.user is not None and self.password is not None:
            return {"user": self.user, "password": self.password}
        return {"token": self.token} if self.token else {}


def _check_files(named: Mapping[str, Sequence[str | None]]) -> None:
    for key, paths in named.items():
        for path in filter(None, paths):
            try:
                with open(os.path.expanduser(path), "rb"):
                    pass
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise AccessDenied(f"{key} {path}: {reason}", hint="a file that this program can read") from error


def _sign(seed: bytes, nonce: str) -> bytes:
    import nkeys

    pair = nkeys.from_seed(bytearray(seed))
    try:
        return base64.b64encode(pair.sign(nonce.encode()))
    finally:
        pair.wipe()
