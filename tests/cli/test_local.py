"""Commands that work on files: restore, databases, status, reset, config, completion."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_app import Run, run

__all__ = ["run"]

ENTRIES = ["levels", "vacuum", "ps512"]


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    def write(*entries: str, top: str = "") -> Path:
        path = tmp_path / "app.yml"
        path.write_text(top + "dbs:\n" + "".join(f"  - {entry}\n" for entry in entries))
        return path

    return write


@pytest.mark.parametrize("name", ENTRIES)
def test_restore_golden(run: Run, golden: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    replica = golden(name)
    output = tmp_path / "sub" / "x.db"
    status, out, err = run("restore", f"-o={output}", "-integrity-check", "quick", f"file://{replica}")
    assert (status, out) == (0, "")
    assert f"restored {output} to TXID" in err
    assert sqlite3.connect(output).execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_restore_json_and_txid_forms(run: Run, golden: Callable[[str], Path], tmp_path: Path) -> None:
    url = f"file://{golden('levels')}"
    sums = set()
    for form in ("0000000000000003", "0x3", "3"):
        status, out, _ = run("restore", "-json", "-o", tmp_path / f"{form}.db", "-txid", form, url)
        assert status == 0
        answer = json.loads(out)
        assert list(answer) == ["db_path", "replica", "txid", "duration_ms", "integrity_check"]
        assert answer["txid"] == "0000000000000003"
        sums.add(sha(tmp_path / f"{form}.db"))
    assert len(sums) == 1


def test_dry_run(run: Run, golden: Callable[[str], Path], tmp_path: Path) -> None:
    url = f"file://{golden('levels')}"
    status, out, err = run("restore", "-dry-run", "-json", "-o", tmp_path / "x.db", url)
    assert (status, err) == (0, "")
    plan = json.loads(out)
    assert list(plan) == ["source", "target_path", "replica", "min_txid", "max_txid", "files"]
    assert list(plan["files"][0]) == ["level", "name", "min_txid", "max_txid", "size", "timestamp"]
    assert "txid range: " in run("restore", "-dry-run", "-o", tmp_path / "x.db", url)[1]
    assert not (tmp_path / "x.db").exists()


def test_an_existing_database_is_kept(run: Run, golden: Callable[[str], Path], tmp_path: Path) -> None:
    url, output = f"file://{golden('levels')}", tmp_path / "x.db"
    output.write_bytes(b"mine")
    assert run("restore", "-o", output, url)[0] == 1
    assert run("restore", "-if-db-not-exists", "-o", output, url)[0] == 0
    # Litestream deletes the old file before it knows that a backup exists.
    assert run("restore", "-force", "-o", output, f"file://{tmp_path}/none")[0] == 1
    assert run("restore", "-force", "-o", output, "-txid", "99", url)[0] == 1
    assert output.read_bytes() == b"mine"
    assert run("restore", "-force=true", "-o", output, url)[0] == 0
    assert output.read_bytes()[:6] == b"SQLite"


def test_no_backup(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "x.db"
    assert run("restore", "-o", output, f"file://{tmp_path}/none")[0] == 1
    status, out, err = run("restore", "-if-replica-exists", "-o", output, f"file://{tmp_path}/none")
    assert (status, out) == (0, "")
    assert "nothing to do" in err
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "database path or replica URL required"),
        (["file:///x"], "-o is required"),
        (["a", "b"], "too many arguments"),
        (["-o", "x", "-txid", "zz", "file:///x"], "invalid TXID 'zz'"),
        (["-o", "x", "-txid", "1", "-timestamp", "2026-01-02", "file:///x"], "exclude each other"),
        (["-o", "x", "-timestamp", "soon", "file:///x"], "flag -timestamp: invalid time"),
        (["-o", "x", "-integrity-check", "FULL", "file:///x"], "unknown integrity check"),
        (["-o", "x", "-f", "-txid", "1", "file:///x"], "excludes -txid"),
        (["-o", "x", "-config", "y", "file:///x"], "cannot be combined"),
        (["-o", "x", "ftp://x"], "unknown replica URL scheme"),
        (["-o", "x", "-follow-interval", "5", "file:///x"], "invalid duration"),
        (["-parallelism", "1.5", "-o", "x", "file:///x"], "invalid integer"),
    ],
)
def test_restore_refuses(run: Run, words: list[str], message: str) -> None:
    status, out, err = run("restore", *words)
    assert (status, out) == (1, "")
    assert message in err
    assert "Error: " in err
    assert "Traceback" not in err


def test_restore_of_a_configured_database(
    run: Run, golden: Callable[[str], Path], config: Callable[..., Path], tmp_path: Path
) -> None:
    database = tmp_path / "app.db"
    path = config(f"{{path: {database}, replica: {{path: {golden('levels')}}}}}")
    assert run("restore", "-config", path, database)[0] == 0
    assert database.exists()
    status, _, err = run("restore", "-config", path, tmp_path / "app2.db")
    assert status == 1
    assert f"did you mean {database}?" in err
    rows = json.loads(run("ltx", "-json", "-level", "all", "-config", path, database)[1])
    assert rows


def make(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t(x)")
    connection.close()


def test_databases_and_status(run: Run, config: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    make(tmp_path / "d" / "one.db")
    (tmp_path / "d" / "not.db").write_text("x")
    missing = tmp_path / "missing.db"
    path = config(
        f"{{path: {missing}, replica: {{url: s3://b/x}}}}",
        f"{{dir: {tmp_path}/d, pattern: '*.db', replica: {{url: file:///r}}}}",
    )
    assert json.loads(run("databases", "-json", "-config", path)[1]) == [
        {"path": str(missing), "replica": "s3"},
        {"path": str(tmp_path / "d" / "one.db"), "replica": "file"},
    ]
    assert run("databases", "-config", path)[1].splitlines()[0].split() == ["path", "replica"]
    rows = json.loads(run("status", "-json", "-config", path)[1])
    assert rows[0] == {"database": str(missing), "status": "no database", "local_txid": "-", "wal_size": "-"}
    assert rows[1]["status"] == "not initialized"
    assert rows[1]["wal_size"] == "0 B"
    only = run("status", "-config", path, missing)[1].splitlines()
    assert len(only) == 2
    assert run("status", "-config", path, tmp_path / "other.db")[0] == 1


def test_reset(run: Run, tmp_path: Path) -> None:
    database = tmp_path / "app.db"
    assert run("reset", database)[0] == 1
    make(database)
    assert run("reset", database)[0] == 0
    file = tmp_path / ".app.db-litestream" / "ltx" / "0" / "0000000000000001-0000000000000001.ltx"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert str(file) in run("reset", "-dry-run", database)[1]
    assert file.exists()
    answer = json.loads(run("reset", "-json", database)[1])
    assert answer == {"db_path": str(database), "removed": True, "files": [str(file)]}
    assert not file.exists()
    assert database.exists()


def test_config_check(run: Run, config: Callable[..., Path], tmp_path: Path) -> None:
    path = config("{path: /a.db, replica: {url: file:///b}}", top="addr: ':9090'\n")
    status, out, err = run("config", "check", path)
    assert (status, err) == (0, "")
    assert "/a.db" in out
    answer: dict[str, Any] = json.loads(run("config", "-json", "check", path)[1])
    assert answer["databases"][0]["replica"] == "file:///b"
    path.write_text("adr: x\n")
    status, out, err = run("config", "check", path)
    assert (status, out) == (1, "")
    assert err == f"Error: {path}:1: adr: unknown key\nTry: did you mean addr?\n"
    assert run("config", "check", tmp_path / "none.yml")[0] == 1
    assert "not found" in run("databases", "-config", tmp_path / "none.yml")[2]
    assert "VFSSTREAM__DBS__0__REPLICA__URL" in run("config", "keys", "-json")[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run: Run, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = run("completion", shell)
    assert status == 0
    assert "_VFSSTREAM_COMPLETE" in out
    assert run("completion", "tcsh")[0] == 1


def test_points(run: Run, golden: Callable[[str], Path], tmp_path: Path) -> None:
    url = f"file://{golden('levels')}"
    answer = json.loads(run("points", "-json", "-plot", tmp_path / "p.svg", url)[1])
    txids = [int(point["txid"], 16) for point in answer["points"]]
    assert txids == sorted(set(txids))
    for txid in txids[:3]:
        assert run("restore", "-o", tmp_path / f"{txid}.db", "-txid", txid, url)[0] == 0
    assert "<svg" in (tmp_path / "p.svg").read_text()
    assert f"{len(txids)} points" in run("points", url)[1]


def test_verify_finds_a_flipped_bit(run: Run, golden: Callable[[str], Path]) -> None:
    replica = golden("levels")
    flags = ("-integrity-check", "none")
    status, out, _ = run("verify", *flags, f"file://{replica}")
    assert status == 0
    assert out.startswith("ok: ")
    victim = sorted((replica / "ltx" / "0").iterdir())[-1]
    data = bytearray(victim.read_bytes())
    data[120] ^= 1
    victim.write_bytes(data)
    status, out, _ = run("verify", *flags, f"file://{replica}")
    assert status == 1
    assert victim.name in out
    assert json.loads(run("verify", *flags, "-json", f"file://{replica}")[1])["ok"] is False
    assert run("verify", "-sample", "x", f"file://{replica}")[0] == 1


def test_copy(run: Run, golden: Callable[[str], Path], tmp_path: Path) -> None:
    source, target = f"file://{golden('levels')}", f"file://{tmp_path}/second"
    assert "would copy L" in run("copy", "-dry-run", source, target)[1]
    assert not (tmp_path / "second").exists()
    answer = json.loads(run("copy", "-json", source, target)[1])
    assert answer["copied"]
    assert json.loads(run("copy", "-json", source, target)[1])["copied"] == []
    first, second = (json.loads(run("ltx", "-json", "-level", "all", url)[1]) for url in (source, target))
    assert first == second
    assert run("copy", source)[0] == 1
    assert run("copy", source, source)[0] == 1


def test_a_delta_gives_what_a_restore_gives(run: Run, golden: Callable[[str], Path], tmp_path: Path) -> None:
    url, copy, whole = f"file://{golden('levels')}", tmp_path / "copy.db", tmp_path / "whole.db"
    points = [point["txid"] for point in json.loads(run("points", "-json", url)[1])["points"]]
    old, new = points[len(points) // 2], points[-1]
    assert run("restore", "-o", copy, "-txid", old, url)[0] == 0
    (tmp_path / "copy.db-txid").write_text(f"{old}\n")
    status, out, err = run("restore", "-delta", "-json", "-o", copy, url)
    assert status == 0, err
    assert json.loads(out)["txid"] == new
    assert run("restore", "-o", whole, url)[0] == 0
    assert sha(copy) == sha(whole)
    assert run("restore", "-delta", "-f", "-o", copy, url)[0] == 1
