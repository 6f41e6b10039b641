"""``vfsstream query`` and ``vfsstream shell`` as a user runs them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_query_prints_a_table_json_or_csv(vfsstream: Run, golden: Callable[[str], Path]) -> None:
    url = golden("levels").as_uri()
    sql = "SELECT count(*) AS n, 'a,\"b' AS text, x'ff' AS blob, NULL AS missing FROM t"
    table = vfsstream("query", url, sql)
    assert (table.returncode, table.stderr) == (0, "")
    assert table.stdout.split()[:5] == ["n", "text", "blob", "missing", "358"]
    assert json.loads(vfsstream("query", "-json", url, sql).stdout) == [
        {"n": 358, "text": 'a,"b', "blob": "ff", "missing": None}
    ]
    rows = list(csv.reader(io.StringIO(vfsstream("query", "-csv", url, sql).stdout)))
    assert rows == [["n", "text", "blob", "missing"], ["358", 'a,"b', "ff", ""]]


def test_query_at_a_txid_and_before_a_moment(vfsstream: Run, golden: Callable[[str], Path]) -> None:
    root = golden("levels")
    manifest = json.loads((root / "manifest.json").read_text())
    txid, expected = next((t, e) for t, e in manifest["restore"]["txid"].items() if "queries" in e)
    sql = expected["queries"][0]["sql"]
    for arguments in (("-txid", txid), ("-txid", str(int(txid, 16)))):
        answer = vfsstream("query", "-json", *arguments, root.as_uri(), sql)
        assert list(json.loads(answer.stdout)[0].values()) == expected["queries"][0]["row"]
    moment = next(e for e in manifest["restore"]["timestamp"] if "queries" in e)
    answer = vfsstream(
        "query", "-json", "-timestamp", moment["timestamp"], root.as_uri(), moment["queries"][0]["sql"]
    )
    assert list(json.loads(answer.stdout)[0].values()) == moment["queries"][0]["row"]


def test_errors_are_one_line(vfsstream: Run, golden: Callable[[str], Path]) -> None:
    url = golden("empty").as_uri()
    for arguments, text in (
        ((url, "SELEC 1"), "syntax error"),
        ((url, "CREATE TABLE x(a)"), "readonly"),
        ((url + "-nowhere", "SELECT 1"), "no LTX files"),
        (("-txid", "99", url, "SELECT 1"), "not available"),
        (("-timestamp", "blorb", url, "SELECT 1"), "invalid timestamp"),
        (("-txid", "1", "-timestamp", "now", url, "SELECT 1"), "exclude"),
        ((url,), "expected a database path or replica URL, and one SQL text"),
    ):
        done = vfsstream("query", *arguments)
        assert done.returncode == 1, arguments
        assert text in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_the_shell_runs_what_it_is_given(vfsstream: Run, golden: Callable[[str], Path]) -> None:
    url = golden("levels").as_uri()
    done = vfsstream("shell", url, ".tables", "SELECT count(*) FROM t;")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["_litestream_lock", "_litestream_seq", "t", "358"]
    piped = vfsstream("shell", url, input="SELECT count(*) FROM t;\n")
    assert piped.stdout == "358\n"
    assert vfsstream("shell").returncode == 1


def test_a_database_of_the_configuration_is_asked_with_its_credentials(
    vfsstream: Run, golden: Callable[[str], Path], tmp_path: Path
) -> None:
    config = tmp_path / "c.yml"
    config.write_text(f"dbs: [{{path: /data/app.db, replica: {{path: '{golden('levels')}'}}}}]")
    answer = vfsstream("query", "-json", "-config", config, "/data/app.db", "SELECT count(*) AS n FROM t")
    assert json.loads(answer.stdout) == [{"n": 358}], answer.stderr
    shell = vfsstream("shell", "-config", config, "/data/app.db", "SELECT count(*) FROM t;")
    assert shell.stdout == "358\n", shell.stderr
    unknown = vfsstream("query", "-config", config, "/data/other.db", "SELECT 1")
    assert unknown.returncode == 1
    assert "did you mean /data/app.db" in unknown.stderr or "vfsstream databases" in unknown.stderr
