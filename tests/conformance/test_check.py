"""``vfsstream check`` finds nothing wrong with any of the real servers, and leaves nothing behind."""

from __future__ import annotations

from tests.conformance.targets import Place
from vfsstream.stores.check import check_store


def test_a_real_server_passes(place: Place) -> None:
    with place.open() as store:
        findings = check_store(store, size=1 << 20)
        failed = [finding for finding in findings if finding.verdict == "fail"]
        assert not failed, failed
        verdicts = {finding.name: finding.verdict for finding in findings}
        assert verdicts["put"] == verdicts["ranged get"] == verdicts["delete"] == "ok"
        assert verdicts["clock skew"] in ("ok", "skip")
        assert store.capabilities.can_put_if_absent is (verdicts["conditional put"] == "ok")
        assert not [name for name in store.list_prefixes("") if name.startswith("vfsstream-check")]
