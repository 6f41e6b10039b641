"""Where a configured replica is: its kind of storage, its URL and options, and its identity."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import re
from datetime import timedelta
from typing import Any

from vfsstream.config.schema import Config, Database, ReplicaConfig, StoreKeys, keys
from vfsstream.config.values import format_duration
from vfsstream.errors import ConfigError, MissingExtra, UsageError

__all__ = [
    "append_path",
    "destination",
    "find_database",
    "meta_path",
    "open_replica",
    "options_of",
    "scheme_of",
    "shown",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ALIASES = {"webdavs": "webdav"}
# What belongs to the replicator, not to the storage.
_NOT_STORAGE = frozenset(
    {"sync-interval", "max-sync-ltx-files", "auto-recover", "validation-interval", "age", "name", "url"}
)


def scheme_of(replica: ReplicaConfig, where: ConfigError | None = None) -> str:
    """The kind of storage: the URL's scheme, else ``type``, else a file.

    Raises:
        ConfigError: a URL of an unknown scheme.
    """
    if not replica.url:
        return replica.type or "file"
    match = _SCHEME.match(replica.url)
    scheme = _ALIASES.get(match[1].lower(), match[1].lower()) if match else ""
    if scheme in ("file", "s3", "gs", "abs", "sftp", "webdav", "nats", "oss"):
        return scheme
    path, line, dotted = (where.path, where.line, where.key) if where else (None, None, None)
    found = f"unknown scheme {match[1]!r}" if match else "not a URL: a scheme is needed, as file:///backup/app"
    hint = "one of: file s3 gs abs sftp webdav webdavs nats oss"
    raise ConfigError(found, path=path, line=line, key=dotted, hint=hint)


def options_of(config: StoreKeys, replica: ReplicaConfig) -> dict[str, Any]:
    """The storage's keys by their names in the file: the replica's own, then inherited ones."""
    scheme = scheme_of(replica)
    options: dict[str, Any] = {}
    for attribute, name, key in keys(ReplicaConfig):
        if name in _NOT_STORAGE or (key.schemes and scheme not in key.schemes):
            continue
        value = getattr(replica, attribute)
        if value is None and key.inherited and not (replica.url and name in ("bucket", "host")):
            value = getattr(config, attribute, None)
        if value is not None:
            options[name] = format_duration(value) if isinstance(value, timedelta) else value
    if config.skip_verify and "skip-verify" in options:
        options["skip-verify"] = True
    if replica.url:
        options.pop("type", None)
        options.pop("path", None)
    else:
        options["type"] = scheme
    return options


def append_path(replica: ReplicaConfig, relative: str) -> ReplicaConfig:
    """The replica of one database of a directory: ``relative`` joined to the path or to the URL's path."""
    from dataclasses import replace

    if not replica.url:
        return replace(replica, path=posixpath.join(replica.path or "", relative))
    url, question, query = replica.url.partition("?")
    return replace(replica, url=f"{url.rstrip('/')}/{relative}{question}{query}")


def find_database(config: Config, path: str) -> tuple[Database, ReplicaConfig] | None:
    """The entry that replicates a database, and its replica; databases of a ``dir`` entry are found too."""
    from vfsstream.config.checks import database_path

    wanted = database_path(path)
    for database in config.dbs:
        assert database.replica is not None
        if database.path and database_path(database.path) == wanted:
            return database, database.replica
        if database.dir:
            relative = os.path.relpath(wanted, database_path(database.dir))
            inside = not relative.startswith("..") and (database.recursive or "/" not in relative)
            if inside and fnmatch.fnmatchcase(os.path.basename(wanted), database.pattern or ""):
                return database, append_path(database.replica, relative.replace(os.sep, "/"))
    return None


def databases_in(entry: Database) -> list[str]:
    """The databases of a ``dir`` entry as they are now: names that match and files that start like one.

    Raises:
        UsageError: the directory cannot be read.
    """
    from pathlib import Path

    from vfsstream.config.checks import database_path
    from vfsstream.replicate.directory import scan

    found = scan(Path(database_path(entry.dir or "")), entry.pattern or "", recursive=entry.recursive)
    return [str(path) for path in found]


def meta_path(database: Database, path: str) -> str:
    """The directory of local state of a database that an entry names or covers."""
    from vfsstream.config.checks import database_path

    absolute = database_path(path)
    directory, name = os.path.split(absolute)
    if database.dir and (database.meta_dir or database.meta_path):
        relative = os.path.relpath(absolute, database_path(database.dir))
        if database.meta_dir:
            return os.path.join(database_path(database.meta_dir), f"{relative}-litestream")
        base = os.path.join(database_path(database.meta_path or ""), os.path.dirname(relative))
        return os.path.join(base, f".{name}-litestream")
    if database.meta_path:
        return database_path(database.meta_path)
    return os.path.join(directory, f".{name}-litestream")


def destination(config: StoreKeys, replica: ReplicaConfig) -> str:
    """What makes two replicas the same place; shows no secret."""
    if replica.url:
        url = re.sub(r"(?<=://)[^/@]*@", "", replica.url.partition("?")[0])
        query = re.search(r"[?&]endpoint=([^&]*)", replica.url)
        return f"{url.rstrip('/')}|{query[1] if query else ''}"
    options = options_of(config, replica)
    parts = (options.get(name) for name in ("endpoint", "host", "webdav-url", "bucket", "path"))
    scheme = scheme_of(replica)
    if scheme == "file":
        from vfsstream.config.checks import database_path

        return f"file://{database_path(replica.path or '')}|"
    return f"{scheme}|" + "|".join(str(part or "").strip("/") for part in parts)


def shown(config: StoreKeys, replica: ReplicaConfig) -> str:
    """The replica for a human, without secrets."""
    from vfsstream.config.secrets import redact

    if replica.url:
        return redact(replica.url)
    options = options_of(config, replica)
    scheme = scheme_of(replica)
    if scheme == "file":
        return f"file://{options.get('path', '')}"
    host = options.get("bucket") or options.get("host") or options.get("webdav-url") or ""
    return redact(f"{scheme}://{host}/{str(options.get('path') or '').lstrip('/')}")


def open_replica(config: StoreKeys, replica: ReplicaConfig, **wrappers: Any) -> Any:
    """The replica; no request is made.

    Args:
        wrappers: passed on to :func:`vfsstream.stores.open_store`, as ``trace``.

    Raises:
        UsageError: options that the storage does not take.
        MissingExtra: its package is not installed.
    """
    from vfsstream.config.checks import database_path
    from vfsstream.replica.replica import Replica
    from vfsstream.stores.url import open_store

    options = options_of(config, replica)
    if scheme_of(replica) == "file":
        url, options = replica.url or f"file://{database_path(replica.path or '')}", {}
    else:
        url = replica.url or ""
    try:
        return Replica(open_store(url, options, **wrappers))
    except MissingExtra:
        raise
    except UsageError as error:
        raise _located(config, replica, error) from None


def _located(config: StoreKeys, replica: ReplicaConfig, error: UsageError) -> ConfigError:
    """What a store says of its options, with the place in the file where they stand."""
    from vfsstream.config.secrets import redact

    text = redact(str(error))
    known = sorted((name for name in {**config.lines, **replica.lines} if name in text), key=len)
    name = known[-1] if known else "url" if "url" in replica.lines else None
    section: StoreKeys = replica if name is None or name in replica.lines else config
    line = (section.lines.get(name or "") or section.line) or None
    entries = enumerate(getattr(config, "dbs", ()))
    index = next((index for index, entry in entries if entry.replica is replica), None)
    prefix = "replica" if index is None else f"dbs[{index}].replica"
    dotted = ".".join(part for part in ("" if section is config else prefix, name) if part)
    return ConfigError(text, path=getattr(config, "file", "") or None, line=line, key=dotted, hint=error.hint)
