"""Verification finds what is wrong and nothing else; a copy is a replica of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vfsstream.errors import Interrupted, LtxError, UsageError
from vfsstream.ltx import TXID
from vfsstream.replica import Replica
from vfsstream.replicate.copy import copy
from vfsstream.replicate.progress import FilesProgress
from vfsstream.replicate.restore import restore
from vfsstream.replicate.verify import verify
from vfsstream.stores import FileStore, MemoryStore

Golden = Callable[[str], Path]


@pytest.mark.parametrize("name", ["levels", "mixed-0.5.15", "pruned", "resnapshot", "vacuum"])
def test_golden_replicas_are_clean(name: str, golden: Golden) -> None:
    seen: list[FilesProgress] = []
    report = verify(Replica(FileStore(golden(name))), progress=seen.append, image=lambda txid: "ok")
    assert report.ok, report.problems
    assert report.checked == report.files == seen[-1].files
    assert report.bytes == seen[-1].total_bytes
    assert report.image == "ok"


def test_every_kind_of_damage_is_named(golden: Golden) -> None:
    root = golden("levels")
    level0 = sorted((root / "ltx" / "0").iterdir())
    level0[3].unlink()
    level0[7].write_bytes(level0[7].read_bytes()[:-1] + b"\0")
    level0[9].write_bytes(level0[8].read_bytes())
    report = verify(Replica(FileStore(root)), image=lambda txid: "row 7 missing")
    text = "\n".join(report.problems)
    assert report.problems[0].startswith("integrity check at TXID")
    assert f"{level0[7].name}: file checksum" in text
    assert f"{level0[9].name}: the header states TXIDs" in text
    assert "level 0: nothing between 0000000000000003 and 0000000000000005" in text
    assert len(report.problems) == 4


def test_an_unusable_replica_is_a_problem_not_an_exception() -> None:
    assert not verify(Replica(MemoryStore())).ok


def test_a_sample_reads_at_least_what_the_newest_restore_needs(golden: Golden) -> None:
    replica = Replica(FileStore(golden("levels")))
    part = verify(replica, sample=0.1, seed=1)
    assert 1 <= part.checked < part.files
    with pytest.raises(UsageError):
        verify(replica, sample=0)


def test_stop_ends_a_verification(golden: Golden) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        verify(Replica(FileStore(golden("levels"))), stop=stop)


def test_a_copy_restores_the_same_at_every_txid_and_again_copies_nothing(golden: Golden, tmp_path: Path) -> None:
    source = Replica(FileStore(golden("pruned")))
    destination = Replica(FileStore(tmp_path / "second"))
    planned = copy(source, destination, dry_run=True)
    assert list(destination.files(0)) == []
    result = copy(source, destination)
    assert result.copied == planned.copied
    assert destination.all_files() == source.all_files()  # times included
    again = copy(source, destination)
    assert (again.copied, again.skipped) == ((), len(result.copied))
    a = restore(source, tmp_path / "a.db").output.read_bytes()
    assert restore(destination, tmp_path / "b.db").output.read_bytes() == a


def test_a_damaged_file_is_not_copied(golden: Golden) -> None:
    root = golden("ps512")
    victim = sorted((root / "ltx" / "0").iterdir())[-1]
    victim.write_bytes(victim.read_bytes()[:-3] + b"\0\0\0")
    destination = Replica(MemoryStore())
    with pytest.raises(LtxError, match=victim.name):
        copy(Replica(FileStore(root)), destination)
    assert victim.name not in [info.name for info in destination.files(0)]


def test_an_interrupted_copy_goes_on_where_it_ended(golden: Golden) -> None:
    source = Replica(FileStore(golden("levels")))
    store = MemoryStore()
    stop = threading.Event()

    def after_five(operation: str, key: str) -> None:
        if sum(1 for done, _ in store.calls if done == "put") >= 5:
            stop.set()

    store.fault = after_five
    with pytest.raises(Interrupted):
        copy(source, Replica(store), stop=stop, parallelism=1)
    store.fault = None
    result = copy(source, Replica(store))
    assert result.skipped >= 4
    assert verify(Replica(store)).txid == TXID(62)
