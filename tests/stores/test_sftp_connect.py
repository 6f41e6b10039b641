"""Host keys as text, and where a URL goes."""

from __future__ import annotations

import base64

import pytest

from vfsstream.errors import UrlError
from vfsstream.stores.sftp import SftpStore, open_url
from vfsstream.stores.sftp_connect import SftpLogin, fingerprint, parse_host_key, words_of
from vfsstream.stores.url import parse_url

BLOB = len(b"ssh-ed25519").to_bytes(4, "big") + b"ssh-ed25519" + (32).to_bytes(4, "big") + bytes(32)
LINE = f"ssh-ed25519 {base64.b64encode(BLOB).decode()}"


def test_a_host_key() -> None:
    assert parse_host_key(LINE) == ("ssh-ed25519", BLOB)
    assert parse_host_key(f"{LINE} somebody@somewhere") == ("ssh-ed25519", BLOB)
    assert fingerprint(BLOB).startswith("SHA256:")
    assert not fingerprint(BLOB).endswith("=")


@pytest.mark.parametrize(
    "line", ["", "ssh-ed25519", "ssh-ed25519 !!!!", f"ssh-rsa {LINE.split()[1]}", "ssh-rsa AAAA"]
)
def test_no_host_key(line: str) -> None:
    with pytest.raises(UrlError, match="not a public key"):
        parse_host_key(line)


@pytest.mark.parametrize(
    ("login", "wanted"),
    [(("h", 22), "h"), (("h", 2222), "h:2222"), (("::1", 22), "[::1]"), (("::1", 2222), "[::1]:2222")],
)
def test_an_address(login: tuple[str, int], wanted: str) -> None:
    assert SftpLogin(*login, "u").address == wanted


def test_secrets_are_not_shown() -> None:
    shown = repr(SftpLogin("h", 22, "u", password="hunter2", key_passphrase="sesame"))
    assert "hunter2" not in shown
    assert "sesame" not in shown


def test_why_even_where_the_library_says_nothing() -> None:
    assert words_of(EOFError()) == "the server closed it"
    assert words_of(RuntimeError()) == "RuntimeError"
    assert words_of(OSError("broken: ")) == "broken"


def opened(url: str, **options: str) -> SftpStore:
    return open_url(parse_url(url), options)


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("sftp://u@h/data/db", "/data/db"),
        ("sftp://u@h//data/../db/", "/db"),
        ("sftp://u@h", ""),
        ("sftp://u@h/", "/"),
        ("sftp://u@h/a%20b", "/a b"),
        ("sftp://u@h/data/db?login-relative=true", "data/db"),
    ],
)
def test_the_place_of_a_url(url: str, root: str) -> None:
    assert opened(url).root == root


def test_user_password_and_port() -> None:
    login = opened("sftp://u%40x:p%3Aw@h:2222/db").login
    assert (login.user, login.password, login.host, login.port) == ("u@x", "p:w", "h", 2222)
    by_keys = open_url(parse_url("sftp://"), {"host": "h:2200", "user": "u", "path": "rel/db"})
    assert (by_keys.login.port, by_keys.root) == (2200, "rel/db")
    assert opened("sftp://[::1]:2222/db", user="u").login.host == "::1"
