"""A process to be killed: replicates databases with second-long levels until somebody ends it."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

from vfsstream.plan.retention import RetentionPolicy
from vfsstream.replicate.service import Service
from vfsstream.replicate.servicestatus import ServiceSettings
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.timetable import MaintenanceSettings


def fast() -> MaintenanceSettings:
    return MaintenanceSettings(
        levels=(timedelta(seconds=0.3), timedelta(seconds=0.9), timedelta(seconds=2)),
        snapshot_interval=timedelta(seconds=1.5),
        l0_check_interval=timedelta(seconds=0.2),
        retention=RetentionPolicy(l0=timedelta(seconds=0.6), snapshots=timedelta(seconds=4)),
    )


def main(database: str, url: str) -> None:
    settings = Settings(sync_interval=timedelta(seconds=0.05), lease_ttl=timedelta(seconds=1))
    with Service(ServiceSettings(maintenance=fast(), database=settings)) as service:
        service.register(Path(database), url)
        print("ready", flush=True)
        while True:
            time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
