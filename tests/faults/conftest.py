"""The stores of the conformance suite that lie behind a network and have been put through these faults."""

import pytest

from tests.conformance.conftest import place

__all__ = ["place"]

KINDS = ("moto", "radosgw", "gcs", "azurite", "sftp", "nats", "webdav", "oss")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        marks = {kind: [pytest.mark.xdist_group(kind), pytest.mark.server] for kind in KINDS}
        metafunc.parametrize("kind", [pytest.param(kind, marks=marks[kind], id=kind) for kind in KINDS])
