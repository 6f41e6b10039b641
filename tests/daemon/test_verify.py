"""Verification by the clock: what is due, damage found on a running daemon, and a gentle pace."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.helpers import Daemon, daemon, make_database, until
from vfsstream.cli.app import execute
from vfsstream.daemon.logs import Log
from vfsstream.daemon.verdict import Verdict, load, save
from vfsstream.daemon.verify import Paced, Subject, Verifier, VerifySettings, due_at
from vfsstream.errors import StoreError
from vfsstream.replica import Replica
from vfsstream.replicate.verify import verify

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = Verdict(NOW, 7, 3, 3, 1000, 0.5)
DAMAGED = Verdict(NOW, 7, 3, 3, 1000, 0.5, ("ltx/0/x.ltx: checksum differs",))


def test_when_a_verification_is_due() -> None:
    settings = VerifySettings(DAY)
    assert NOW <= due_at("a.db", None, settings, NOW) <= NOW + timedelta(seconds=30)
    assert due_at("a.db", None, VerifySettings(timedelta(0)), NOW) == NOW
    assert due_at("a.db", WHOLE, settings, NOW) == NOW + DAY
    assert due_at("a.db", DAMAGED, settings, NOW) == NOW + timedelta(hours=1)
    assert due_at("a.db", DAMAGED, VerifySettings(timedelta(minutes=5)), NOW) == NOW + timedelta(minutes=5)


def test_a_verdict_survives_a_restart(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    save(tmp_path, DAMAGED)  # no directory: kept in memory only, no error
    assert load(tmp_path) is None
    (tmp_path / "vfsstream").mkdir()
    save(tmp_path, DAMAGED)
    assert load(tmp_path) == DAMAGED
    for junk in ("", "[]", "{}", '{"at": 1}', json.dumps({"at": "2026-01-01", "problems": []})):
        (tmp_path / "vfsstream" / "verified.json").write_text(junk)
        assert load(tmp_path) is None


def test_the_reader_rests_in_proportion_to_its_work(golden: Any) -> None:
    with Replica.open(str(golden("levels"))) as replica:
        everything = verify(replica)
        paced = Paced(replica, 0.1, threading.Event())
        report = verify(paced, parallelism=1)
        assert (report.ok, report.checked) == (True, everything.checked)
        assert paced.rested > 0
        free = Paced(replica, 1.0, threading.Event())
        assert verify(free, parallelism=1).ok
        assert free.rested == 0


class _Ended:
    """Collects what a verifier says, and runs it on one replica."""

    def __init__(self, opener: Any, meta: Path, settings: VerifySettings) -> None:
        self.verdicts: list[Verdict] = []
        self.errors: list[Exception] = []
        self.lines: list[str] = []
        self.verifier = Verifier(
            settings,
            lambda: {"/data/app.db": Subject(meta, opener)},
            Log(self.lines.append),
            lambda path, verdict: self.verdicts.append(verdict),
            lambda path, error: self.errors.append(error),
            look=0.01,
        )
        self.verifier.start()


def test_an_unreachable_replica_is_no_damage(tmp_path: Path) -> None:
    def opener() -> Replica:
        raise StoreError("no route to host")

    seen = _Ended(opener, tmp_path, VerifySettings(timedelta(milliseconds=1)))
    until(lambda: len(seen.errors) >= 2, "a second try")
    seen.verifier.close()
    assert seen.verdicts == []
    assert seen.verifier.verdict("/data/app.db") is None
    assert "verification not possible" in seen.lines[0]


def test_switched_off_it_does_not_even_look(tmp_path: Path) -> None:
    looked = []

    def subjects() -> dict[str, Subject]:
        looked.append(1)
        return {}

    verifier = Verifier(VerifySettings(timedelta(0)), subjects, Log(lambda line: None), look=0.001)
    verifier.start()
    time.sleep(0.1)
    assert looked == []
    verifier.change(VerifySettings(timedelta(seconds=1)))
    until(lambda: looked, "a look")
    verifier.close()


def test_a_sample_is_another_one_every_time(golden: Any, tmp_path: Path) -> None:
    root = golden("levels")
    settings = VerifySettings(timedelta(milliseconds=1), sample=0.3, cpu=1.0)
    seen = _Ended(lambda: Replica.open(str(root)), tmp_path, settings)
    until(lambda: len({verdict.bytes for verdict in seen.verdicts}) > 1, "another sample")
    seen.verifier.close()
    assert all(verdict.ok and verdict.checked < verdict.files for verdict in seen.verdicts)


def test_the_image_is_checked_on_request(golden: Any, tmp_path: Path) -> None:
    root = golden("levels")
    settings = VerifySettings(timedelta(hours=1), integrity_check="full", cpu=1.0)
    reads = []

    def opener() -> Replica:
        reads.append(1)
        return Replica.open(str(root))

    seen = _Ended(opener, tmp_path, settings)
    seen.verifier._started = datetime.now(UTC) - timedelta(hours=1)
    until(lambda: seen.verdicts, "a verdict")
    seen.verifier.close()
    assert seen.verdicts[0].ok
    assert len(reads) == 2  # for the files, and for SQLite


# --- the whole daemon -----------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    make_database(tmp_path / "app.db")
    (tmp_path / "c.yml").write_text(
        f"""addr: 127.0.0.1:0
socket: {{enabled: true, path: {tmp_path}/s}}
verify: {{interval: 200ms, cpu: 100%}}
dbs: [{{path: {tmp_path}/app.db, replica: {{path: {tmp_path}/replica}}}}]
"""
    )
    with daemon(tmp_path, "-config", tmp_path / "c.yml") as process:
        process.said("msg=verified")
        yield process


def _get(process: Daemon, path: str) -> tuple[int, str]:
    line = next(line for line in process.log.splitlines() if "url=http://" in line)
    url = line.partition("url=")[2].strip('"').rstrip("/") + path
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _metric(process: Daemon, name: str) -> float:
    lines = [line for line in _get(process, "/metrics")[1].splitlines() if line.startswith(name)]
    return float(lines[0].rpartition(" ")[2]) if lines else -1.0


def test_damage_in_the_replica_of_a_running_daemon(
    running: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _get(running, "/healthz") == (200, "ok\n")
    assert _metric(running, "vfsstream_verified_ok{") == 1.0
    before = _metric(running, "vfsstream_last_verified_timestamp_seconds{")
    assert abs(before - datetime.now(UTC).timestamp()) < 3600

    victim = next((tmp_path / "replica" / "ltx" / "0").glob("*.ltx"))
    whole = victim.read_bytes()
    middle = len(whole) // 2
    victim.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    running.said("verification failed")
    until(lambda: _get(running, "/healthz")[0] == 503, "the health check to fail")
    assert "verification failed" in _get(running, "/healthz")[1]
    assert victim.name in _get(running, "/healthz")[1]
    assert _metric(running, "vfsstream_verified_ok{") == 0.0
    assert _metric(running, "vfsstream_verify_errors_total{") >= 1.0
    assert _metric(running, "vfsstream_last_verified_timestamp_seconds{") > before
    status = json.loads(_get(running, "/api/status")[1])
    assert victim.name in status["databases"][0]["verify_problem"]
    assert any("verification failed" in entry["what"] for entry in status["errors"])

    capsys.readouterr()
    assert execute(["list", "-json", "-socket", f"{tmp_path}/s"]) == 0
    listed = json.loads(capsys.readouterr().out)["databases"][0]
    assert listed["verified"] == "damaged"
    assert listed["last_verified_at"]
    assert execute(["info", "-json", "-socket", f"{tmp_path}/s"]) == 0
    assert json.loads(capsys.readouterr().out)["damaged_count"] == 1
    assert execute(["status", "-json", "-config", f"{tmp_path}/c.yml"]) == 0
    assert victim.name in json.loads(capsys.readouterr().out)[0]["verified"]

    victim.write_bytes(whole)
    until(lambda: _get(running, "/healthz")[0] == 200, "the health check to recover")
    assert execute(["info", "-socket", f"{tmp_path}/s"]) == 0
    assert "Damaged replicas: 0" in capsys.readouterr().out
    assert running.stop() == 0, running.log
