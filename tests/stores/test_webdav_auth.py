"""Challenges, and the answers to them."""

from __future__ import annotations

import hashlib
import re

import pytest

from vfsstream.stores.webdav_auth import Authenticator, parse_challenges


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ('Basic realm="dav"', [("basic", {"realm": "dav"})]),
        ("Negotiate", [("negotiate", {})]),
        (
            'Digest realm="a, \\"b\\"", nonce="n==", qop="auth,auth-int", algorithm=SHA-256, Basic realm="x"',
            [
                ("digest", {"realm": 'a, "b"', "nonce": "n==", "qop": "auth,auth-int", "algorithm": "SHA-256"}),
                ("basic", {"realm": "x"}),
            ],
        ),
        ("", []),
    ],
)
def test_challenges(header: str, wanted: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == wanted


def test_basic_is_sent_ahead_once_it_was_asked_for() -> None:
    auth = Authenticator("Aladdin", "open sesame")
    assert auth.header("GET", "/") is None
    assert auth.learn(parse_challenges('Basic realm="r"'), None)
    sent = auth.header("GET", "/")
    assert sent == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert not auth.learn(parse_challenges('Basic realm="r"'), sent), "it was refused: no use to ask again"


def test_without_a_user_nothing_is_sent() -> None:
    assert not Authenticator(None, None).learn(parse_challenges('Basic realm="r"'), None)


@pytest.mark.parametrize(("algorithm", "kind"), [("MD5", "md5"), ("SHA-256", "sha256"), ("MD5-sess", "md5")])
def test_digest(algorithm: str, kind: str) -> None:
    auth = Authenticator("Mufasa", "Circle of Life")
    challenge = (
        f'Digest realm="r@h", qop="auth", algorithm={algorithm}, nonce="nonce1", opaque="o", Basic realm="x"'
    )
    assert auth.learn(parse_challenges(challenge), None), "the stronger one"
    for count in (1, 2):
        sent = auth.header("GET", "/dir/i.html") or ""
        (_, fields), *_ = parse_challenges(sent)
        assert fields["nc"] == f"{count:08x}"
        assert (fields["username"], fields["opaque"], fields["uri"]) == ("Mufasa", "o", "/dir/i.html")

        def digest(text: str) -> str:
            return hashlib.new(kind, text.encode()).hexdigest()

        first = digest("Mufasa:r@h:Circle of Life")
        if algorithm.endswith("-sess"):
            first = digest(f"{first}:nonce1:{fields['cnonce']}")
        second = digest("GET:/dir/i.html")
        assert fields["response"] == digest(f"{first}:nonce1:{fields['nc']}:{fields['cnonce']}:auth:{second}")
        assert "Circle" not in sent
    assert not auth.learn(parse_challenges(challenge), sent), "the same nonce: the password is wrong"
    assert auth.learn(parse_challenges(challenge.replace("nonce1", "nonce2")), sent), "only the nonce was old"
    assert re.search("nc=00000001", auth.header("GET", "/") or "")


def test_a_digest_nobody_can_answer_falls_back() -> None:
    auth = Authenticator("u", "p")
    assert auth.learn(parse_challenges('Digest realm="r", nonce="n", algorithm=SHA-3, Basic realm="r"'), None)
    assert (auth.header("GET", "/") or "").startswith("Basic ")
    assert not Authenticator("u", "p").learn(parse_challenges('Digest realm="r", nonce="n", qop="auth-int"'), None)
