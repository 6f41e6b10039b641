# ruff: noqa: RUF009 - the fields are made by a function of our own
"""The configuration as dataclasses; each field is a key, with what the reference table says of it.

A field's name with dashes is its key in YAML. Sections are dataclasses of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import timedelta
from typing import Any

from vfsstream.config.kinds import BOOL, DURATION, INTEGER, SHARE, SIZE, STRING, STRINGS, Key, key, store

__all__ = [
    "Age",
    "Config",
    "Database",
    "Level",
    "Logging",
    "ReplicaConfig",
    "Retention",
    "Section",
    "Snapshot",
    "Socket",
    "StoreKeys",
    "Validation",
    "Verification",
    "key_of",
    "keys",
    "yaml_name",
]

ZERO = timedelta(0)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
TYPES = ("file", "s3", "gs", "abs", "sftp", "webdav", "nats", "oss")


@dataclass(init=False, repr=False, eq=False)
class Section:
    """A mapping of the file.

    Nothing is generated: an ``__init__`` for each of these would take a tenth of a second's start-up from every
    command, and a ``__repr__`` would show secrets.

    Attributes:
        lines: the line of every key that was given, by key; 0 for one from the environment.
        line: where the section starts.
    """

    lines: dict[str, int] = field(default_factory=dict, repr=False, kw_only=True)
    line: int = field(default=0, repr=False, kw_only=True)

    def __init__(self, **values: Any) -> None:
        for item in fields(self):
            if item.name in values:
                value = values.pop(item.name)
            else:
                value = item.default if item.default_factory is MISSING else item.default_factory()
            setattr(self, item.name, value)
        if values:
            raise TypeError(f"{type(self).__name__} has no {', '.join(values)}")

    def given(self, name: str) -> bool:
        """Whether a key was set, by its field name."""
        return yaml_name(name) in self.lines


@dataclass(init=False, repr=False, eq=False)
class Level(Section):
    """One compaction level."""

    interval: timedelta | None = key(DURATION, "time between two compactions into this level", above=ZERO)


@dataclass(init=False, repr=False, eq=False)
class Snapshot(Section):
    """Full images."""

    interval: timedelta | None = key(DURATION, "time between two snapshots", above=ZERO, shown="24h0m0s")
    retention: timedelta | None = key(DURATION, "how long snapshots are kept", above=ZERO, shown="24h0m0s")


@dataclass(init=False, repr=False, eq=False)
class Validation(Section):
    """Checks of the replica."""

    interval: timedelta | None = key(DURATION, "time between two checks of every level's chain; 0 = off")


@dataclass(init=False, repr=False, eq=False)
class Verification(Section):
    """Reading the replicas again, while replicating."""

    interval: timedelta | None = key(
        DURATION, "time between two verifications of each replica; 0 = off", above=ZERO, inclusive=True, ours=True
    )
    sample: float = key(
        SHARE, "share of the files that each one reads, others every time", 1.0, shown="100%", ours=True
    )
    cpu: float = key(SHARE, "share of one processor that it may use", 0.25, shown="25%", ours=True)
    integrity_check: str = key(
        STRING, "SQLite's check of the newest image", "none", choices=("none", "quick", "full"), ours=True
    )


@dataclass(init=False, repr=False, eq=False)
class Retention(Section):
    """Deletion of old files."""

    enabled: bool = key(BOOL, "false = never delete files of the replica", True)


@dataclass(init=False, repr=False, eq=False)
class Socket(Section):
    """The control socket."""

    enabled: bool = key(BOOL, "listen for register, start, stop, sync, list, info", False)
    path: str = key(STRING, "where the socket is", "/var/run/litestream.sock")
    permissions: int = key(INTEGER, "its file mode, as YAML octal", 0o600, shown="0600")


@dataclass(init=False, repr=False, eq=False)
class Logging(Section):
    """The log."""

    level: str = key(
        STRING, "least level that is shown", "info", choices=("trace", "debug", "info", "warn", "warning", "error")
    )
    type: str = key(STRING, "form of a line", "text", choices=("text", "json", "pretty"))
    stderr: bool = key(BOOL, "accepted; vfsstream always logs on stderr", False)
    source: bool = key(BOOL, "add the place in the source", False)


@dataclass(init=False, repr=False, eq=False)
class Age(Section):
    """Client-side encryption of Litestream 0.3; refused, because it would be ignored."""

    identities: list[str] = key(STRINGS, "refused: encryption is not supported", factory=list, secret=True)
    recipients: list[str] = key(STRINGS, "refused: encryption is not supported", factory=list, secret=True)


@dataclass(init=False, repr=False, eq=False)
class StoreKeys(Section):
    """Keys of a replica and its storage; at the top level they are defaults of every replica."""

    sync_interval: timedelta | None = key(
        DURATION, "average time between two uploads under constant writing", above=ZERO, shown="1s"
    )
    max_sync_ltx_files: int | None = key(
        INTEGER, "accepted; uploads are bounded by upload-concurrency", shown="256"
    )
    auto_recover: bool | None = key(BOOL, "accepted; damaged local state is always recovered from", shown="false")
    validation_interval: timedelta | None = key(DURATION, "accepted; use the top-level validation.interval")
    age: Age = key(None, "client-side encryption", factory=Age)
    bucket: str | None = store(STRING, "s3 gs abs nats oss", "bucket or container")
    region: str | None = store(STRING, "s3 oss", "region")
    endpoint: str | None = store(STRING, "s3 gs abs oss", "address of the service, for other providers")
    access_key_id: str | None = store(STRING, "s3 oss", "access key", secret=True)
    secret_access_key: str | None = store(STRING, "s3 oss", "secret key", secret=True)
    session_token: str | None = store(STRING, "s3 oss", "token that goes with temporary keys", secret=True)
    force_path_style: bool | None = store(BOOL, "s3", "bucket in the path, not in the host name")
    sign_payload: bool | None = store(BOOL, "s3", "sign the body of uploads", shown="true")
    sign_accept_encoding: bool | None = store(BOOL, "s3", "sign the Accept-Encoding header", shown="true")
    require_content_md5: bool | None = store(BOOL, "s3", "send Content-MD5 with deletions", shown="true")
    skip_verify: bool | None = store(BOOL, "s3 webdav", "do not verify TLS certificates")
    storage_class: str | None = store(STRING, "s3", "storage class of uploads")
    part_size: int | None = store(SIZE, "s3 oss", "size of multipart parts", inherited=False)
    concurrency: int | None = store(INTEGER, "s3 oss", "parts in flight", inherited=False)
    sse_customer_algorithm: str | None = store(STRING, "s3", "AES256, with sse-customer-key")
    sse_customer_key: str | None = store(STRING, "s3", "base64 of a 32-byte key kept by you", secret=True)
    sse_customer_key_path: str | None = store(STRING, "s3", "file holding sse-customer-key")
    sse_kms_key_id: str | None = store(STRING, "s3", "KMS key")
    account_name: str | None = store(STRING, "abs", "storage account")
    account_key: str | None = store(STRING, "abs", "account key", secret=True)
    sas_token: str | None = store(STRING, "abs", "shared access signature", secret=True)
    host: str | None = store(STRING, "sftp", "host and port")
    user: str | None = store(STRING, "sftp", "user")
    password: str | None = store(STRING, "sftp nats", "password", secret=True)
    key_path: str | None = store(STRING, "sftp", "private key file")
    host_key: str | None = store(STRING, "sftp", "the server's public key, as in authorized_keys", inherited=False)
    concurrent_writes: bool | None = store(BOOL, "sftp", "overlap write requests", shown="true")
    webdav_url: str | None = store(STRING, "webdav", "server URL", inherited=False)
    webdav_username: str | None = store(STRING, "webdav", "user", inherited=False)
    webdav_password: str | None = store(STRING, "webdav", "password", secret=True, inherited=False)
    jwt: str | None = store(STRING, "nats", "user token, with seed", secret=True)
    seed: str | None = store(STRING, "nats", "seed of jwt", secret=True)
    creds: str | None = store(STRING, "nats", "credentials file")
    nkey: str | None = store(STRING, "nats", "nkey seed", secret=True)
    username: str | None = store(STRING, "nats", "user")
    token: str | None = store(STRING, "nats", "token", secret=True)
    tls: bool | None = store(BOOL, "nats", "require TLS")
    root_cas: list[str] | None = store(STRINGS, "nats", "files of trusted certificates")
    client_cert: str | None = store(STRING, "nats", "client certificate file, with client-key")
    client_key: str | None = store(STRING, "nats", "key file of client-cert")
    max_reconnects: int | None = store(INTEGER, "nats", "attempts to reconnect; -1 = for ever", shown="-1")
    reconnect_wait: timedelta | None = store(DURATION, "nats", "pause between attempts", shown="2s")
    timeout: timedelta | None = store(DURATION, "nats", "of one request", shown="10s")


@dataclass(init=False, repr=False, eq=False)
class ReplicaConfig(StoreKeys):
    """Where a database is replicated to."""

    type: str | None = key(STRING, "kind of storage, when there is no url", choices=TYPES, shown="file")
    name: str | None = key(STRING, "accepted, without effect")
    url: str | None = key(STRING, "replica URL; instead of type, path and bucket")
    path: str | None = key(STRING, "path in the bucket, or directory")


@dataclass(init=False, repr=False, eq=False)
class Database(Section):
    """A database, or a directory of them."""

    path: str | None = key(STRING, "the database file")
    dir: str | None = key(STRING, "instead of path: replicate every database in this directory")
    pattern: str | None = key(STRING, "with dir: which file names, as `*.db`")
    recursive: bool = key(BOOL, "with dir: also subdirectories", False)
    watch: bool = key(BOOL, "with dir: follow databases that come and go", False)
    meta_path: str | None = key(STRING, "where local state is kept", shown=".NAME-litestream beside the database")
    meta_dir: str | None = key(STRING, "with dir: where local state of all its databases is kept")
    snapshot: Snapshot = key(None, "as at the top level; one value for all databases", factory=Snapshot)
    monitor_interval: timedelta = key(DURATION, "time between two thorough looks at the log", SECOND)
    checkpoint_interval: timedelta = key(DURATION, "longest time between checkpoints; 0 = no limit", MINUTE)
    busy_timeout: timedelta = key(DURATION, "longest wait for a lock of SQLite", SECOND)
    min_checkpoint_page_count: int = key(INTEGER, "pages in the log from which it is checkpointed", 1000, above=0)
    truncate_page_n: int = key(INTEGER, "pages in the log from which readers are waited for; 0 = default", 121359)
    max_sync_wal_bytes: int = key(INTEGER, "log bytes that one file covers at most; 0 = no limit", 64 << 20)
    restore_if_db_not_exists: bool = key(BOOL, "restore a missing database before starting", False)
    replica: ReplicaConfig | None = key(None, "where it is replicated to")
    replicas: list[ReplicaConfig] | None = key(None, "older spelling of replica: a list of exactly one")


@dataclass(init=False, repr=False, eq=False)
class Config(StoreKeys):
    """The whole file."""

    addr: str | None = key(STRING, "metrics, health and dashboard: `host:port`; without a host the loopback")
    mcp_addr: str | None = key(STRING, "MCP server over HTTP: `host:port`; without a host the loopback")
    mcp_token: str | None = key(STRING, "bearer token that MCP clients must send", secret=True, ours=True)
    socket: Socket = key(None, "the control socket", factory=Socket)
    levels: list[Level] | None = key(None, "compaction levels 1 to 8", shown="30s, 5m, 1h")
    snapshot: Snapshot = key(None, "full images", factory=Snapshot)
    validation: Validation = key(None, "checks of the replica", factory=Validation)
    l0_retention: timedelta = key(
        DURATION, "how long compacted level-0 files stay; 0 = not deleted", 5 * MINUTE, above=ZERO, inclusive=True
    )
    l0_retention_check_interval: timedelta = key(
        DURATION, "time between two looks for them", 15 * SECOND, above=ZERO
    )
    verify: Verification = key(None, "reading the replicas again", factory=Verification)
    verify_compaction: bool = key(BOOL, "accepted; every compaction is verified", False)
    retention: Retention = key(None, "deletion of old files", factory=Retention)
    heartbeat_url: str | None = key(
        STRING, "called while everything is replicated; http:// or https://", secret=True
    )
    heartbeat_interval: timedelta = key(DURATION, "between two calls", 5 * MINUTE, above=MINUTE, inclusive=True)
    shutdown_sync_timeout: timedelta = key(
        DURATION,
        "how long a stop tries to upload the rest; 0 = one attempt",
        30 * SECOND,
        above=ZERO,
        inclusive=True,
    )
    shutdown_sync_interval: timedelta = key(
        DURATION, "between two of these attempts", timedelta(milliseconds=500), above=ZERO
    )
    health_max_lag: timedelta = key(
        DURATION, "/healthz fails when a database is further behind than this", MINUTE, above=ZERO, ours=True
    )
    upload_concurrency: int = key(INTEGER, "files in flight per database", 1, above=0, ours=True)
    lease: bool = key(BOOL, "keep a second replicator away, where the storage can", True, ours=True)
    exec: str | None = key(STRING, "command to run; the end of it is the end of the replicator")
    logging: Logging = key(None, "the log", factory=Logging)
    dbs: list[Database] = key(None, "the databases", factory=list)
    file: str = field(default="", kw_only=True)
    warnings: list[str] = field(default_factory=list, kw_only=True)


LISTS: dict[str, type[Section]] = {"levels": Level, "replicas": ReplicaConfig, "dbs": Database}
SECTIONS: dict[str, type[Section]] = {
    "age": Age,
    "socket": Socket,
    "snapshot": Snapshot,
    "validation": Validation,
    "verify": Verification,
    "retention": Retention,
    "logging": Logging,
    "replica": ReplicaConfig,
}


def yaml_name(name: str) -> str:
    """A field's key in the file."""
    return name.replace("_", "-")


def key_of(item: Field[Any]) -> Key | None:
    """What a field says of itself as a key; ``None`` for bookkeeping."""
    found: Key | None = item.metadata.get("key")
    return found


def keys(section: type[Section]) -> Iterator[tuple[str, str, Key]]:
    """Every key of a section: field name, name in the file, description."""
    for item in fields(section):
        described = key_of(item)
        if described is not None:
            yield item.name, yaml_name(item.name), described
