"""Merging files of a replica, against what the real Litestream made of the same files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.conftest import GOLDEN
from vfsstream.errors import CorruptError, Interrupted, LtxError, StoreError
from vfsstream.ltx import TXID, Decoder, Encoder, Header, encode
from vfsstream.plan import FileInfo, restore_plan
from vfsstream.plan.compaction import Limits, Merge, plan_compaction
from vfsstream.replica import Replica
from vfsstream.replicate.compactor import Compactor
from vfsstream.replicate.pagesums import PageSums
from vfsstream.stores.file import FileStore
from vfsstream.stores.memory import MemoryStore

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = sorted(path.name for path in GOLDEN.iterdir())


def decoded(chunks: Iterable[bytes]) -> tuple[Header, list[tuple[int, bytes]]]:
    decoder = Decoder(chunks)
    return decoder.header, [(pgno, bytes(page)) for pgno, page in decoder]


def sources(files: dict[int, list[FileInfo]], made: FileInfo) -> list[FileInfo]:
    """The level below, as far as it makes up exactly this file and is all there."""
    below = [i for i in files[made.level - 1] if made.min_txid <= i.min_txid and i.max_txid <= made.max_txid]
    at = made.min_txid - 1
    for info in below:
        if info.min_txid != at + 1:
            return []
        at = int(info.max_txid)
    return below if at == made.max_txid else []


@pytest.mark.parametrize("name", NAMES)
def test_every_golden_file_is_what_we_make_of_its_sources(name: str, golden: Callable[[str], Path]) -> None:
    root = golden(name)
    files = Replica(FileStore(root)).all_files()
    store = MemoryStore()
    compared = 0
    for level in range(1, 9):
        for theirs in files[level]:
            inputs = sources(files, theirs)
            if not inputs:
                continue
            replica = Replica(FileStore(root))
            target = Replica(store, replica.layout)
            compactor = Compactor(_Split(replica, target))
            (ours,) = compactor.compact(Merge(level, tuple(inputs)))
            assert (ours.min_txid, ours.max_txid, ours.created_at) == (
                theirs.min_txid,
                theirs.max_txid,
                theirs.created_at,
            )
            assert target.fetch(ours, 0, 100).data == replica.fetch(theirs, 0, 100).data
            assert decoded(target.stream(ours)) == decoded(replica.stream(theirs))
            compared += 1
    assert compared or name in ("empty", "pruned")


class _Split(Replica):
    """Reads from one replica, writes to another (and reads back from there)."""

    def __init__(self, source: Replica, target: Replica) -> None:
        super().__init__(source.store, source.layout)
        self.source, self.target = source, target
        self.written: set[FileInfo] = set()

    def write(self, *args, **options):  # type: ignore[no-untyped-def]
        info = self.target.write(*args, **options)
        self.written.add(info)
        return info

    def stream(self, info: FileInfo, offset: int = 0):  # type: ignore[no-untyped-def]
        return (self.target if info in self.written else self.source).store.stream(self.key(info), offset)


def compacted(root: Path, levels: int = 3, limits: Limits = Limits()) -> Replica:
    """Throw Litestream's levels away and make our own from level 0 and the first snapshot."""
    replica = Replica(FileStore(root))
    for level in range(1, 9):
        shutil.rmtree(root / "ltx" / str(level), ignore_errors=True)
    compactor = Compactor(replica)
    files = replica.all_files()
    if not files[9] or files[9][0].max_txid > 1:
        compactor.snapshot(files[0][:1])
    for level in range(1, levels + 1):
        files = replica.all_files()
        plan = plan_compaction(level, files[level - 1], files[level], files[9], limits=limits)
        for merge in plan.merges:
            compactor.compact(merge)
    return replica


def run_restore(litestream: str, root: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [litestream, "restore", "-o", str(out), *options, f"file://{root}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.interop
@pytest.mark.parametrize("name", ["levels", "vacuum", "resnapshot", "mixed-0.5.15", "autovacuum-incremental"])
def test_litestream_restores_what_we_compacted(
    name: str, golden: Callable[[str], Path], litestream: str, tmp_path: Path
) -> None:
    root = golden(name)
    manifest = json.loads((root / "manifest.json").read_text())
    replica = compacted(root, limits=Limits(max_files=7))
    files = replica.all_files()
    assert len(files[1]) > 1 or len(files[0]) < 9
    keep = {0: files[0][-1:], 1: files[1], 2: files[2], 3: files[3], 9: files[9][:1]}
    for level in (0, 9):  # what level 1 and the first snapshot must make up for
        replica.delete(i for i in files[level] if i not in keep[level])
    steps = {str(i.max_txid) for level in (1, 2, 3, 9) for i in keep[level]}
    for position, (txid, expected) in enumerate(sorted(manifest["restore"]["txid"].items())):
        out = tmp_path / f"{position}.db"
        done = run_restore(litestream, root, out, "-txid", txid)
        if txid in steps and "sha256" in expected:
            assert done.returncode == 0, done.stderr
            assert hashlib.sha256(out.read_bytes()).hexdigest() == expected["sha256"]
    latest = tmp_path / "latest.db"
    assert run_restore(litestream, root, latest).returncode == 0
    assert hashlib.sha256(latest.read_bytes()).hexdigest() == manifest["restore"]["latest"]["sha256"]
    middle = files[1][len(files[1]) // 2]
    assert middle.created_at is not None
    at = tmp_path / "at.db"
    when = middle.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    done = run_restore(litestream, root, at, "-timestamp", when)
    wanted = restore_plan(replica.all_files(), timestamp=middle.created_at)[-1].max_txid
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(at.read_bytes()).hexdigest() == manifest["restore"]["txid"][str(wanted)]["sha256"]


def test_the_base_is_stored_once(golden: Callable[[str], Path]) -> None:
    replica = compacted(golden("levels"))
    files = replica.all_files()
    assert [i.min_txid for level in (1, 2, 3) for i in files[level][:1]] == [2] * sum(
        1 for level in (1, 2, 3) if files[level]
    )


def page(fill: int, size: int = 512) -> bytes:
    return bytes([fill]) * size


def small(replica: Replica, txid: int, pages: dict[int, int], commit: int = 3, size: int = 512) -> FileInfo:
    header = Header(size, commit, TXID(txid), TXID(txid), 1_700_000_000_000 + txid)
    chunks = encode(header, [(n, page(fill, size)) for n, fill in sorted(pages.items())])
    return replica.write(0, txid, txid, chunks, timestamp=header.timestamp)


@pytest.fixture
def replica() -> Replica:
    return Replica(MemoryStore())


def test_a_page_size_change_makes_two_files(replica: Replica) -> None:
    infos = [small(replica, 2, {1: 1}), small(replica, 3, {2: 2}), small(replica, 4, {1: 4}, 1, 1024)]
    made = Compactor(replica).compact(Merge(1, tuple(infos)))
    assert [(i.min_txid, i.max_txid) for i in made] == [(2, 3), (4, 4)]
    assert [decoded(replica.stream(i))[0].page_size for i in made] == [512, 1024]


def test_a_snapshot_of_a_history_whose_page_size_changed(replica: Replica) -> None:
    infos = [small(replica, 1, {1: 1, 2: 2, 3: 3}), small(replica, 2, {1: 4, 2: 5}, 2, 1024)]
    made = Compactor(replica).snapshot(infos)
    header, pages = decoded(replica.stream(made))
    assert (header.page_size, header.min_txid, header.max_txid) == (1024, 1, 2)
    assert [pgno for pgno, _ in pages] == [1, 2]


def test_a_full_image_becomes_a_snapshot_without_the_database(replica: Replica) -> None:
    info = small(replica, 7, {1: 1, 2: 2, 3: 3})
    made = Compactor(replica).snapshot([info])
    header, pages = decoded(replica.stream(made))
    assert (made.level, header.min_txid, header.max_txid, header.timestamp) == (9, 1, 7, 1_700_000_000_007)
    assert pages == [(1, page(1)), (2, page(2)), (3, page(3))]


def test_an_increment_is_no_snapshot(replica: Replica) -> None:
    info = small(replica, 7, {1: 1, 3: 3})
    with pytest.raises(LtxError):
        Compactor(replica).snapshot([info])
    assert list(replica.files(9)) == []


def test_a_local_copy_saves_the_download(replica: Replica, tmp_path: Path) -> None:
    infos = [small(replica, 2, {1: 1}), small(replica, 3, {2: 2})]
    paths = {}
    for info in infos:
        paths[int(info.min_txid)] = tmp_path / info.name
        paths[int(info.min_txid)].write_bytes(replica.fetch(info).data)
    store = replica.store
    assert isinstance(store, MemoryStore)
    store.calls.clear()
    Compactor(replica, local=paths.get).compact(Merge(1, tuple(infos)))
    assert [operation for operation, _ in store.calls] == ["put", "get"]  # the get reads back


def test_a_damaged_local_copy_is_replaced_by_the_replica_s(replica: Replica, tmp_path: Path) -> None:
    info = small(replica, 2, {1: 1, 2: 9})
    bad = bytearray(replica.fetch(info).data)
    bad[120] ^= 255
    (tmp_path / "bad").write_bytes(bad)
    (made,) = Compactor(replica, local=lambda txid: tmp_path / "bad").compact(Merge(1, (info,)))
    assert decoded(replica.stream(made))[1] == [(1, page(1)), (2, page(9))]


def test_a_damaged_input_is_named_and_nothing_is_written(replica: Replica) -> None:
    infos = [small(replica, 2, {1: 1}), small(replica, 3, {2: 2})]
    data = bytearray(replica.fetch(infos[1]).data)
    data[130] ^= 1
    replica.store.put(replica.key(infos[1]), bytes(data))
    with pytest.raises(LtxError, match=infos[1].name):
        Compactor(replica).compact(Merge(1, tuple(infos)))
    assert list(replica.files(1)) == []


def test_a_file_under_a_wrong_name_is_refused(replica: Replica) -> None:
    info = small(replica, 2, {1: 1})
    replica.store.put("ltx/0/" + "0" * 15 + "5-" + "0" * 15 + "5.ltx", replica.fetch(info).data)
    (wrong,) = (i for i in replica.files(0) if i.min_txid == 5)
    with pytest.raises(LtxError, match="header states TXIDs"):
        Compactor(replica).compact(Merge(1, (wrong,)))


class Forgetful(MemoryStore):
    """Says that it stored an object and keeps something else."""

    def put(self, key, source, **options):  # type: ignore[no-untyped-def]
        data = b"".join(source) if not isinstance(source, bytes) else source
        info = super().put(key, data, **options)
        if "/1/" in key:
            super().put(key, data[:-1] + b"\0", **options)
        return info


def test_what_does_not_read_back_is_an_error_and_removed() -> None:
    replica = Replica(Forgetful())
    info = small(replica, 2, {1: 1})
    with pytest.raises(CorruptError, match="not what was written"):
        Compactor(replica).compact(Merge(1, (info,)))
    assert list(replica.files(1)) == []
    assert list(replica.files(0)) == [info]


def test_a_failing_store_leaves_nothing_and_no_threads(replica: Replica) -> None:
    infos = [small(replica, n, {1: n}) for n in range(2, 12)]

    def fault(operation: str, key: str) -> None:
        if operation == "put":
            raise StoreError("no", retryable=True)

    assert isinstance(replica.store, MemoryStore)
    replica.store.fault = fault
    before = threading.active_count()
    with pytest.raises(StoreError):
        Compactor(replica).compact(Merge(1, tuple(infos)))
    assert threading.active_count() == before


def test_a_merge_can_be_interrupted(replica: Replica) -> None:
    stop = threading.Event()
    infos = [small(replica, n, {1: n}) for n in range(2, 5)]
    stop.set()
    with pytest.raises(Interrupted):
        Compactor(replica, stop=stop).compact(Merge(1, tuple(infos)))
    assert list(replica.files(1)) == []


def test_large_inputs_are_streamed_from_files(tmp_path: Path) -> None:
    replica = Replica(FileStore(tmp_path / "replica"))
    infos = []
    for txid in (1, 2, 3):
        header = Header(4096, 64, TXID(txid), TXID(txid), 1000 + txid)
        parts: list[bytes] = []
        encoder = Encoder(header, parts.append)
        for pgno in range(1, 65):
            encoder.add_page(pgno, os.urandom(4096))
        encoder.finish()
        infos.append(replica.write(0, txid, txid, parts, timestamp=header.timestamp))
    (made,) = Compactor(replica).compact(Merge(1, tuple(infos)))
    assert decoded(replica.stream(made))[1] == decoded(replica.stream(infos[-1]))[1]


MERGE = """
import sys
from pathlib import Path
from vfsstream.plan.compaction import plan_compaction
from vfsstream.replica import Replica
from vfsstream.replicate.compactor import Compactor
from vfsstream.replicate.pagesums import PageSums
from vfsstream.replicate.pagesums import PageSums
from vfsstream.stores.file import FileStore

import numpy

replica = Replica(FileStore(sys.argv[1]))
compactor = Compactor(replica, sums=PageSums(Path(sys.argv[1]) / "sums"))
for level in (1, 2):
    files = replica.all_files()
    for merge in plan_compaction(level, files[level - 1], files[level], files[9], leave_base=False).merges:
        compactor.compact(merge)
# VmHWM, not ru_maxrss: the latter is that of the parent when a large process starts a small one.
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(("size", "files", "pages"), [(4096, 2000, 15), (4096, 500, 60), (512, 200, 2000)])
def test_a_long_backlog_is_merged_in_bounded_memory(size: int, files: int, pages: int, tmp_path: Path) -> None:
    """Small files of pages that do not compress, larger ones, and files of many pages that compress to nothing."""
    replica = Replica(FileStore(tmp_path))
    for txid in range(2, files + 2):
        content = os.urandom(size) if size > 512 else bytes(size)
        header = Header(size, 1 << 20, TXID(txid), TXID(txid), 1_700_000_000_000 + txid)
        chunks = encode(header, ((pgno * files + txid, content) for pgno in range(pages)))
        replica.write(0, txid, txid, chunks, timestamp=header.timestamp)
    done = subprocess.run([sys.executable, "-c", MERGE, str(tmp_path)], capture_output=True, text=True, check=True)
    made = list(replica.files(1))
    assert sum(len(decoded(replica.stream(info))[1]) for info in made) == files * pages
    assert int(done.stdout) < 100


class Greedy(MemoryStore):
    """A store whose streams hold a whole file."""

    kind = "gcs"

    def __init__(self) -> None:
        super().__init__()
        self.streamed: list[str] = []

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        self.streamed.append(key)
        return super().stream(key, offset)


def test_streams_that_hold_much_are_not_used_for_many_inputs(tmp_path: Path) -> None:
    store = Greedy()
    replica = Replica(store)
    for txid in (2, 3):
        header = Header(65536, 40, TXID(txid), TXID(txid), 1_700_000_000_000)
        chunks = encode(header, [(pgno, os.urandom(65536)) for pgno in range(1, 41)])
        replica.write(0, txid, txid, chunks, timestamp=header.timestamp)
    compactor = Compactor(replica, sums=PageSums(tmp_path))
    files = tuple(replica.files(0))
    first = compactor.compact(Merge(1, files))
    compactor.compact(Merge(2, tuple(first)))
    assert all(key.startswith(("ltx/1/", "ltx/2/")) for key in store.streamed)  # the two that were read back
    assert len(store.streamed) == 2
    assert decoded(replica.stream(first[0]))[1] == decoded(replica.stream(files[1]))[1]
