"""A replicator that is killed in the middle of taking the lease knows its own lease again at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from vfsstream.errors import LeaseHeld
from vfsstream.replicate.lease import Lease
from vfsstream.stores.base import ObjectInfo, Source
from vfsstream.stores.memory import MemoryStore

TTL = timedelta(minutes=1)


class Killed(BaseException):
    """The process ended here."""


class DeadlyStore(MemoryStore):
    """Kills its user before or after one of the steps that change it."""

    def __init__(self) -> None:
        super().__init__()
        self.deadly: tuple[str, str] | None = None

    def _step(self, when: str, what: str) -> None:
        if self.deadly == (when, what):
            self.deadly = None
            raise Killed

    def put(
        self, key: str, source: Source, *, metadata: Mapping[str, str] | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        self._step("before", "put")
        done = super().put(key, source, metadata=metadata, if_absent=if_absent)
        self._step("after", "put")
        return done

    def delete(self, keys: Iterable[str]) -> None:
        self._step("before", "delete")
        super().delete(keys)
        self._step("after", "delete")


@pytest.mark.parametrize("what", ["put", "delete"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_the_lease_is_taken(tmp_path: Path, when: str, what: str) -> None:
    store, memory = DeadlyStore(), tmp_path / "lease"
    Lease(store, memory, None, TTL).ensure()  # killed while it holds the lease
    store.deadly = (when, what)
    with pytest.raises(Killed):
        Lease(store, memory, None, TTL).ensure()
    last = Lease(store, memory, None, TTL)
    last.ensure()
    with pytest.raises(LeaseHeld):
        Lease(store, tmp_path / "elsewhere", "host-b:2", TTL).ensure()
    last.release()
    Lease(store, tmp_path / "elsewhere", "host-b:2", TTL).ensure()


def test_a_kill_while_the_first_lease_is_taken(tmp_path: Path) -> None:
    store, memory = DeadlyStore(), tmp_path / "lease"
    store.deadly = ("after", "put")
    with pytest.raises(Killed):
        Lease(store, memory, None, TTL).ensure()
    Lease(store, memory, None, TTL).ensure()


def test_a_lease_that_another_took_meanwhile_is_not_ours(tmp_path: Path) -> None:
    store, memory = DeadlyStore(), tmp_path / "lease"
    first = Lease(store, memory, None, TTL)
    first.ensure()
    first.release()
    store.deadly = ("before", "put")
    with pytest.raises(Killed):
        Lease(store, memory, None, TTL).ensure()
    Lease(store, tmp_path / "elsewhere", "host-b:2", TTL).ensure()
    with pytest.raises(LeaseHeld, match="host-b:2"):
        Lease(store, memory, None, TTL).ensure()
