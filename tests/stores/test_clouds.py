"""Bad input at the Google and Azure stores: one line that says which and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.servers.azurite import ACCOUNT, CONTAINER, KEY
from tests.stores.wire import Reply, wire
from vfsstream.errors import AccessDenied, DeadlineExceeded, UrlError
from vfsstream.stores.retry import RetryPolicy
from vfsstream.stores.url import open_store

FAST = RetryPolicy(attempts=3, base_delay=0.01, deadline=30)

azure = pytest.mark.xdist_group("azurite")
server_test = pytest.mark.server


@pytest.mark.parametrize(
    ("url", "keys", "said"),
    [
        ("gs:///p", {}, "no bucket"),
        (None, {"type": "gs"}, "no bucket"),
        ("abs:///p", {}, "no container"),
        ("abs://cont/p", {}, "no account"),
        ("abs://cont/p", {"endpoint": "http://h", "account-key": "azE="}, "without an account"),
    ],
)
def test_urls_without_a_place(url: str | None, keys: dict[str, str], said: str) -> None:
    with pytest.raises(UrlError, match=said) as caught:
        open_store(url, keys)
    assert caught.value.hint


@server_test
@azure
def test_a_wrong_account_key(server: Callable[[str], Any]) -> None:
    azurite = server("azurite")
    wrong = KEY[:-8] + "AAAAAA=="
    with open_store(azurite.url("x"), {**azurite.options, "account-key": wrong}, retry=FAST) as store:
        for call in (lambda: store.get("k"), lambda: list(store.list("d/")), lambda: store.put("k", b"")):
            with pytest.raises(AccessDenied) as caught:
                call()
            assert "account-key" in str(caught.value) or "role" in str(caught.value)


@server_test
@azure
def test_sas_tokens(server: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    azurite = server("azurite")

    def sas(allowed: str, hours: float) -> str:
        permission = ContainerSasPermissions.from_string(allowed)
        return generate_container_sas(
            ACCOUNT, CONTAINER, KEY, permission=permission, expiry=datetime.now(UTC) + timedelta(hours=hours)
        )

    place = {"endpoint": azurite.endpoint}
    monkeypatch.setenv("LITESTREAM_AZURE_SAS_TOKEN", "?" + sas("rwdl", 1))
    with open_store(f"abs://{CONTAINER}/sas", place, retry=FAST) as store:
        store.put("d/k", b"data", metadata={"timestamp": "2026-01-01T00:00:00Z"})
        assert store.get("d/k", 1, 2) == b"at"
        assert [info.key for info in store.list("d/")] == ["d/k"]
    with open_store(f"abs://{CONTAINER}/sas", {**place, "sas-token": sas("rl", 1)}, retry=FAST) as store:
        assert store.get("d/k") == b"data", "a key of the configuration beats the environment"
        with pytest.raises(AccessDenied, match="write, delete"):
            store.put("d/k", b"other")
        with pytest.raises(AccessDenied):
            store.delete(["d/k"])
    with (
        open_store(f"abs://{CONTAINER}/sas", {**place, "sas-token": sas("rl", -1)}, retry=FAST) as store,
        pytest.raises(AccessDenied, match="expired"),
    ):
        store.get("d/k")


def test_a_dead_endpoint_fails_within_the_deadline_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import google.cloud.storage  # noqa: F401 - the first import may take longer than the deadline

    from tests.servers.daemon import pick_port

    dead = f"http://127.0.0.1:{pick_port()}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", dead)
    short = RetryPolicy(attempts=99, base_delay=0.05, max_delay=0.1, deadline=2)
    for url, keys in (
        ("gs://b/p", {}),
        (f"abs://{ACCOUNT}@c/p", {"endpoint": f"{dead}/{ACCOUNT}", "account-key": KEY}),
    ):
        with open_store(url, keys, retry=short) as store:
            for call in (
                lambda s=store: s.get("d/k"),
                lambda s=store: [*s.list("d/")],
                lambda s=store: s.head("k"),
            ):
                with pytest.raises(DeadlineExceeded, match="refused"):
                    call()


def test_no_google_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", f"{tmp_path}/none.json")
    with (
        open_store("gs://b/p", retry=FAST) as store,
        pytest.raises(AccessDenied, match="GOOGLE_APPLICATION_CREDENTIALS"),
    ):
        store.get("k")


@server_test
@pytest.mark.xdist_group("radosgw")
def test_a_forked_child_has_connections_of_its_own(radosgw: Any) -> None:
    script = """
import os, sys
from vfsstream.stores.url import open_store
store = open_store(sys.argv[1], {"access-key-id": sys.argv[2], "secret-access-key": sys.argv[3]})
data = os.urandom(100_000)
store.put("d/k", data)
children = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        for n in range(50):
            if store.get("d/k", n * 1000, 1000) != data[n * 1000 :][:1000]:
                os._exit(1)
        os._exit(0)
    children.append(pid)
ours = all(store.get("d/k", n * 1000, 1000) == data[n * 1000 :][:1000] for n in range(50))
sys.exit(0 if ours and all(os.waitpid(pid, 0)[1] == 0 for pid in children) else 1)
"""
    # This server keeps connections open between requests, so that a shared one would mix two conversations.
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            script,
            radosgw.url("forked"),
            radosgw.access_key,
            radosgw.secret_key,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_server_of_googles_protocol_that_ignores_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    with wire() as line:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", line.endpoint)
        line.default = Reply(200, {}, b"0123456789")
        with open_store("gs://b/p", retry=FAST) as store:
            assert store.get("k", 2, 3) == b"234"
            assert store.get("k", -3) == b"789"
            assert b"".join(store.stream("k", 4)) == b"456789"
            line.script = [Reply(503), Reply(206, {"Content-Range": "bytes 0-9/100"}, b"0123456789", cut=3)]
            assert store.get("k") == b"0123456789"
            assert line.last().headers["range"] == "bytes=0-"
