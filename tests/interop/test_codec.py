"""Files that we encode and merge, given to the real Litestream."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GOLDEN
from vfsstream.ltx import TXID, Decoder, Header, encode, merge
from vfsstream.plan import restore_plan
from vfsstream.replica import Replica
from vfsstream.stores import FileStore

pytestmark = pytest.mark.interop
ALL = sorted(path.name for path in GOLDEN.iterdir())


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wanted(name: str) -> Any:
    return json.loads((GOLDEN / name / "manifest.json").read_text())["restore"]


def real_restore(litestream: str, root: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    output.unlink(missing_ok=True)
    command = [litestream, "restore", *options, "-o", str(output), f"file://{root}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def rewrite(source: Path, target: Path, change: Callable[[Decoder], Iterator[bytes]]) -> None:
    """Every file of a replica, written again by us."""
    for path in source.rglob("*.ltx"):
        out = target / path.relative_to(source)
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "rb") as file:
            decoder = Decoder([file.read()])
            out.write_bytes(b"".join(change(decoder)))
        milliseconds = decoder.header.timestamp
        os.utime(out, ns=(milliseconds * 10**6, milliseconds * 10**6))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("legacy", [False, True])
def test_every_file_encoded_by_us_is_restored_to_the_same_bytes(
    name: str, legacy: bool, litestream: str, tmp_path: Path
) -> None:
    rewrite(GOLDEN / name, tmp_path / "replica", lambda decoder: encode(decoder.header, decoder, legacy=legacy))
    done = real_restore(litestream, tmp_path / "replica", tmp_path / "out.db")
    assert done.returncode == 0, done.stderr
    assert sha(tmp_path / "out.db") == wanted(name)["latest"]["sha256"]


@pytest.mark.parametrize("name", ["levels", "vacuum", "pruned", "mixed-0.5.15", "blobs65536", "autovacuum-full"])
@pytest.mark.parametrize("legacy", [False, True])
def test_what_we_merge_is_restored_to_the_same_bytes(
    name: str, legacy: bool, litestream: str, tmp_path: Path
) -> None:
    replica = Replica(FileStore(GOLDEN / name))
    files = replica.all_files()
    for txid, expected in wanted(name)["txid"].items():
        if "error" in expected:
            continue
        plan = restore_plan(files, txid=int(txid, 16))
        data = b"".join(merge([replica.stream(info) for info in plan], legacy=legacy))
        header = Header.unpack(data)
        root = tmp_path / txid
        Replica(FileStore(root)).write(9, 1, int(txid, 16), data, timestamp=header.timestamp)
        done = real_restore(litestream, root, tmp_path / "out.db")
        assert done.returncode == 0, done.stderr
        assert sha(tmp_path / "out.db") == expected["sha256"]


def test_the_real_program_refuses_what_we_would_refuse(litestream: str, tmp_path: Path) -> None:
    """The control: without a right checksum the real program says no, so the tests above mean something."""
    rewrite(GOLDEN / "empty", tmp_path / "replica", lambda decoder: encode(decoder.header, decoder))
    (path,) = (tmp_path / "replica").rglob("*.ltx")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert real_restore(litestream, tmp_path / "replica", tmp_path / "out.db").returncode != 0


def test_an_increment_of_ours_on_a_replica_of_theirs(litestream: str, tmp_path: Path) -> None:
    rewrite(GOLDEN / "levels", tmp_path / "replica", lambda decoder: encode(decoder.header, decoder))
    replica = Replica(FileStore(tmp_path / "replica"))
    newest = restore_plan(replica.all_files())[-1]
    header = Decoder(replica.stream(newest)).header
    txid = int(newest.max_txid) + 1
    grown = Header(header.page_size, header.commit + 2, TXID(txid), TXID(txid), header.timestamp + 1000)
    pages = [(header.commit + 1, b"\1" * header.page_size), (header.commit + 2, b"\2" * header.page_size)]
    replica.write(0, txid, txid, encode(grown, pages), timestamp=grown.timestamp)
    assert real_restore(litestream, tmp_path / "replica", tmp_path / "out.db").returncode == 0
    data = (tmp_path / "out.db").read_bytes()
    assert len(data) == grown.commit * header.page_size
    assert data.endswith(pages[0][1] + pages[1][1])
