"""Wrong keys and credentials: one line that says which."""

from __future__ import annotations

import pytest

from vfsstream.errors import AccessDenied
from vfsstream.stores.url import open_store


@pytest.mark.server
@pytest.mark.xdist_group("sftp")
def test_a_host_key_mismatch_is_named(server) -> None:  # type: ignore[no-untyped-def]
    daemon = server("sftp")
    options = {**daemon.options, "host-key": (daemon.home / "id.pub").read_text().strip()}
    with open_store(daemon.url("x"), options) as store, pytest.raises(AccessDenied, match="host key mismatch"):
        store.get("a")


@pytest.mark.server
@pytest.mark.xdist_group("oss")
@pytest.mark.parametrize("version", ["v1", "v4"])
def test_signatures_of_both_versions(server, version: str) -> None:  # type: ignore[no-untyped-def]
    daemon = server("oss")
    options = {**daemon.options, "signature-version": version}
    with open_store(daemon.url(f"s{version}"), options) as store:
        store.put("a/b", b"1")
        assert [info.key for info in store.list("a/")] == ["a/b"]
        store.delete(["a/b"])
    wrong = {**options, "secret-access-key": "wrong"}
    with open_store(daemon.url("x"), wrong) as store, pytest.raises(AccessDenied, match="SignatureDoesNotMatch"):
        store.get("a/b")
