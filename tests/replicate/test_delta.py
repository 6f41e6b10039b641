"""Delta restore: the same bytes as a whole restore, for a fraction of the reading."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import GOLDEN
from vfsstream.errors import DatabaseError, Interrupted, LtxError, NotRestorable
from vfsstream.ltx import TXID, Header, encode
from vfsstream.plan.points import every_file, restorable
from vfsstream.replica import Replica
from vfsstream.replicate.delta import restore_delta
from vfsstream.replicate.follow import Follower, read_txid_file, write_txid_file
from vfsstream.replicate.restore import RestoreProgress, restore
from vfsstream.stores import FileStore, MemoryStore

Golden = Callable[[str], Path]


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["vacuum", "autovacuum-incremental", "levels", "pruned", "mixed-0.5.15", "ps512"])
def test_forward_and_back_it_equals_a_whole_restore(name: str, tmp_path: Path) -> None:
    replica = Replica(FileStore(GOLDEN / name))
    points = [int(point.max_txid) for point in restorable(every_file(replica.all_files()))]
    source = random.Random(1)
    for _ in range(8):
        base, wanted = source.choice(points), source.choice(points)
        whole = restore(replica, tmp_path / "whole.db", txid=wanted, force=True)
        restore(replica, tmp_path / "copy.db", txid=base, force=True)
        write_txid_file(tmp_path / "copy.db", TXID(base))
        result = restore_delta(replica, tmp_path / "copy.db", txid=wanted)
        assert sha(tmp_path / "copy.db") == sha(whole.output), (base, wanted)
        assert (result.base, result.txid) == (base, wanted)
        assert read_txid_file(tmp_path / "copy.db") == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "copy.db-txid", "whole.db"]


def growing(store: MemoryStore) -> Replica:
    """A database of 4 MB that does not compress, and a small change."""
    noise = random.Random(7)
    first = subprocess.run([sys.executable, "-c", MAKE], capture_output=True, check=True).stdout
    count = len(first) // 4096
    replica = Replica(store)
    pages = [(n + 1, first[n * 4096 : n * 4096 + 4096]) for n in range(count)]
    replica.write(9, 1, 1, encode(Header(4096, count, TXID(1), TXID(1), 0), pages), timestamp=0)
    changed = [pages[0], (count - 1, noise.randbytes(4096))]
    replica.write(0, 2, 2, encode(Header(4096, count, TXID(2), TXID(2), 1), changed), timestamp=1)
    return replica


MAKE = """
import apsw, random, sys, tempfile, os
with tempfile.TemporaryDirectory() as d:
    db = apsw.Connection(os.path.join(d, "x"))
    r = random.Random(3)
    db.execute("create table t(x)")
    with db:
        db.executemany("insert into t values(?)", ((r.randbytes(100_000),) for _ in range(40)))
    db.close()
    sys.stdout.buffer.write(open(os.path.join(d, "x"), "rb").read())
"""


def test_only_what_differs_is_fetched(tmp_path: Path) -> None:
    store = MemoryStore()
    replica = growing(store)
    restore(replica, tmp_path / "copy.db", txid=1)
    seen: list[RestoreProgress] = []
    result = restore_delta(replica, tmp_path / "copy.db", base=1, integrity_check="none", progress=seen.append)
    assert not result.full
    assert result.pages == 2
    assert result.read < 10_000
    assert seen[-1].done == seen[-1].total == result.read
    restore(replica, tmp_path / "whole.db")
    assert sha(tmp_path / "copy.db") == sha(tmp_path / "whole.db")


def test_where_the_kernel_cannot_copy_python_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(95, "not supported")

    monkeypatch.setattr("os.copy_file_range", refuse, raising=False)
    replica = growing(MemoryStore())
    restore(replica, tmp_path / "copy.db", txid=1)
    assert not restore_delta(replica, tmp_path / "copy.db", base=1, integrity_check="none").full
    restore(replica, tmp_path / "whole.db")
    assert sha(tmp_path / "copy.db") == sha(tmp_path / "whole.db")


def test_when_most_pages_differ_everything_is_restored(tmp_path: Path) -> None:
    noise = random.Random(5)
    replica, count = Replica(MemoryStore()), 3000
    first = [(n + 1, noise.randbytes(512)) for n in range(count)]
    second = [(n + 1, noise.randbytes(512)) for n in range(count // 2 + 1)]
    head = noise.randbytes(16) + (512).to_bytes(2, "big") + noise.randbytes(494)
    first[0] = second[0] = (1, head)
    replica.write(9, 1, 1, encode(Header(512, count, TXID(1), TXID(1), 0), first), timestamp=0)
    replica.write(0, 2, 2, encode(Header(512, count, TXID(2), TXID(2), 1), second), timestamp=1)
    replica.write(0, 3, 3, encode(Header(512, count, TXID(3), TXID(3), 1), second[:9]), timestamp=2)
    for base, full in ((1, True), (2, False)):
        restore(replica, tmp_path / "copy.db", txid=base, force=True)
        assert restore_delta(replica, tmp_path / "copy.db", base=base, integrity_check="none").full is full
        restore(replica, tmp_path / "whole.db", force=True)
        assert sha(tmp_path / "copy.db") == sha(tmp_path / "whole.db")


def test_a_copy_of_follow_mode_can_be_taken_back(golden: Golden, tmp_path: Path) -> None:
    replica = Replica(FileStore(golden("vacuum")))
    Follower(replica, tmp_path / "copy.db").start()
    newest = int(read_txid_file(tmp_path / "copy.db") or 0)
    for txid in (newest, 2):
        restore_delta(replica, tmp_path / "copy.db", txid=txid)
        restore(replica, tmp_path / "whole.db", txid=txid, force=True)
        assert sha(tmp_path / "copy.db") == sha(tmp_path / "whole.db")


def test_a_copy_that_was_written_to_is_refused_and_kept(tmp_path: Path) -> None:
    replica = growing(MemoryStore())
    restore(replica, tmp_path / "copy.db", txid=1)
    data = bytearray((tmp_path / "copy.db").read_bytes())
    data[4096 * 2 :] = bytes(len(data) - 4096 * 2)
    (tmp_path / "copy.db").write_bytes(data)
    with pytest.raises(DatabaseError, match="is not what the replica held"):
        restore_delta(replica, tmp_path / "copy.db", base=1)
    assert (tmp_path / "copy.db").read_bytes() == data


def test_without_the_files_between_everything_is_restored(golden: Golden, tmp_path: Path) -> None:
    root = golden("levels")
    replica = Replica(FileStore(root))
    restore(replica, tmp_path / "copy.db", txid=2)
    for level in "0123":
        shutil.rmtree(root / "ltx" / level)
    result = restore_delta(replica, tmp_path / "copy.db", base=2)
    assert result.full
    restore(replica, tmp_path / "whole.db")
    assert sha(tmp_path / "copy.db") == sha(tmp_path / "whole.db")


def test_another_page_size_is_a_whole_restore(golden: Golden, tmp_path: Path) -> None:
    restore(Replica(FileStore(golden("ps512"))), tmp_path / "copy.db", txid=1)
    replica = Replica(FileStore(golden("vacuum")))
    assert restore_delta(replica, tmp_path / "copy.db", base=1).full


def test_what_cannot_be_done_changes_nothing(golden: Golden, tmp_path: Path) -> None:
    replica = Replica(FileStore(golden("vacuum")))
    with pytest.raises(DatabaseError, match="no such database"):
        restore_delta(replica, tmp_path / "copy.db")
    restore(replica, tmp_path / "copy.db", txid=1)
    before = sha(tmp_path / "copy.db")
    with pytest.raises(DatabaseError, match=r"TXID of .* is not known"):
        restore_delta(replica, tmp_path / "copy.db")
    with pytest.raises(NotRestorable):
        restore_delta(replica, tmp_path / "copy.db", base=1, txid=999)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        restore_delta(replica, tmp_path / "copy.db", base=1, stop=stop)
    for path in (tmp_path / "golden-vacuum").rglob("*.ltx"):
        data = bytearray(path.read_bytes())
        data[-25] ^= 1
        path.write_bytes(data)
    with pytest.raises(LtxError):
        restore_delta(replica, tmp_path / "copy.db", base=1)
    assert sha(tmp_path / "copy.db") == before


def test_the_command(
    golden: Golden, vfsstream: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    url = f"file://{golden('vacuum')}"
    assert vfsstream("restore", "-o", tmp_path / "copy.db", "-txid", "1", url).returncode == 0
    refused = vfsstream("restore", "-delta", "-o", tmp_path / "copy.db", url)
    assert refused.returncode != 0
    assert "is not known" in refused.stderr
    done = vfsstream("restore", "-delta", "-base", "1", "-o", tmp_path / "copy.db", url)
    assert done.returncode == 0, done.stderr
    assert "from TXID 0000000000000001 to" in done.stderr
    restore(Replica(FileStore(tmp_path / "golden-vacuum")), tmp_path / "whole.db")
    assert sha(tmp_path / "copy.db") == sha(tmp_path / "whole.db")
    assert vfsstream("restore", "-base", "1", "-o", tmp_path / "x.db", url).returncode != 0
