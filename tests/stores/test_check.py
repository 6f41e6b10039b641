"""The trial of a store: sound ones pass, and each defect is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vfsstream.errors import AccessDenied
from vfsstream.stores.base import Fetched, ObjectInfo, Source
from vfsstream.stores.check import check_store
from vfsstream.stores.file import FileStore
from vfsstream.stores.memory import MemoryStore


def verdicts(store: MemoryStore | FileStore) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in check_store(store, size=100_000)}


def test_a_sound_store(tmp_path: Path) -> None:
    store = MemoryStore()
    assert set(verdicts(store).values()) == {"ok"}
    assert list(store.list_prefixes("")) == [], "nothing is left behind"
    found = verdicts(FileStore(tmp_path))
    assert found.pop("clock skew") == "skip"
    assert found.pop("list with start") == "warn"
    assert set(found.values()) == {"ok"}
    assert list(tmp_path.iterdir()) == []


class _IgnoresRanges(MemoryStore):
    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        return super().fetch(key)


class _Unsorted(MemoryStore):
    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        return iter(sorted(super().list(prefix, start_after), key=lambda info: info.key, reverse=True))


class _IgnoresConditions(MemoryStore):
    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        return super().put(key, source, metadata=metadata)


class _KeepsEverything(MemoryStore):
    def delete(self, keys: object) -> None:
        pass


class _ForgetsTimes(_IgnoresConditions):
    def put(self, key: str, source: Source, **_: object) -> ObjectInfo:  # type: ignore[override]
        return MemoryStore.put(self, key, source)


@pytest.mark.parametrize(
    ("make", "name", "verdict"),
    [
        (_IgnoresRanges, "ranged get", "fail"),
        (_Unsorted, "list with start", "fail"),
        (_IgnoresConditions, "conditional put", "warn"),
        (_KeepsEverything, "delete", "fail"),
        (_ForgetsTimes, "own timestamp", "warn"),
        (lambda: MemoryStore(now=lambda: datetime.now(UTC) + timedelta(minutes=10)), "clock skew", "fail"),
        (lambda: MemoryStore(now=lambda: datetime.now(UTC) - timedelta(seconds=20)), "clock skew", "warn"),
    ],
)
def test_each_defect_is_found(make: Callable[[], MemoryStore], name: str, verdict: str) -> None:
    found = {finding.name: finding for finding in check_store(make(), size=100_000)}
    assert found[name].verdict == verdict, found[name]
    assert found[name].meaning


def test_no_permission_to_write() -> None:
    def fault(operation: str, key: str) -> None:
        if operation == "put":
            raise AccessDenied("no write for you", hint="ask for it")

    found = check_store(MemoryStore(fault=fault))
    assert (found[0].verdict, "no write for you" in found[0].detail) == ("fail", True)
    assert {finding.verdict for finding in found[1:]} == {"skip"}
