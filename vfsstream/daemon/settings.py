"""From the configuration to the settings of the engines."""

from __future__ import annotations

from datetime import timedelta
from operator import attrgetter

from vfsstream.config.schema import Config, Database, ReplicaConfig, yaml_name
from vfsstream.daemon.verify import VerifySettings
from vfsstream.plan.retention import RetentionPolicy
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.timetable import MaintenanceSettings

__all__ = ["database_settings", "maintenance_settings", "needs_restart", "verify_settings"]

_FIXED = (
    "addr",
    "mcp_addr",
    "mcp_token",
    "socket.enabled",
    "socket.path",
    "socket.permissions",
    "heartbeat_url",
    "heartbeat_interval",
    "exec",
    "logging.level",
    "logging.type",
    "logging.source",
)
_LEAST = timedelta(milliseconds=1)


def database_settings(config: Config, database: Database, replica: ReplicaConfig) -> Settings:
    """Of one database."""
    interval = replica.sync_interval or config.sync_interval or timedelta(seconds=1)
    return Settings(
        monitor_interval=max(database.monitor_interval, _LEAST),
        sync_interval=interval,
        checkpoint_interval=max(database.checkpoint_interval, timedelta(0)),
        busy_timeout=max(database.busy_timeout, timedelta(0)),
        min_checkpoint_pages=database.min_checkpoint_page_count,
        truncate_pages=database.truncate_page_n,
        max_sync_wal_bytes=database.max_sync_wal_bytes,
        upload_concurrency=config.upload_concurrency,
        lease=config.lease,
        shutdown_sync_timeout=config.shutdown_sync_timeout,
        shutdown_sync_interval=config.shutdown_sync_interval,
    )


def maintenance_settings(config: Config) -> MaintenanceSettings:
    """The timetable of all databases."""
    policy = RetentionPolicy(
        l0=config.l0_retention,
        snapshots=config.snapshot.retention or timedelta(hours=24),
        delete_remote=config.retention.enabled,
    )
    default = MaintenanceSettings()
    levels = default.levels
    if config.levels is not None:
        levels = tuple(level.interval for level in config.levels if level.interval is not None)
    return MaintenanceSettings(
        levels=levels,
        snapshot_interval=config.snapshot.interval or default.snapshot_interval,
        retention=policy,
        l0_check_interval=config.l0_retention_check_interval,
        validation_interval=max(config.validation.interval or timedelta(0), timedelta(0)),
    )


def verify_settings(config: Config) -> VerifySettings:
    """The timetable of verification, the same for all databases."""
    given = config.verify
    return VerifySettings(given.interval or timedelta(0), given.sample, given.cpu, given.integrity_check)


def needs_restart(old: Config, new: Config) -> list[str]:
    """The keys that differ and that a running daemon cannot go over to: listeners, the child and the log."""
    return [yaml_name(name) for name in _FIXED if attrgetter(name)(old) != attrgetter(name)(new)]
