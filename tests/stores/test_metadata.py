"""The name of an object's own time."""

from __future__ import annotations

from vfsstream.stores.base import TIMESTAMP
from vfsstream.stores.metadata import from_store, to_store


def test_the_time_goes_under_its_name_and_comes_back() -> None:
    given = {TIMESTAMP: "2026-01-02T03:04:05Z", "other": "x"}
    stored = to_store(given, "litestream-timestamp")
    assert stored == {"litestream-timestamp": "2026-01-02T03:04:05Z", "other": "x"}
    assert (
        from_store({"Litestream-Timestamp": stored["litestream-timestamp"], "Other": "x"}, "litestream-timestamp")
        == given
    )


def test_none() -> None:
    assert to_store(None, "t") == from_store(None, "t") == {}
