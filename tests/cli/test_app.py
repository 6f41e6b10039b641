"""The frame around the commands: overview, unknown words, exit statuses, streams."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vfsstream import __version__, errors
from vfsstream.cli import app
from vfsstream.cli.exits import EXIT_CODES, code_of, describe

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        status = app.execute([str(word) for word in words])
        return status, *capsys.readouterr()

    return call


def test_no_command_prints_the_overview_and_fails(run: Run) -> None:
    status, out, err = run()
    assert (status, err) == (1, "")
    assert "restore" in out or "ltx" in out


@pytest.mark.parametrize("words", [["help"], ["-h"], ["-help"], ["--help"]])
def test_help(run: Run, words: list[str]) -> None:
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    for name in app.COMMANDS:
        assert f"  {name}" in out


def test_every_command_is_in_one_group_of_the_overview() -> None:
    grouped = [name for names in app.GROUPS.values() for name in names.split()]
    assert sorted(grouped) == sorted(app.COMMANDS)


@pytest.mark.parametrize("name", sorted(app.COMMANDS))
def test_every_command_has_help(run: Run, name: str) -> None:
    status, out, err = run(name, "-h")
    assert (status, err) == (0, "")
    assert f"vfsstream {name}" in out
    assert run("help", name) == (0, out, "")


def test_an_unknown_command_names_the_nearest(run: Run) -> None:
    status, out, err = run("verzion")
    assert (status, out) == (1, "")
    assert err == "Error: unknown command 'verzion'\nTry: did you mean 'vfsstream version'?\n"


def test_a_flag_before_the_command_is_explained(run: Run) -> None:
    status, out, err = run("-config", "x", "ltx")
    assert (status, out) == (1, "")
    assert "before the command" in err


def test_a_usage_error_is_two_lines_on_stderr(run: Run) -> None:
    status, out, err = run("ltx", "-jason", "file:///x")
    assert (status, out) == (1, "")
    assert err == "Error: unknown flag -jason; did you mean -json?\nTry: vfsstream ltx -h\n"


def test_version(run: Run) -> None:
    assert run("version") == (0, f"{__version__}\n", "")
    assert run("-version") == (0, f"{__version__}\n", "")
    assert run("version", "extra", "words") == (0, f"{__version__}\n", "")
    assert json.loads(run("version", "-json")[1]) == {"version": __version__}
    assert "SQLite:" in run("version", "-verbose")[1]


def test_ltx_lists_levels(run: Run, golden: Callable[[str], Path]) -> None:
    url = f"file://{golden('levels')}"
    rows = json.loads(run("ltx", "-level", "all", "-json", url)[1])
    assert [row["level"] for row in rows] == sorted(row["level"] for row in rows)
    assert {row["level"] for row in rows} >= {0, 1}
    assert set(rows[0]) == {"level", "min_txid", "max_txid", "size", "timestamp"}
    status, out, _ = run("ltx", "-level=9", url)
    assert status == 0
    assert out.splitlines()[0].split() == ["level", "min_txid", "max_txid", "size", "created"]
    assert run("ltx", "-level", "10", url)[0] == 1


def test_ltx_of_nothing_is_an_empty_list(run: Run, tmp_path: Path) -> None:
    assert run("ltx", "-json", f"file://{tmp_path}/none") == (0, "[]\n", "")
    assert run("ltx", f"file://{tmp_path}/none")[1].split() == ["level", "min_txid", "max_txid", "size", "created"]


def test_wal_is_a_deprecated_alias(run: Run, tmp_path: Path) -> None:
    status, out, err = run("wal", "-json", f"file://{tmp_path}/none")
    assert (status, out) == (0, "[]\n")
    assert "deprecated" in err


def test_exit_statuses_follow_the_table() -> None:
    assert code_of(errors.StoreError("x"), {}) == 1
    distinct = {"VFSSTREAM_EXIT_CODES": "distinct"}
    for error, code in [
        (errors.UsageError("x"), 2),
        (errors.ConfigError("x"), 3),
        (errors.ReplicaEmpty("x"), 5),
        (errors.LtxError("x"), 6),
        (errors.StoreError("x"), 7),
        (errors.AccessDenied("x"), 8),
        (errors.LeaseHeld("x"), 9),
        (errors.DiskFull("x"), 10),
        (OSError("x"), 1),
    ]:
        assert code_of(error, distinct) == code
        assert code in {row[0] for row in EXIT_CODES}


def test_errors_are_one_line_and_show_no_password() -> None:
    error = errors.StoreError("cannot reach\n sftp://u:hunter2@host/x?token=abc", hint="check it")
    assert describe(error) == ["Error: cannot reach sftp://u:***@host/x?token=***", "Try: check it"]
