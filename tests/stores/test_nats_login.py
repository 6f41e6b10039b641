"""Every way to log in to a real nats-server, and what is said when it does not let us in."""

from __future__ import annotations

import base64
import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.daemon import running
from tests.servers.nats import Nats
from tests.stores.certificates import Authority
from vfsstream.errors import AccessDenied, StoreError
from vfsstream.stores.retry import RetryPolicy
from vfsstream.stores.url import open_store

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("nats")]

FAST = RetryPolicy(attempts=2, base_delay=0.05, deadline=20)
KEY = "ltx/0/0000000000000001-0000000000000001.ltx"


@contextmanager
def bucket(folder: Path, config: str, account: str = "", **connect: object) -> Iterator[str]:
    """``host:port/bucket`` of a server with that configuration."""
    with running(Nats(folder, config=config, account=account, **connect)) as daemon:
        daemon.create_bucket("b")  # type: ignore[attr-defined]
        yield f"127.0.0.1:{daemon.port}/b"


def works(url: str, options: Mapping[str, str] | None = None) -> None:
    with open_store(url, options, retry=FAST) as store:
        store.put(KEY, b"let in")
        assert store.get(KEY) == b"let in"
        assert [info.key for info in store.list("ltx/0/")] == [KEY]


def refused(url: str, options: Mapping[str, str] | None = None, said: str = "uthorization") -> None:
    with open_store(url, options, retry=FAST) as store, pytest.raises(AccessDenied, match=said) as caught:
        store.get(KEY)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    for secret in (options or {}).values():
        assert len(secret) < 12 or secret.startswith("/") or secret not in str(caught.value)


def test_user_and_password(tmp_path: Path) -> None:
    config = 'authorization { user: u, password: "p@ss/word-of-some-length" }'
    with bucket(tmp_path, config, user="u", password="p@ss/word-of-some-length") as place:
        works(f"nats://u:p%40ss%2Fword-of-some-length@{place}")
        works(f"nats://{place}", {"username": "u", "password": "p@ss/word-of-some-length"})
        refused(f"nats://{place}", {"username": "u", "password": "something else entirely"})
        refused(f"nats://{place}")


def test_a_token(tmp_path: Path) -> None:
    with bucket(
        tmp_path, 'authorization { token: "token-of-some-length" }', token="token-of-some-length"
    ) as place:
        works(f"nats://token-of-some-length@{place}")
        works(f"nats://{place}", {"token": "token-of-some-length"})
        refused(f"nats://{place}", {"token": "another-token-altogether"})


# Keys and signed accounts


class Pair:
    """An nkey of one role."""

    def __init__(self, role: str) -> None:
        import nkeys

        prefix = {"operator": nkeys.PREFIX_BYTE_OPERATOR, "account": nkeys.PREFIX_BYTE_ACCOUNT}
        seed = nkeys.encode_seed(os.urandom(32), prefix.get(role, nkeys.PREFIX_BYTE_USER))
        self.seed = bytes(seed).decode()
        self._pair = nkeys.from_seed(bytearray(seed))
        self.public = self._pair.public_key.decode()

    def issue(self, subject: str, name: str, kind: str, **rules: Any) -> str:
        """A JSON web token about ``subject``, signed with this key."""
        claims = {"jti": name, "iat": int(time.time()), "iss": self.public, "sub": subject, "name": name}
        claims["nats"] = {"type": kind, "version": 2, **rules}
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_url64(json.dumps(part).encode()) for part in (header, claims))
        return f"{text}.{_url64(self._pair.sign(text.encode()))}"


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_an_nkey(tmp_path: Path) -> None:
    user = Pair("user")
    config = f"authorization {{ users: [{{ nkey: {user.public} }}] }}"
    with bucket(tmp_path, config, nkeys_seed_str=user.seed) as place:
        works(f"nats://{place}", {"nkey": user.seed})
        works(f"nats://{place}", {"nkey": user.public, "seed": user.seed})
        refused(f"nats://{place}", {"nkey": Pair("user").seed})


@pytest.fixture
def signed(tmp_path: Path) -> tuple[str, str, str]:
    """A server's configuration with one account, and the token and seed of its user."""
    operator, system, account, user = Pair("operator"), Pair("account"), Pair("account"), Pair("user")
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    open_ended = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1}
    of_operator = operator.issue(operator.public, "operator", "operator")
    of_system = operator.issue(system.public, "system", "account", limits={**open_ended, "wildcards": True})
    of_account = operator.issue(
        account.public, "account", "account", limits={**open_ended, **storage, "wildcards": True}
    )
    of_user = account.issue(user.public, "user", "user", subs=-1, data=-1, payload=-1)
    config = (
        f"operator: {of_operator}\nsystem_account: {system.public}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {system.public}: {of_system}\n {account.public}: {of_account} }}\n"
    )
    return config, of_user, user.seed


def test_a_signed_token_and_a_credentials_file(tmp_path: Path, signed: tuple[str, str, str]) -> None:
    config, token, seed = signed
    creds = tmp_path / "user.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    with bucket(tmp_path / "server", config, user_credentials=str(creds)) as place:
        works(f"nats://{place}", {"creds": str(creds)})
        works(f"nats://{place}", {"jwt": token, "seed": seed})
        refused(f"nats://{place}", {"jwt": token, "seed": Pair("user").seed})
        refused(f"nats://{place}")
        refused(f"nats://{place}", {"creds": str(tmp_path / "no.creds")}, "no.creds")


# TLS


def test_a_server_with_a_certificate_of_an_authority_of_ones_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("server"), authority.issue("client")
    config = (
        f'tls {{ cert_file: "{server.certificate}", key_file: "{server.key}", ca_file: "{authority.certificate}",'
        " verify: true }"
    )
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(client.certificate, client.key)
    trust = {"root-cas": str(authority.certificate)}
    ours = {"client-cert": str(client.certificate), "client-key": str(client.key)}
    with bucket(tmp_path / "server", config, tls=context) as place:
        works(f"nats://{place}", {**trust, **ours})
        for options, said in (
            (ours, "CERTIFICATE_VERIFY_FAILED"),
            (trust, "client-cert and client-key"),
            ({"root-cas": str(tmp_path / "none.pem")}, "none.pem"),
        ):
            with open_store(f"nats://{place}", options, retry=FAST) as store:
                with pytest.raises(StoreError, match=said) as caught:
                    store.get(KEY)
                assert "\n" not in str(caught.value)
