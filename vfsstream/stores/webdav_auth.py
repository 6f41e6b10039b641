"""Basic and Digest authentication: asked for once, sent ahead from then on."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import threading
from collections.abc import Iterable
from itertools import zip_longest

__all__ = ["Authenticator", "parse_challenges"]

_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9_-]*)(?=\s+[A-Za-z0-9_-]+\s*=|\s*(?:,|$))")
_DIGESTS = {"md5": "md5", "sha-256": "sha256", "sha-512-256": "sha512_256"}


def parse_challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """``WWW-Authenticate`` as ``(scheme in lower case, parameters)``, in the server's order."""
    starts = list(_SCHEME.finditer(header))
    found = []
    for here, following in zip_longest(starts, starts[1:]):
        part = header[here.end() : following.start() if following else len(header)]
        pairs = ((m[1].lower(), _unescaped(m[2]) if m[3] is None else m[3]) for m in _PARAMETER.finditer(part))
        values = dict(pairs)
        found.append((here[1].lower(), values))
    return found


class Authenticator:
    """The answer to a server's challenge, reused until the server asks again. Thread-safe.

    Args:
        user: or ``None`` to send no credentials.
    """

    def __init__(self, user: str | None, password: str | None) -> None:
        self.user, self._password = user, password or ""
        self._lock = threading.Lock()  # guards the three below
        self._scheme = ""
        self._challenge: dict[str, str] = {}
        self._count = 0

    def header(self, method: str, target: str) -> str | None:
        """The ``Authorization`` header of a request, once the server has said which kind it wants."""
        with self._lock:
            scheme, challenge = self._scheme, self._challenge
            self._count += 1
            count = self._count
        if not scheme or self.user is None:
            return None
        if scheme == "basic":
            return "Basic " + base64.b64encode(f"{self.user}:{self._password}".encode()).decode()
        return self._digest(method, target, challenge, count)

    def learn(self, challenges: Iterable[tuple[str, dict[str, str]]], sent: str | None) -> bool:
        """Take the strongest challenge we can answer. ``False``: it is no use to ask again.

        Args:
            sent: the header of the refused request.
        """
        if self.user is None:
            return False
        known = [(s, v) for s, v in challenges if s == "basic" or (s == "digest" and _usable(v))]
        if not known:
            return False
        scheme, values = max(known, key=lambda each: each[0] == "digest")
        if sent is not None and (scheme == "basic" or f'nonce="{values.get("nonce")}"' in sent):
            return False
        with self._lock:
            self._scheme, self._challenge, self._count = scheme, values, 0
        return True

    def _digest(self, method: str, target: str, challenge: dict[str, str], count: int) -> str:
        name = challenge.get("algorithm", "MD5")
        session = name.lower().endswith("-sess")
        kind = _DIGESTS[name.lower().removesuffix("-sess")]

        def digest(text: str) -> str:
            return hashlib.new(kind, text.encode(), usedforsecurity=False).hexdigest()

        realm, nonce, client = challenge.get("realm", ""), challenge.get("nonce", ""), secrets.token_hex(8)
        first = digest(f"{self.user}:{realm}:{self._password}")
        if session:
            first = digest(f"{first}:{nonce}:{client}")
        second = digest(f"{method}:{target}")
        fields = {"username": self.user, "realm": realm, "nonce": nonce, "uri": target}
        plain = {"algorithm": name}
        if "qop" in challenge:
            plain.update(qop="auth", nc=f"{count:08x}")
            fields["cnonce"] = client
            fields["response"] = digest(f"{first}:{nonce}:{count:08x}:{client}:auth:{second}")
        else:
            fields["response"] = digest(f"{first}:{nonce}:{second}")
        if "opaque" in challenge:
            fields["opaque"] = challenge["opaque"]
        quoted = [f'{key}="{_escaped(value or "")}"' for key, value in fields.items()]
        return "Digest " + ", ".join(quoted + [f"{key}={value}" for key, value in plain.items()])


def _usable(values: dict[str, str]) -> bool:
    kinds = [kind.strip() for kind in values.get("qop", "auth").split(",")]
    return values.get("algorithm", "MD5").lower().removesuffix("-sess") in _DIGESTS and "auth" in kinds


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
