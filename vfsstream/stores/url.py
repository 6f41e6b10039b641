"""Replica URLs: one grammar for every store, and the table of which module serves which scheme."""

from __future__ import annotations

import importlib
import os
import posixpath
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

from vfsstream.errors import UrlError
from vfsstream.stores.base import Store
from vfsstream.stores.retry import RetryPolicy, RetryStore, policy_for
from vfsstream.stores.trace import Trace, TraceStore

__all__ = [
    "STORE_OPTIONS",
    "StoreUrl",
    "joined",
    "key_prefix",
    "normalize_options",
    "open_store",
    "parse_url",
    "url_from_options",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BRACKETED = re.compile(r"\[[0-9A-Fa-f:]+(?:[.0-9]+)?(?:%25[\w.~-]+)?\](?::\d*)?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ARN = re.compile(r"s3://(arn:[^?]*?:accesspoint/[^/?]+)([^?]*)", re.IGNORECASE)
_BARE_IN_FILE_URL = frozenset(string.ascii_letters + string.digits + "-_.~%!$&'()*+,;=:@[]/")
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
_SIMILAR = {
    "gcs": "gs",
    "gcp": "gs",
    "azblob": "abs",
    "azure": "abs",
    "az": "abs",
    "ssh": "sftp",
    "scp": "sftp",
} | {
    "http": "webdav",
    "https": "webdavs",
    "dav": "webdav",
    "davs": "webdavs",
    "minio": "s3",
    "r2": "s3",
    "b2": "s3",
}


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


STORE_OPTIONS: Mapping[str, frozenset[str]] = {
    "file": _keys("path"),
    "s3": _keys(
        "access-key-id secret-access-key session-token region bucket path endpoint force-path-style sign-payload"
        " sign-accept-encoding require-content-md5 skip-verify storage-class part-size concurrency"
        " sse-customer-algorithm sse-customer-key sse-customer-key-path sse-kms-key-id"
    ),
    "gs": _keys("bucket path"),
    "abs": _keys("account-name account-key sas-token bucket endpoint path"),
    "sftp": _keys(
        "host user password key-path key-passphrase host-key known-hosts agent concurrent-writes login-relative"
        " path"
    ),
    "webdav": _keys("webdav-url webdav-username webdav-password path"),
    "nats": _keys(
        "bucket jwt seed creds nkey username password token tls root-cas client-cert client-key"
        " max-reconnects reconnect-wait timeout"
    ),
    "oss": _keys(
        "access-key-id secret-access-key session-token bucket region endpoint part-size concurrency"
        " signature-version path"
    ),
}
"""The configuration keys that each kind of store understands, by their names in the configuration file."""

_LOCAL = frozenset({"file", "memory"})
_PLACE_KEYS = ("path", "bucket", "host", "webdav-url")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A replica URL, taken apart.

    Attributes:
        scheme: lower case.
        user: decoded, or ``None``.
        password: decoded, or ``None``; never shown by ``repr``.
        host: as written, case kept, port excluded; empty when absent. An access point's whole ARN on ``s3``; all
            servers with their ports on ``nats``.
        port: or ``None``.
        path: decoded and cleaned, without leading slash; ``.`` when the URL has no path at all. On ``file`` an
            absolute directory.
        raw_path: as written, its leading slash included.
        query: the parameters, first value of each.
        text: the URL as given, or empty when the place is in the configuration keys.
    """

    scheme: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    host: str = ""
    port: int | None = None
    path: str = ""
    raw_path: str = ""
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    text: str = field(default="", repr=False)


def parse_url(text: str) -> StoreUrl:
    """Take a replica URL or a plain path apart.

    Raises:
        UrlError: an unknown scheme or a malformed part, named.
    """
    if not text.strip():
        raise UrlError("empty replica URL")
    if _CONTROL.search(text):
        raise UrlError(f"control character in replica URL {_shown(text)!r}")
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    if match is None or (len(scheme) == 1 and os.name == "nt"):
        return _plain_path(text)
    rest = text[match.end() :]
    if scheme == "file":
        return StoreUrl("file", path=_file_directory(text, rest), raw_path=rest, text=text)
    if scheme not in _MODULES:
        if not rest.startswith("//"):
            return _plain_path(text)
        raise _unknown_scheme(match[1], text)
    if not rest.startswith("//"):
        raise UrlError(f"malformed replica URL {_shown(text)!r}", hint=f"write {scheme}://…")
    if arn := _ARN.match(text):
        path = _cleaned(arn[2], text) if arn[2] else ""
        return StoreUrl("s3", host=arn[1], path=path, raw_path=arn[2], query=_query(text), text=text)
    if text[:9].lower() == "s3://arn:":
        raise UrlError(f"malformed access point in {_shown(text)!r}", hint="s3://arn:…:accesspoint/NAME[/path]")
    return _generic(scheme, rest[2:], text)


def _generic(scheme: str, rest: str, text: str) -> StoreUrl:
    rest = rest.partition("#")[0].partition("?")[0]
    netloc, slash, tail = rest.partition("/")
    userinfo, at, hostport = netloc.rpartition("@")
    user = password = None
    if at:
        name, colon, secret = userinfo.partition(":")
        user = _decoded(name, text)
        password = _decoded(secret, text) if colon else None
    host, port = (hostport, None) if scheme == "nats" else _split_port(hostport, text)
    return StoreUrl(
        scheme,
        user=user,
        password=password,
        host=host,
        port=port,
        path=_cleaned(slash + tail, text),
        raw_path=slash + tail,
        query=_query(text),
        text=text,
    )


def _plain_path(text: str) -> StoreUrl:
    return StoreUrl("file", path=os.path.abspath(os.path.expanduser(text)), raw_path=text, text=text)


def _unknown_scheme(scheme: str, text: str) -> UrlError:
    similar = _SIMILAR.get(scheme.lower())
    known = "one of: " + " ".join(sorted(_MODULES))
    hint = f"write {similar}://…" if similar else known
    return UrlError(f"unknown replica URL scheme {scheme!r} in {_shown(text)!r}", hint=hint)


def _shown(text: str) -> str:
    """A URL without its password."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:…@", text)


def _decoded(part: str, text: str) -> str:
    if _BAD_ESCAPE.search(part):
        raise UrlError(f"malformed %-escape in replica URL {_shown(text)!r}", hint="write a percent sign as %25")
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise UrlError(f"%-escape that is not UTF-8 in replica URL {_shown(text)!r}") from None


def _cleaned(raw: str, text: str) -> str:
    """Go's lexical clean, without the leading slash: an absent path is ``.``, a lone slash is empty."""
    path = _decoded(raw, text)
    return posixpath.normpath("/" + path.lstrip("/"))[1:] if path else "."


def _split_port(hostport: str, text: str) -> tuple[str, int | None]:
    if ("[" in hostport or "]" in hostport) and not _BRACKETED.fullmatch(hostport):
        raise UrlError(
            f"malformed host {hostport!r} in replica URL {_shown(text)!r}", hint="[IPV6 ADDRESS][:PORT]"
        )
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*):(\d*)", hostport, re.ASCII)
    if match is None:
        if ":" in hostport and not hostport.startswith("["):
            raise UrlError(f"malformed host {hostport!r} in replica URL {_shown(text)!r}", hint="HOST[:PORT]")
        return hostport, None
    if match[2] and not 0 < int(match[2]) < 65536:
        raise UrlError(f"port {match[2]} out of range in replica URL {_shown(text)!r}", hint="1 to 65535")
    return match[1], int(match[2]) if match[2] else None


def _query(text: str) -> dict[str, str]:
    query: dict[str, str] = {}
    for name, value in parse_qsl(text.partition("#")[0].partition("?")[2], keep_blank_values=True):
        query.setdefault(name, value)
    return query


def _file_directory(text: str, rest: str) -> str:
    """The directory of a file URL. Its path stays percent-encoded: ``a%20b`` is a name with a percent sign."""
    before, hash_, fragment = rest.partition("#")
    raw = before.partition("?")[0]
    if raw in ("", "//"):
        raise UrlError(f"no path in replica URL {text!r}", hint="file:///absolute/path")
    _decoded(raw, text)
    if not _BARE_IN_FILE_URL.issuperset(raw):
        raw = quote(unquote_to_bytes(raw), safe="$&+,/:;=@~")
    path = raw + hash_ + fragment
    if path.startswith("//"):
        path = posixpath.normpath("/" + path.lstrip("/"))
    return os.path.abspath(path)


def url_from_options(options: Mapping[str, object]) -> StoreUrl:
    """The place that configuration keys name when there is no URL; ``type`` says the kind, by default ``file``.

    Raises:
        UrlError: an unknown type, or no path for a folder.
    """
    scheme = str(options.get("type") or "file")
    if scheme not in _MODULES:
        known = " ".join(sorted(_MODULES))
        raise UrlError(f"unknown replica type {scheme!r}", hint=f"one of: {known}")
    if scheme != "file":
        return StoreUrl(scheme)
    path = str(options.get("path") or "")
    if not path:
        raise UrlError("no path for a file replica", hint="set path or url")
    path = re.sub(r"\A(?:sqlite3?)://", "", path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise UrlError(f"path {_shown(path)!r} is a URL", hint="write it under the key url")
    return StoreUrl("file", path=os.path.abspath(os.path.expanduser(path)), raw_path=path)


def normalize_options(scheme: str, options: Mapping[str, object] | None) -> dict[str, str]:
    """Configuration keys as text, checked against what this kind of store understands.

    Raises:
        UrlError: a key that the store does not know.
    """
    known = STORE_OPTIONS["webdav" if scheme == "webdavs" else scheme] | {"type", "url", "name"}
    result: dict[str, str] = {}
    for key, value in (options or {}).items():
        if key not in known:
            listed = " ".join(sorted(known))
            raise UrlError(f"unknown key {key!r} for a replica of type {scheme}", hint=f"known: {listed}")
        if value is None:
            continue
        if isinstance(value, bool):
            result[key] = "true" if value else "false"
        elif isinstance(value, Sequence) and not isinstance(value, str):
            result[key] = "\n".join(str(item) for item in value)
        else:
            result[key] = str(value)
    return result


def open_store(
    url: str | StoreUrl | None,
    options: Mapping[str, object] | None = None,
    *,
    retry: RetryPolicy | None = None,
    trace: Callable[[Trace], None] | None = None,
    max_concurrency: int | None = None,
) -> Store:
    """The store that a replica URL names, with retries. No request is made.

    Args:
        url: replica URL or plain path; ``None`` or empty takes the place from ``options``.
        options: configuration keys beside the URL, by their names in the configuration file.
        retry: how to try again; by default the policy of its kind. ``RetryPolicy(attempts=1)`` never does.
        trace: called after each attempt of an operation, from the thread that made it.
        max_concurrency: operations that may run at once; by default what its kind of store is good for, and any
            number on local ones.

    Raises:
        UrlError: a URL or key that cannot be understood or honoured.
        MissingExtra: the package for this store is not installed.
    """
    if not url:
        url = url_from_options(options or {})
        parsed = url
    else:
        parsed = parse_url(url) if isinstance(url, str) else url
    keys = normalize_options(parsed.scheme, options)
    if parsed.text:
        for key in _PLACE_KEYS:
            if keys.get(key):
                raise UrlError(f"url and {key} are both given for a replica", hint="give one of them")
    module = importlib.import_module(f"vfsstream.stores.{_MODULES[parsed.scheme]}")
    store: Store = module.open_url(parsed, keys)
    if trace is not None:
        store = TraceStore(store, trace)
    if max_concurrency is None and store.kind not in _LOCAL:
        max_concurrency = store.capabilities.max_concurrency
    if max_concurrency is not None:
        from vfsstream.stores.limit import LimitStore

        store = LimitStore(store, max_concurrency)
    return RetryStore(store, retry or policy_for(store.kind))


def key_prefix(url: StoreUrl, options: Mapping[str, str]) -> str:
    """What goes before every key where keys are joined and cleaned: empty, or ends with a slash."""
    path = url.path if url.text else options.get("path", "")
    cleaned = re.sub(r"\A//+", "/", posixpath.normpath(path)) if path else ""
    return "" if cleaned in ("", ".") else cleaned.rstrip("/") + "/"


def joined(url: StoreUrl, relative: str) -> StoreUrl:
    """The same place, one or more directories deeper."""
    path = posixpath.join(url.path, relative) if url.path not in ("", ".") else relative
    raw = posixpath.join(url.raw_path or "/", quote(relative))
    return replace(url, path=path, raw_path=raw)
