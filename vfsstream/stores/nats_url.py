"""From a ``nats://`` URL and the configuration keys to a store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

from vfsstream.errors import UrlError
from vfsstream.stores.extras import require
from vfsstream.stores.nats_login import REQUEST_TIMEOUT, NatsLogin
from vfsstream.stores.url import StoreUrl

if TYPE_CHECKING:
    from vfsstream.stores.nats import NatsStore

__all__ = ["open_url"]

_BUCKET = re.compile(r"[A-Za-z0-9_-]+")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def open_url(url: StoreUrl, options: Mapping[str, str]) -> NatsStore:
    """The store of a ``nats://host[:port][,host2]/BUCKET`` URL, or of the configuration keys.

    Raises:
        UrlError: no server or no bucket is named, or a value is impossible.
        MissingExtra: nats-py is not installed.
    """
    require("nats", "nats", "nats:// replicas")
    from vfsstream.stores.nats import NatsStore

    given = {key: value for key, value in options.items() if value not in (None, "")}
    bucket = unquote(url.raw_path).strip("/") or given.get("bucket", "")
    if not bucket:
        raise UrlError("a nats replica needs a bucket", hint="nats://host/BUCKET")
    if not _BUCKET.fullmatch(bucket):
        raise UrlError(
            f"{bucket!r} is not the name of an object store bucket",
            hint="letters, digits, _ and - only; the whole path of a nats URL is the bucket",
        )
    if not url.host:
        raise UrlError("a nats replica needs a server", hint="nats://host[:4222]/BUCKET, under the key `url`")
    if ("client-cert" in given) != ("client-key" in given):
        raise UrlError("client-cert and client-key go together: only one of them is set")
    return NatsStore(_login(url, given), bucket)


def _login(url: StoreUrl, given: Mapping[str, str]) -> NatsLogin:
    user, password, token = given.get("username"), given.get("password"), given.get("token")
    if user is None and token is None and url.user is not None:
        if url.password is None:
            token = url.user
        else:
            user, password = url.user, url.password
    tls = str(given.get("tls", "false")).lower() in ("true", "1", "t", "yes")
    cas = [path.strip() for path in re.split(r"[,\n]", given.get("root-cas", "")) if path.strip()]
    secure = tls or bool(cas) or "client-cert" in given
    return NatsLogin(
        servers=_servers(url, "tls" if secure else "nats"),
        jwt=given.get("jwt"),
        seed=given.get("seed"),
        creds=given.get("creds"),
        nkey=given.get("nkey"),
        user=user,
        password=password,
        token=token,
        tls=tls,
        root_cas=cas,
        client_cert=given.get("client-cert"),
        client_key=given.get("client-key"),
        max_reconnects=_whole(given, "max-reconnects", -1),
        reconnect_wait=_seconds(given, "reconnect-wait", 0.0),
        timeout=_seconds(given, "timeout", REQUEST_TIMEOUT),
    )


def _servers(url: StoreUrl, scheme: str) -> list[str]:
    hosts = [host.strip() for host in url.host.split(",") if host.strip()]
    if url.port is not None:
        hosts[-1] = f"{hosts[-1]}:{url.port}"
    servers = []
    for host in hosts:
        name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if colon and (not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536):
            raise UrlError(f"port {port!r} of nats server {name!r} is not a number from 1 to 65535")
        servers.append(f"{scheme}://{host if colon else f'{host}:4222'}")
    return servers


def _whole(given: Mapping[str, str], key: str, default: int) -> int:
    try:
        return int(given.get(key, default))
    except ValueError as error:
        raise UrlError(f"{key}: {given[key]!r} is not a whole number") from error


def _seconds(given: Mapping[str, str], key: str, default: float) -> float:
    text = str(given.get(key, ""))
    if not text:
        return default
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UrlError(f"{key}: {text!r} is not a duration", hint="such as 10s or 500ms")
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))
