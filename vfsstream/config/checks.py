"""Rules that span several keys: what may stand together, and what would be dangerous or useless."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from vfsstream.config.schema import Config, Database, ReplicaConfig, Section, StoreKeys, keys, yaml_name
from vfsstream.errors import ConfigError

__all__ = ["check", "database_path"]

_PREFIXES = ("sqlite://", "sqlite3://")
MAX_LEVELS = 8


def database_path(text: str) -> str:
    """The absolute path that the configuration means: ``~`` expanded, ``sqlite://`` stripped."""
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    if text == "~" or text.startswith("~/"):
        text = os.path.expanduser(text)
    return os.path.abspath(text)


def check(config: Config) -> None:
    """Refuse what cannot work or would not do what it says; collect warnings in ``config.warnings``.

    Raises:
        ConfigError: with file, line and key.
    """
    _check_top(config)
    paths: dict[str, int] = {}
    destinations: dict[str, str] = {}
    for index, database in enumerate(config.dbs):
        _check_database(config, database, f"dbs[{index}]")
        if database.path:
            _once(config, paths, database, index)
        _check_destination(config, destinations, database, index)
    _check_snapshots(config)


def _error(
    config: Config, section: Section, name: str, message: str, dotted: str, hint: str | None = None
) -> ConfigError:
    line = section.lines.get(name) or section.line or None
    from vfsstream.config.secrets import redact

    return ConfigError(redact(message), path=config.file or None, line=line, key=dotted, hint=hint)


def _check_top(config: Config) -> None:
    if config.levels is not None and len(config.levels) > MAX_LEVELS:
        raise _error(
            config, config, "levels", f"at most {MAX_LEVELS} levels, found {len(config.levels)}", "levels"
        )
    for index, level in enumerate(config.levels or []):
        if level.interval is None:
            raise _error(config, level, "interval", "an interval is required", f"levels[{index}].interval")
    if config.heartbeat_url and not config.heartbeat_url.startswith(("http://", "https://")):
        raise _error(config, config, "heartbeat-url", "must start with http:// or https://", "heartbeat-url")
    for name in ("addr", "mcp-addr"):
        address = getattr(config, name.replace("-", "_"))
        if address:
            _check_address(config, name, address)
    if config.exec is not None and not config.exec.strip():
        raise _error(config, config, "exec", "an empty command", "exec")
    if not 0 <= config.socket.permissions <= 0o777:
        raise _error(config, config.socket, "permissions", "expected octal, as 0600", "socket.permissions")
    _check_age(config, config, "age")
    if not config.retention.enabled:
        config.warnings.append("retention is off: files are never deleted from the replica")


def _check_address(config: Config, name: str, address: str) -> None:
    _, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and int(port) < 65536):
        hint = f"as 127.0.0.1:{address}" if address.isdigit() else "as 127.0.0.1:9090"
        raise _error(config, config, name, f"expected host:port, found {address!r}", name, hint)


def _check_age(config: Config, section: StoreKeys, dotted: str) -> None:
    if section.age.identities or section.age.recipients:
        hint = "use the storage's own encryption, as sse-kms-key-id; remove the age section"
        message = "encryption with age is not supported, and ignoring it would store plain data"
        raise _error(config, section, "age", message, dotted, hint)


def _check_database(config: Config, database: Database, dotted: str) -> None:
    if bool(database.path) == bool(database.dir):
        message = "path and dir exclude each other" if database.path else "path or dir is required"
        raise _error(config, database, "dir", message, dotted)
    if database.dir and not database.pattern:
        raise _error(
            config, database, "dir", "pattern is required with dir", f"{dotted}.dir", 'as pattern: "*.db"'
        )
    if database.path:
        for name in ("pattern", "recursive", "watch", "meta-dir"):
            if getattr(database, name.replace("-", "_")):
                raise _error(config, database, name, "only with dir", f"{dotted}.{name}")
    if database.meta_dir and database.meta_path:
        raise _error(
            config, database, "meta-dir", "meta-dir and meta-path exclude each other", f"{dotted}.meta-dir"
        )
    if database.truncate_page_n < 0 or database.max_sync_wal_bytes < 0:
        name = "truncate-page-n" if database.truncate_page_n < 0 else "max-sync-wal-bytes"
        raise _error(config, database, name, "must not be negative", f"{dotted}.{name}")
    if database.dir and database.restore_if_db_not_exists:
        config.warnings.append(f"{dotted}.restore-if-db-not-exists has no effect with dir")
    _check_replica(config, database, dotted)


def _check_replica(config: Config, database: Database, dotted: str) -> None:
    if database.replica is not None and database.replicas is not None:
        raise _error(config, database, "replicas", "replica and replicas exclude each other", f"{dotted}.replicas")
    if database.replicas is not None:
        if len(database.replicas) != 1:
            message = f"exactly one replica per database, found {len(database.replicas)}"
            hint = "keep one; 'vfsstream copy' feeds a second one from the first"
            raise _error(config, database, "replicas", message, f"{dotted}.replicas", hint)
        database.replica, dotted = database.replicas[0], f"{dotted}.replicas[0]"
    else:
        dotted = f"{dotted}.replica"
    if database.replica is None:
        raise _error(
            config, database, "replica", "a replica is required", dotted, "as replica: {url: s3://bucket/app}"
        )
    _check_replica_keys(config, database.replica, dotted)


def _check_replica_keys(config: Config, replica: ReplicaConfig, dotted: str) -> None:
    from vfsstream.config.replicas import scheme_of

    _check_age(config, replica, f"{dotted}.age")
    _join_nats_bucket(replica)
    if replica.path and "://" in replica.path:
        raise _error(config, replica, "path", "a URL where a path is expected", f"{dotted}.path", "use url:")
    if replica.url:
        for name in ("path", "bucket", "host", "webdav-url"):
            if replica.given(name.replace("-", "_")):
                raise _error(config, replica, name, f"url and {name} exclude each other", f"{dotted}.{name}")
    scheme = scheme_of(replica, _where(config, replica, dotted))
    if replica.url and replica.type and replica.type != scheme:
        config.warnings.append(f"{dotted}: type {replica.type} is ignored, the url is of type {scheme}")
    for _, name, key in keys(ReplicaConfig):
        if name in replica.lines and key.schemes and scheme not in key.schemes:
            message = f"has no meaning for {scheme} replicas"
            raise _error(config, replica, name, message, f"{dotted}.{name}", f"it is for: {' '.join(key.schemes)}")
    _check_required(config, replica, scheme, dotted)


def _join_nats_bucket(replica: ReplicaConfig) -> None:
    """Litestream's own example names the server in ``url`` and the bucket beside it: together they are one URL."""
    if replica.bucket and re.fullmatch(r"nats://[^/?#]+/?", replica.url or ""):
        replica.url = f"{(replica.url or '').rstrip('/')}/{replica.bucket}"
        replica.bucket = None
        replica.lines.pop("bucket", None)


def _where(config: Config, replica: ReplicaConfig, dotted: str) -> ConfigError:
    return _error(config, replica, "url", "", f"{dotted}.url")


def _check_required(config: Config, replica: ReplicaConfig, scheme: str, dotted: str) -> None:
    needed: dict[str, tuple[str, ...]] = {
        "file": ("path",),
        "s3": ("bucket",),
        "gs": ("bucket",),
        "abs": ("bucket",),
        "oss": ("bucket",),
    }
    needed |= {"nats": ("bucket",), "sftp": ("host", "user"), "webdav": ("webdav-url",)}
    if replica.url:
        return
    for name in needed[scheme]:
        attribute = name.replace("-", "_")
        if not getattr(replica, attribute) and not getattr(config, attribute, None):
            raise _error(
                config, replica, name, f"required for {scheme} replicas", f"{dotted}.{name}", "or give a url"
            )


def _once(config: Config, paths: dict[str, int], database: Database, index: int) -> None:
    assert database.path
    absolute = database_path(database.path)
    if absolute in paths:
        message = f"the same database as dbs[{paths[absolute]}]: {absolute}"
        raise _error(config, database, "path", message, f"dbs[{index}].path")
    paths[absolute] = index


def _check_destination(config: Config, seen: dict[str, str], database: Database, index: int) -> None:
    from vfsstream.config.replicas import destination

    assert database.replica is not None
    where = destination(config, database.replica)
    dotted = f"dbs[{index}].replica"
    if where in seen:
        message = f"the same destination as {seen[where]}; two databases in one place destroy each other"
        raise _error(config, database.replica, "url", message, dotted, "give each its own path")
    seen[where] = dotted


def _check_snapshots(config: Config) -> None:
    """Litestream has one snapshot policy; one given at a database becomes everybody's."""
    for attribute in ("interval", "retention"):
        first: str | None = None
        for index, database in enumerate(config.dbs):
            value = getattr(database.snapshot, attribute)
            if value is None:
                continue
            dotted = f"dbs[{index}].snapshot.{attribute}"
            current = getattr(config.snapshot, attribute)
            if current is None:
                setattr(config.snapshot, attribute, value)
                first = dotted
                config.warnings.append(f"{dotted} applies to all databases; write it at the top level")
            elif first is not None and current != value:
                raise _error(
                    config, database.snapshot, attribute, f"differs from {first}", dotted, "there is one policy"
                )


def secrets_of(config: Config) -> Iterator[str]:
    """Every secret value that was given."""
    sections: list[Section] = [config, *(db.replica for db in config.dbs if db.replica is not None)]
    for section in sections:
        for attribute, name, key in keys(type(section)):
            value = getattr(section, attribute)
            if key.secret and isinstance(value, str) and value and name == yaml_name(attribute):
                yield value
