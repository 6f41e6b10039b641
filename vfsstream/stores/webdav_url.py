"""From a ``webdav://`` URL and the configuration keys to a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from vfsstream.errors import UrlError
from vfsstream.stores.url import StoreUrl

if TYPE_CHECKING:
    from vfsstream.stores.webdav import WebDavStore

__all__ = ["open_url"]


def open_url(url: StoreUrl, options: Mapping[str, str]) -> WebDavStore:
    """The store of a ``webdav://`` (http) or ``webdavs://`` (https) URL, or of the configuration keys.

    Raises:
        UrlError: no server is named, or a value is impossible.
        MissingExtra: urllib3 is not installed.
    """
    from vfsstream.stores.webdav import WebDavStore

    user, password = options.get("webdav-username"), options.get("webdav-password")
    if url.host:
        scheme = "https" if url.scheme == "webdavs" else "http"
        base = f"{scheme}://{url.host}" + (f":{url.port}" if url.port else "")
        root = unquote(url.raw_path)
        user = url.user if url.user is not None else user
        password = url.password if url.password is not None else password
    else:
        base, root = options.get("webdav-url", ""), options.get("path", "")
        if not base:
            raise UrlError("a webdav replica needs a server", hint="webdav://host/path, or the key `webdav-url`")
        base, user, password = _separate(base, user, password)
    return WebDavStore(base, root, user, password)


def _separate(base: str, user: str | None, password: str | None) -> tuple[str, str | None, str | None]:
    scheme, mark, rest = base.partition("://")
    scheme = {"webdav": "http", "webdavs": "https"}.get(scheme.lower(), scheme.lower())
    if not mark or scheme not in ("http", "https"):
        raise UrlError(f"webdav-url {base!r} is not an http:// or https:// URL")
    netloc, slash, path = rest.partition("/")
    credentials, at, host = netloc.rpartition("@")
    if at:
        name, _, secret = credentials.partition(":")
        user, password = user or unquote(name), password or unquote(secret)
    try:
        named = urlsplit(f"{scheme}://{host}")
        fine = bool(named.hostname) and (named.port is None or named.port > 0)
    except ValueError:
        fine = False
    if not fine:
        raise UrlError(f"webdav-url {base!r} names no host", hint="http://HOST[:PORT][/PATH]")
    return f"{scheme}://{host}{slash}{path}", user, password
