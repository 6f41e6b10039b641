"""A server that dies, comes back, or stops answering: operations go on, or end in time with the cause."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers.fixtures import SERVERS, start
from vfsstream.errors import StoreError
from vfsstream.stores.retry import RetryPolicy
from vfsstream.stores.url import open_store

pytestmark = [pytest.mark.server]

# Those whose objects outlive a kill of the process that serves them.
LASTING = [
    pytest.param(name, marks=pytest.mark.xdist_group(name))
    for name in ("radosgw", "gcs", "azurite", "sftp", "webdav", "nats")
    if name in SERVERS
]
PATIENT = RetryPolicy(attempts=10**6, base_delay=0.05, max_delay=0.3, deadline=90)
KEY = "ltx/0/{0:016x}-{0:016x}.ltx"


@pytest.fixture(params=LASTING)
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A server of its own, which may be harmed."""
    running = start(request.param, tmp_path_factory.mktemp(f"harmed-{request.param}"))
    for name, value in getattr(running, "client_environment", {}).items():
        monkeypatch.setenv(name, value)
    yield running
    running.stop()


def test_a_server_that_is_killed_and_started_again(daemon: Any) -> None:
    with open_store(daemon.url("db"), dict(daemon.options), retry=PATIENT) as store:
        store.put(KEY.format(1), b"one" * 1000)
        if getattr(daemon, "saves_late", False):
            daemon.stop()
        else:
            daemon.kill()
        results: dict[str, Any] = {}

        def run(name: str, call: Callable[[], Any]) -> None:
            try:
                results[name] = call()
            except Exception as error:
                results[name] = error

        calls: dict[str, Callable[[], Any]] = {
            "read": lambda: store.get(KEY.format(1), 3, 6),
            "stream": lambda: b"".join(store.stream(KEY.format(1))),
            "list": lambda: [info.key for info in store.list("ltx/0/")][:1],
            "write": lambda: store.put(KEY.format(2), b"two").size,
        }
        threads = [threading.Thread(target=run, args=item) for item in calls.items()]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        daemon.start()
        for thread in threads:
            thread.join(120)
        assert results == {"read": b"oneone", "stream": b"one" * 1000, "list": [KEY.format(1)], "write": 3}
        assert store.get(KEY.format(2)) == b"two"


def test_a_server_that_stops_answering(daemon: Any) -> None:
    hasty = RetryPolicy(attempts=10**6, base_delay=0.05, max_delay=0.1, deadline=1)
    with open_store(daemon.url("db"), dict(daemon.options), retry=hasty) as store:
        for number in (1, 2):
            store.put(KEY.format(number), b"one" * 1000)
        daemon.pause()
        time.sleep(0.5)  # its threads stop one after another
        try:
            for call in (lambda: store.get(KEY.format(2), 3, 6), lambda: [*store.list("ltx/0/")]):
                began = time.monotonic()
                with pytest.raises(StoreError) as caught:
                    call()
                assert time.monotonic() - began < 45
                assert "\n" not in str(caught.value)
        finally:
            daemon.resume()
        end = time.monotonic() + 60
        while True:
            try:
                assert store.get(KEY.format(1), 3, 6) == b"oneone"
                break
            except StoreError:
                assert time.monotonic() < end
