"""Restores whose connections are cut and whose processes are killed, again and again."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.server import Fault, Request, S3Server
from tests.conftest import ROOT
from vfsstream.ltx import TXID, Header, encode
from vfsstream.replica import Replica
from vfsstream.replicate.partial import find_partial
from vfsstream.replicate.restore import restore
from vfsstream.stores import FileStore
from vfsstream.stores.retry import RetryPolicy
from vfsstream.stores.url import open_store

PAGE, COUNT = 4096, 8000
QUICKLY = RetryPolicy(attempts=50, base_delay=0.001, max_delay=0.01)


def make_replica(root: Path) -> str:
    """32 MB that do not compress, and ten small files; returns the sha256 of the database."""
    noise = random.Random(9)
    image = [noise.randbytes(PAGE) for _ in range(COUNT)]
    replica = Replica(FileStore(root))
    replica.write(9, 1, 1, encode(Header(PAGE, COUNT, TXID(1), TXID(1), 0), enumerate(image, 1)), timestamp=0)
    for txid in range(2, 12):
        pages = {pgno: noise.randbytes(PAGE) for pgno in sorted(noise.sample(range(1, COUNT + 1), 20))}
        for pgno, page in pages.items():
            image[pgno - 1] = page
        header = Header(PAGE, COUNT, TXID(txid), TXID(txid), txid)
        replica.write(0, txid, txid, encode(header, pages.items()), timestamp=txid)
    return hashlib.sha256(b"".join(image)).hexdigest()


def test_a_hundred_cut_connections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    expected = make_replica(tmp_path / "replica")
    roll = random.Random(4)
    cuts = [100]

    def cut(request: Request) -> Fault | None:
        if request.kind != "GET" or not cuts[0] or roll.random() < 0.4:
            return None
        cuts[0] -= 1
        return Fault(cut_after=roll.randrange(700_000))

    with S3Server() as server:
        server.faults.append(cut)
        with Replica(open_store(server.url("bucket", "app"), retry=QUICKLY)) as replica:
            for path in (tmp_path / "replica/ltx").glob("*/*.ltx"):
                replica.store.put(f"{int(path.parent.name):04x}/{path.name}", path.read_bytes())
            for turn in range(20):  # a cut behind the end of a small body does nothing
                result = restore(replica, tmp_path / f"{turn}.db")
                assert hashlib.sha256(result.output.read_bytes()).hexdigest() == expected
                if not cuts[0]:
                    break
    assert cuts[0] == 0


@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.soak)])
def test_killed_again_and_again_nothing_is_left_that_harms(kills: int, tmp_path: Path) -> None:
    expected = make_replica(tmp_path / "replica")
    target = tmp_path / "out"
    target.mkdir()
    (target / "app.db").write_bytes(b"the old one")
    # It notes how far it is every megabyte, so that nearly every kill leaves something to go on from.
    program = (
        "import sys\nfrom vfsstream.replicate import assemble\nassemble.SAVE_EVERY = 1 << 20\n"
        "from vfsstream.cli.app import run\nrun(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", program, "restore", "-force", "-o", str(target / "app.db")]
    roll = random.Random(6)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    noted = 0
    for _ in range(kills):
        process = subprocess.Popen(
            [*command, f"file://{tmp_path / 'replica'}"], env=environment, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + roll.uniform(0.05, 0.9)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        partial = find_partial(target / "app.db")
        if partial is not None:
            os.close(partial.descriptor)
            noted += 1
        found = (target / "app.db").read_bytes()
        assert found == b"the old one" or hashlib.sha256(found).hexdigest() == expected
        assert (
            len(list(target.iterdir())) <= 4
        )  # the old one, an unfinished one, its note, and that of a moment ago
    subprocess.run([*command, f"file://{tmp_path / 'replica'}"], env=environment, check=True, timeout=120)
    assert kills < 20 or noted > 2
    assert [path.name for path in target.iterdir()] == ["app.db"]
    assert hashlib.sha256((target / "app.db").read_bytes()).hexdigest() == expected
