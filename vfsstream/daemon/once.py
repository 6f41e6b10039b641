"""One round without a daemon: capture, upload, and on request a snapshot and retention."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from vfsstream.config.schema import Config
from vfsstream.daemon.fleet import Target, check_replicas, targets
from vfsstream.daemon.logs import Log
from vfsstream.daemon.run import restore_missing
from vfsstream.daemon.settings import database_settings, maintenance_settings
from vfsstream.errors import UsageError
from vfsstream.replicate.catalogue import Catalogue
from vfsstream.replicate.database import Database
from vfsstream.replicate.replicator import once
from vfsstream.replicate.retention import Retention
from vfsstream.replicate.snapshot import snapshot_from_database

__all__ = ["run_once"]


def run_once(config: Config, *, snapshot: bool = False, retention: bool = False) -> list[dict[str, Any]]:
    """Every database in order; the first failure ends it.

    Raises:
        UsageError: no databases.
        DatabaseError, StoreError, ConflictError: not everything is in the replica.
    """
    for entry in config.dbs:
        entry.watch = False  # nothing to wait for
    wanted = list(targets(config))
    if not wanted:
        raise UsageError("no databases are configured", hint="give DB_PATH REPLICA_URL, or add dbs: to the file")
    check_replicas(wanted)
    restore_missing([t for t in wanted if t.database.restore_if_db_not_exists], Log(lambda line: None))
    return [_one(config, target, snapshot, retention) for target in wanted]


def _one(config: Config, target: Target, snapshot: bool, retention: bool) -> dict[str, Any]:
    settings = database_settings(config, target.database, target.replica)
    with target.open() as replica:
        answer: dict[str, Any] = {"db_path": target.path}
        with Database(target.path, replica, settings=settings, meta_dir=target.meta) as database:
            answer["txid"] = str(once(database, config.shutdown_sync_timeout.total_seconds() or 30.0))
            if snapshot:
                info = snapshot_from_database(database)
                database.snapshot_written(info.max_txid)
                answer["snapshot"] = info.name
            if retention:
                catalogue = Catalogue()
                catalogue.load(replica)
                policy = maintenance_settings(config).retention
                result = Retention(replica, catalogue, policy).enforce_snapshots(datetime.now(UTC))
                if result.blocked is not None:
                    raise result.blocked
                answer["deleted"] = [str(info) for info in result.deleted]
    return answer
