"""The servers as fixtures: started when first asked for, one of a kind per test process, stopped at its end.

Tests of one server carry ``@pytest.mark.xdist_group(NAME)``, so that parallel test processes do not start it twice.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.daemon import Daemon

SERVERS = {
    "moto": ("tests.servers.moto", "Moto"),
    "radosgw": ("tests.servers.radosgw", "Radosgw"),
    "gcs": ("tests.servers.fake_gcs", "FakeGcs"),
    "azurite": ("tests.servers.azurite", "Azurite"),
    "sftp": ("tests.servers.sshd", "Sshd"),
    "nats": ("tests.servers.nats", "Nats"),
    "webdav": ("tests.servers.apache", "Apache"),
    "oss": ("tests.servers.oss", "Oss"),
}
"""Name, module, class. Each class has ``url(name)``, ``options`` and ``litestream(name)``."""


def start(name: str, home: Path) -> Daemon:
    """A running server of that kind with its files below ``home``; the caller stops it."""
    module, class_name = SERVERS[name]
    daemon: Daemon = getattr(importlib.import_module(module), class_name)(home)
    try:
        daemon.start()
    except BaseException:
        daemon.stop()
        raise
    return daemon


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Daemon]]:
    """``server("moto")`` is the running server of that name."""
    running: dict[str, Daemon] = {}

    def get(name: str) -> Daemon:
        if name not in running:
            running[name] = start(name, tmp_path_factory.mktemp(name))
        return running[name]

    yield get
    for daemon in running.values():
        daemon.stop()


@pytest.fixture(scope="session")
def moto(server: Callable[[str], Daemon]) -> Daemon:
    """S3 in memory."""
    return server("moto")


@pytest.fixture(scope="session")
def radosgw(server: Callable[[str], Daemon]) -> Daemon:
    """Ceph's S3 gateway."""
    return server("radosgw")
