"""The same questions to Litestream's own extension and to ours: where it goes wrong, and that it reads the same."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.servers.daemon import Daemon
from tests.vfs.live import Primary, on_s3

pytestmark = pytest.mark.interop

LOAD = """
import apsw, litestream_vfs, sys
loader = apsw.Connection(":memory:")
loader.enable_load_extension(True)
loader.load_extension(litestream_vfs.loadable_path())
flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
"""


@pytest.fixture(autouse=True)
def _extension() -> None:
    if importlib.util.find_spec("litestream_vfs") is None:
        if os.environ.get("CI"):
            pytest.fail("pip install litestream-vfs==0.5.17")
        pytest.skip("pip install litestream-vfs==0.5.17")


def run(script: str, url: str, load: str = LOAD, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", load + script],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LITESTREAM_REPLICA_URL": url},
    )


OURS = """
import apsw, vfsstream
flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
"""


def test_both_read_the_same(golden: Callable[[str], Path]) -> None:
    script = """
db = apsw.Connection("file:x?vfs=litestream", flags=flags)
print(db.execute("SELECT count(*), sum(id), sum(length(v)) FROM t").get, db.pragma("litestream_txid"))
print(db.execute("SELECT litestream_time()").get)
"""
    for name in ("levels", "mixed-0.5.15", "vacuum", "ps512", "ps65536"):
        url = golden(name).as_uri()
        theirs, ours = run(script, url), run(script, url, OURS)
        assert ours.returncode == 0, ours.stderr
        theirs_lines = [line for line in theirs.stdout.splitlines() if not line.startswith("time=")]
        assert theirs_lines == ours.stdout.splitlines(), name


def test_other_connections_open_only_with_ours(golden: Callable[[str], Path]) -> None:
    script = "\nprint(apsw.Connection(':memory:').execute('SELECT 1').get)"
    url = golden("levels").as_uri()
    assert run(script, url).returncode != 0
    assert run(script, url, OURS).stdout == "1\n"


def test_the_change_counter_stands_still_only_with_ours(golden: Callable[[str], Path]) -> None:
    script = """
db = apsw.Connection("file:x?vfs=litestream", flags=flags)
seen = set()
for _ in range(4):
    db.execute("SELECT count(*) FROM t").get
    seen.add(db.pragma("data_version"))
print("versions", len(seen))
"""
    url = golden("levels").as_uri()
    assert "versions 4" in run(script, url).stdout
    assert run(script, url, OURS).stdout == "versions 1\n"


def test_a_poll_interval_of_nothing_kills_only_theirs(golden: Callable[[str], Path]) -> None:
    script = """
try:
    db = apsw.Connection("file:x?vfs=litestream&poll_interval=0s", flags=flags)
    import time; time.sleep(1)
except Exception as error:
    print(error)
"""
    url = golden("levels").as_uri()
    assert run(script, url).returncode != 0
    ours = run(script, url, OURS)
    assert ours.returncode == 0
    assert "poll_interval=0s" in ours.stdout


READER = """
import time
flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
readers, reads, bad, errors = [], 0, 0, {}
end = time.monotonic() + float(SECONDS)
while time.monotonic() < end:
    if len(readers) < 4:
        readers.append(apsw.Connection("file:x?vfs=litestream", flags=flags))
    for db in readers:
        try:
            row = db.execute("SELECT (SELECT n FROM counter), (SELECT ifnull(max(id), 0) FROM log),"
                             " (SELECT count(*) FROM log)").fetchall()[0]
            reads += 1
            bad += len(set(row)) != 1
        except Exception as error:
            errors[str(error)] = errors.get(str(error), 0) + 1
    time.sleep(0.25)
print("hammer reads", reads, "torn", bad, "errors", errors, flush=True)
"""


def hammer_both(primary: Primary, litestream: str, seconds: float) -> None:
    script = READER.replace("SECONDS", repr(os.environ.get("HAMMER_SECONDS", str(seconds))))
    with primary.replicating(litestream), primary.writing(20):
        command = [sys.executable, "-c", LOAD + script]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LITESTREAM_REPLICA_URL": primary.url}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as theirs:
            try:
                ours = run(script, primary.url, OURS, seconds + 120)
                said, _ = theirs.communicate(timeout=120)
            finally:
                theirs.kill()
    print("theirs:", [line for line in said.splitlines() if "hammer" in line] or said[-500:])
    print("ours:  ", ours.stdout)
    assert " torn 0 errors {}" in ours.stdout, ours.stdout + ours.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Primary]:
    made = Primary(tmp_path)
    yield made
    made.close()


@pytest.fixture
def bucket(tmp_path: Path, moto: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Primary]:
    yield from on_s3(tmp_path, moto, monkeypatch)


def test_the_hammer_on_both(folder: Primary, litestream: str) -> None:
    hammer_both(folder, litestream, 8)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_hammer_on_both_for_minutes(folder: Primary, litestream: str) -> None:
    hammer_both(folder, litestream, 240)


@pytest.mark.soak
@pytest.mark.server
@pytest.mark.timeout(900)
def test_the_hammer_on_both_over_s3_for_minutes(bucket: Primary, litestream: str) -> None:
    hammer_both(bucket, litestream, 240)
