"""Signature version 4 for S3, without the SDK's request objects: a restore signs thousands of small reads."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["Keys", "sign"]

_UNSIGNED = frozenset({"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"})
"""Headers that proxies may change on the way."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SPACES = re.compile(r"\s+")


class Keys(NamedTuple):
    """Credentials.

    Attributes:
        access, secret: the key and what it signs with.
        token: of temporary credentials.
    """

    access: str
    secret: str
    token: str | None = None


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    payload: str,
    keys: Keys,
    region: str,
    now: float | None = None,
) -> dict[str, str]:
    """The headers to send, those given included.

    Args:
        url: percent-encoded as it goes out.
        headers: to be signed too; none of them names what signing itself adds.
        payload: SHA-256 of the body in hex, or what stands for it.
        now: seconds since 1970; by default the clock's.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    signed = {**headers, "X-Amz-Date": stamp, "X-Amz-Content-SHA256": payload}
    if keys.token:
        signed["X-Amz-Security-Token"] = keys.token
    parts = urlsplit(url)
    lines = {name.lower(): value for name, value in signed.items()}
    lines["host"] = _host(parts.scheme, parts.netloc)
    names = sorted(lines.keys() - _UNSIGNED)
    listed = ";".join(names)
    query = "&".join(sorted(parts.query.split("&"))) if "&" in parts.query else parts.query
    request = "\n".join(
        (
            method,
            parts.path or "/",
            query,
            *(f"{name}:{_SPACES.sub(' ', lines[name]).strip()}" for name in names),
            "",
            listed,
            payload,
        )
    )
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = hmac.digest(_signing_key(keys.secret, stamp[:8], region), text.encode(), "sha256").hex()
    signed["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access}/{scope}, SignedHeaders={listed}, Signature={signature}"
    )
    return signed


@lru_cache(maxsize=32)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key


@lru_cache(maxsize=32)
def _host(scheme: str, netloc: str) -> str:
    parts = urlsplit(f"{scheme}://{netloc}")
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return host if parts.port in (None, _DEFAULT_PORTS.get(scheme)) else f"{host}:{parts.port}"
