"""The documents: every example runs, every configuration loads, every table is what the source says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from vfsstream.cli.app import program
from vfsstream.cli.exits import EXIT_CODES
from vfsstream.config.load import load_text
from vfsstream.config.reference import markdown, rows

DOCS = sorted((ROOT / "docs").glob("*.md"))
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SQLITE = """#!{python}
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2].split(";"):
    for row in database.execute(statement):
        print(*row, sep="|")
database.close()
"""


def blocks(path: Path, language: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(path.read_text()) if found == language]


@pytest.mark.interop
@pytest.mark.parametrize("path", [path for path in DOCS if blocks(path, "sh")], ids=lambda path: path.stem)
def test_every_example_runs(path: Path, tmp_path: Path, litestream: str) -> None:
    tools, work = tmp_path / "bin", tmp_path / "work"
    tools.mkdir()
    work.mkdir()
    (tools / "vfsstream").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vfsstream "$@"\n')
    (tools / "litestream").write_text(f'#!/bin/sh\nexec "{litestream}" "$@"\n')
    (tools / "sqlite3").write_text(_SQLITE.format(python=sys.executable))
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("VFSSTREAM", "LITESTREAM"))
    }
    environment |= {"PYTHONPATH": str(ROOT), "PATH": f"{tools}:{os.environ['PATH']}"}
    script = "set -eux\n" + "\n".join(blocks(path, "sh"))
    done = subprocess.run(
        ["bash", "-c", script], cwd=work, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_every_configuration_loads(path: Path) -> None:
    for text in blocks(path, "yaml"):
        load_text(text, path.name, environ={})


@pytest.mark.parametrize("path", [*DOCS, ROOT / "README.md"], ids=lambda path: path.stem)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def exits_table() -> str:
    lines = ["| status | distinct | meaning |", "|---|---|---|"]
    return (
        "\n".join(lines + [f"| {default} | {distinct} | {text} |" for distinct, default, text in EXIT_CODES])
        + "\n"
    )


@pytest.mark.parametrize(("name", "table"), [("keys", markdown()), ("exits", exits_table())])
def test_tables_are_the_sources(name: str, table: str) -> None:
    path = ROOT / "docs" / "configuration.md"
    text = path.read_text()
    found = re.search(rf"(<!-- {name}[^>]*-->\n)(.*?)(<!-- end of {name} -->)", text, re.DOTALL)
    assert found is not None
    if os.environ.get("VFSSTREAM_WRITE_TABLES"):
        path.write_text(text[: found.start(2)] + table + text[found.end(2) :])
        return
    assert found[2] == table, "write them anew with VFSSTREAM_WRITE_TABLES=1"


def test_every_key_has_a_meaning_and_a_variable() -> None:
    for key, kind, _, meaning, variable in rows():
        assert kind
        assert meaning
        assert variable.startswith("VFSSTREAM__") or kind == "list", key


def command_lines() -> list[str]:
    """Every command line of ours in the README and in the documents, comments cut off."""
    found = []
    for path in (ROOT / "README.md", *DOCS):
        for block in (*blocks(path, "sh"), *blocks(path, "console")):
            for text in re.findall(r"^(?:\$ |if )?(vfsstream \w.*)$", block, re.MULTILINE):
                found.append(re.sub(r"\s+# .*|; then .*", "", text))
    return found


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_has_flags_that_exist(line: str) -> None:
    _, name, *words = shlex.split(line)
    command: Any = program.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None, name
    known = {spelling for parameter in command.params for spelling in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


def test_command_lines_are_found() -> None:
    assert len(command_lines()) > 30
