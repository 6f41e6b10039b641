"""What restore says of bad input: the thing is named, nothing is left behind, the old database stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vfsstream.ltx import TXID, Header, encode
from vfsstream.replica import Replica
from vfsstream.stores import FileStore

Golden = Callable[[str], Path]


def run(replica: Path, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vfsstream", "restore", *flags, "-o", str(output), f"file://{replica}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    return done


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def large(root: Path) -> Path:
    """A replica of one megabyte that does not compress."""
    import random

    noise = random.Random(1)
    pages = [(pgno, noise.randbytes(4096)) for pgno in range(1, 257)]
    Replica(FileStore(root)).write(9, 1, 1, encode(Header(4096, 256, TXID(1), TXID(1), 0), pages), timestamp=0)
    return root


def test_no_space(tiny_disk: Path, tmp_path: Path) -> None:
    output = tiny_disk / "app.db"
    output.write_bytes(b"old")
    done = run(large(tmp_path / "replica"), output, "-force")
    assert done.returncode != 0
    assert "the database needs 1048576" in done.stderr
    assert output.read_bytes() == b"old"
    assert names(tiny_disk) == ["app.db"]


def test_space_that_ends_while_the_database_is_written(tiny_disk: Path, tmp_path: Path) -> None:
    replica, output = large(tmp_path / "replica"), tiny_disk / "app.db"
    script = (
        "import sys, shutil\nfrom vfsstream.replica import Replica\nfrom vfsstream.replicate import restore, target\n"
        "target.shutil.disk_usage = lambda path: type('Usage', (), {'free': 1 << 40})\n"
        "restore.restore(Replica.open(sys.argv[1]), sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, replica, output],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert "DiskFull" in done.stderr
    assert "No space left on device" in done.stderr
    assert names(tiny_disk) == []


def test_a_directory_that_may_not_be_written(golden: Golden, tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)  # root may write anywhere else
    done = run(golden("empty"), tiny_disk / "app.db")
    assert done.returncode != 0
    assert f"cannot write {tiny_disk / 'app.db'}: Read-only file system" in done.stderr
    assert names(tiny_disk) == []


def test_a_directory_as_the_target(golden: Golden, tmp_path: Path) -> None:
    (tmp_path / "app.db").mkdir()
    replica = golden("empty")
    for flags in ((), ("-force",)):
        done = run(replica, tmp_path / "app.db", *flags)
        assert done.returncode != 0
        assert "it is a directory" in done.stderr


def test_a_damaged_file_is_named_with_the_nearest_clean_moment(golden: Golden, tmp_path: Path) -> None:
    root = golden("levels")
    shutil.rmtree(root / "ltx/9")
    for level in range(1, 9):
        shutil.rmtree(root / f"ltx/{level}", ignore_errors=True)
    raw = sorted((root / "ltx/0").iterdir())
    if not raw[0].name.startswith(f"{1:016x}"):
        pytest.fail("the fixture starts at TXID 1")
    victim = raw[len(raw) // 2]
    damaged = bytearray(victim.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    victim.write_bytes(damaged)
    done = run(root, tmp_path / "app.db")
    assert done.returncode != 0
    assert victim.name in done.stderr
    before = int(victim.name[:16], 16) - 1
    assert f"nearest restorable TXID is {TXID(before)}" in done.stderr
    assert not (tmp_path / "app.db").exists()
    assert run(root, tmp_path / "app.db", "-txid", str(TXID(before))).returncode == 0


def test_a_file_missing_in_the_chain(golden: Golden, tmp_path: Path) -> None:
    root = golden("levels")
    for level in range(1, 10):
        shutil.rmtree(root / f"ltx/{level}", ignore_errors=True)
    raw = sorted((root / "ltx/0").iterdir())
    missing = raw[len(raw) // 2]
    missing.unlink()
    txid = int(missing.name[:16], 16)
    done = run(root, tmp_path / "app.db")
    assert done.returncode != 0
    assert f"have up to TXID {TXID(txid - 1)} but the next file starts at {TXID(txid + 1)}" in done.stderr
    asked = run(root, tmp_path / "app.db", "-txid", str(TXID(txid)))
    assert f"nearest: {TXID(txid - 1)}" in asked.stderr
    assert not (tmp_path / "app.db").exists()
    assert run(root, tmp_path / "app.db", "-allow-gap").returncode == 0


def test_files_of_two_page_sizes_that_belong_to_two_databases(tmp_path: Path) -> None:
    replica = Replica(FileStore(tmp_path / "replica"))
    for txid, size, pages in ((1, 4096, 3), (2, 512, 1)):  # the second is no full image
        content = [(pgno, bytes(size)) for pgno in range(1, pages + 1)]
        replica.write(0, txid, txid, encode(Header(size, 3, TXID(txid), TXID(txid), 0), content), timestamp=0)
    done = run(tmp_path / "replica", tmp_path / "app.db")
    assert done.returncode != 0
    assert "page size 4096, expected 512" in done.stderr
    assert not (tmp_path / "app.db").exists()
