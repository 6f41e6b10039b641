"""Replica URLs: one grammar for every store, and the table of which module serves which scheme."""

from __future__ import annotations

import importlib
import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from vfsstream.errors import UrlError
from vfsstream.stores.base import Store

__all__ = ["StoreUrl", "open_store", "parse_url"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_MODULES = {
    "file": "file",
    "s3": "s3",
    "gs": "gcs",
    "abs": "azure",
    "sftp": "sftp",
    "nats": "nats",
    "webdav": "webdav",
    "webdavs": "webdav",
    "oss": "oss",
}


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A replica URL, taken apart.

    Attributes:
        scheme: lower case.
        user: decoded, or ``None``.
        password: decoded, or ``None``; never shown by ``repr``.
        host: as written, case kept, port excluded; empty when absent.
        port: or ``None``.
        path: decoded and cleaned, without leading slash; ``.`` when the URL has no path at all.
        raw_path: as written.
        query: the parameters, first value of each.
    """

    scheme: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    host: str = ""
    port: int | None = None
    path: str = ""
    raw_path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)


def parse_url(text: str) -> StoreUrl:
    """Take a replica URL or a plain path apart.

    Raises:
        UrlError: an unknown scheme or a malformed part, named.
    """
    match = _SCHEME.match(text)
    if match is None or (len(match[1]) == 1 and os.name == "nt"):
        if not text:
            raise UrlError("empty replica URL")
        return StoreUrl("file", path=os.path.abspath(text), raw_path=text)
    scheme = match[1].lower()
    if scheme not in _MODULES:
        known = " ".join(sorted(_MODULES))
        raise UrlError(f"unknown replica URL scheme {match[1]!r} in {text!r}", hint=f"one of: {known}")
    if scheme == "file":
        rest = text[match.end() :].split("?", 1)[0]
        path = posixpath.normpath("/" + rest[2:]) if rest.startswith("//") else os.path.abspath(rest)
        return StoreUrl("file", path="/" + path.lstrip("/"), raw_path=unquote(rest))
    raise UrlError(f"{scheme}:// replicas are not supported yet")


def open_store(url: str | StoreUrl, options: Mapping[str, str] | None = None) -> Store:
    """The store that a replica URL names. No request is made.

    Args:
        url: replica URL or plain path.
        options: configuration keys beside the URL, by their names in the configuration file.

    Raises:
        UrlError: a URL that cannot be understood.
        MissingExtra: the package for this store is not installed.
    """
    parsed = parse_url(url) if isinstance(url, str) else url
    if parsed.scheme == "file":
        from vfsstream.stores.file import FileStore

        return FileStore(parsed.path)
    module = importlib.import_module(f"vfsstream.stores.{_MODULES[parsed.scheme]}")
    store: Store = module.open_url(parsed, options or {})
    return store
