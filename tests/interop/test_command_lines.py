"""Hundreds of command lines through the real Litestream and through ours: exit status, JSON and files.

Where ours differs it does so on purpose; each such difference is data here, and its reason stands beside it. A
difference that has gone is an error too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GOLDEN
from vfsstream.cli import app

pytestmark = pytest.mark.interop

REPLICAS = ("levels", "pruned", "resnapshot", "vacuum", "empty", "ps512", "mixed-0.5.15")

# The command line as written below, and why ours answers otherwise.
STRICTER = "ours refuses what Litestream takes without a word"
KINDER = "ours accepts what Litestream refuses"
DELIBERATE: dict[str, str] = {
    "restore -txid 3 -o {out} {url}": KINDER + ": plain digits are a decimal number",
    "restore -txid 0x3 -o {out} {url}": KINDER + ": 0x is a hex number",
    "restore -timestamp now -o {out} {url}": KINDER + ": a time after the last file means the newest state",
    "restore -timestamp 2030-01-01T00:00:00Z -o {out} {url}": KINDER
    + ", as Litestream does for a configured database",
    "restore -timestamp 2030-01-01 -o {out} {url}": KINDER,
    "restore -o {out} {url} -json": KINDER + ": flags may follow the arguments",
    "ltx {url} -json": KINDER + ": flags may follow the arguments",
    "ltx {url} -level 9": KINDER + ": flags may follow the arguments",
    "restore {url} -o {out}": KINDER + ": flags may follow the arguments",
    "-version": KINDER,
    "--version": KINDER,
    "databases -config {unknown}": STRICTER + ": an unknown key",
    "status -config {unknown}": STRICTER + ": an unknown key",
    "databases -config {twice}": STRICTER + ": two databases in one destination",
    "status -config {twice}": STRICTER + ": two databases in one destination",
    "databases -config {bare}": STRICTER + ": 5 means 5 nanoseconds",
    "status -config {bare}": STRICTER + ": 5 means 5 nanoseconds",
    "status -config {config} /none.db": STRICTER + ": a database that is not configured",
    "restore -dry-run -if-replica-exists -o {out} {none}": KINDER + ": the flag counts for a dry run too",
    "replicate -once {missing} {backup}": "the lock file of local state stays; no other file does",
}


@dataclass
class Answer:
    """What one program did."""

    status: int
    out: str
    err: str
    files: dict[str, str] = field(default_factory=dict)

    @property
    def value(self) -> Any:
        """Its JSON without what differs from run to run."""
        try:
            found = json.loads(self.out)
        except ValueError:
            return None
        if isinstance(found, dict):
            found.pop("duration_ms", None)
        return found


def lines_of_grammar() -> Iterator[str]:
    """Every form of a flag, on commands that need nothing else."""
    for dash in ("-", "--"):
        yield from (f"ltx {dash}json {{url}}", f"ltx {dash}json=true {{url}}", f"ltx {dash}json=false {{url}}")
        yield from (f"ltx {dash}level 9 {dash}json {{url}}", f"ltx {dash}level=all {dash}json {{url}}")
        yield from (f"ltx {dash}level=0 {dash}level=1 {dash}json {{url}}", f"ltx {dash}json={{value}} {{url}}")
        yield from (f"restore {dash}o {{out}} {{url}}", f"restore {dash}o={{out}} {dash}json {{url}}")
        yield from (
            f"restore {dash}force={word} {dash}o {{out}} {{url}}" for word in ("1", "t", "F", "yes", "tRUE", "")
        )
        yield from (
            f"restore {dash}parallelism={n} {dash}o {{out}} {{url}}" for n in ("4", "+4", "0x8", "017", "1_0")
        )
        yield from (f"restore {dash}parallelism {n} {dash}o {{out}} {{url}}" for n in ("-1", "1.5", "x", "0b11"))
        yield from (
            f"restore {dash}follow-interval {d} {dash}o {{out}} {{url}}" for d in ("1s", "1h1h", "0", "5", "1d")
        )
        yield from (
            f"ltx {dash}bogus {{url}}",
            f"ltx {dash}jso {{url}}",
            f"ltx {dash}level",
            f"restore {dash}oX {{url}}",
        )
        yield from (
            f"{command} {dash}help" for command in ("ltx", "restore", "replicate", "databases", "status", "reset")
        )
    yield from (
        "ltx ---json {url}",
        "ltx -=x {url}",
        "ltx -json -- {url}",
        "ltx -- {url}",
        "ltx -json {url} {url}",
    )
    yield from (
        "ltx -json true {url}",
        "ltx {url} -json",
        "ltx {url} -level 9",
        "restore {url} -o {out}",
        "ltx -config= {url}",
    )
    yield from (
        "restore -o {out} {url} -json",
        "restore -o {out} -if-db-not-exists -if-replica-exists -json {url}",
    )
    yield from ("", "help", "-h", "-help", "--help", "-version", "--version", "version", "version x y", "nonsense")
    yield from (
        "-config x databases",
        "help restore",
        "wal -json {url}",
        "wal {url}",
        "ltx",
        "restore",
        "reset",
        "replicate x",
    )
    yield from ("register", "unregister", "start", "stop", "sync", "register /a.db", "list -socket {missing}")
    yield from (
        "info -socket {missing} -json",
        "sync -socket {missing} /a.db",
        "list extra",
        "info -timeout 0",
        "list -timeout -1",
    )
    yield from (
        "unregister -dry-run /a.db",
        "replicate a.db file:///x file:///y",
        "replicate a.db /x",
        "replicate a.db ftp://x",
    )
    yield from ("replicate -once -exec true a.db file:///x", "replicate -force-snapshot a.db file:///x")
    yield from (
        "replicate -config {config} a.db file:///x",
        "replicate -once {missing} {backup}",
        "databases extra",
    )


def lines_of_values() -> Iterator[str]:
    for txid in (
        "0000000000000003",
        "0000000000000000",
        "000000000000000A",
        "1000",
        "3",
        "zz",
        "0x3",
        "+000000000000003",
    ):
        yield f"restore -txid {txid} -o {{out}} {{url}}"
    for time in ("2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z", "2020-01-01T00:00:00.5Z", "2020-01-01t00:00:00Z"):
        yield f"restore -timestamp {time} -o {{out}} {{url}}"
    yield from (
        f"restore -timestamp {time} -o {{out}} {{url}}" for time in ("2020-01-01", "now", "soon", "2030-01-01")
    )
    for level in ("0", "1", "8", "9", "all", "10", "-1", "x", "", "ALL", "01"):
        yield f"ltx -json -level={level} {{url}}"
    for mode in ("none", "quick", "full", "FULL", "x", ""):
        yield f"restore -integrity-check={mode} -json -o {{out}} {{url}}"
    yield from ("restore -txid 0000000000000003 -timestamp 2030-01-01T00:00:00Z -o {out} {url}", "restore {url}")
    yield from (f"restore -f {flag} -o {{out}} {{url}}" for flag in ("-txid 0000000000000003", "-dry-run"))
    yield from (
        "restore -config {config} -o {out} {url}",
        "ltx -config {config} {url}",
        "ltx ftp://x",
        "restore -o {out} ftp://x",
    )
    yield from (
        "ltx -json {none}",
        "ltx {none}",
        "restore -o {out} {none}",
        "restore -if-replica-exists -o {out} {none}",
    )
    yield from (
        "restore -o {existing} {url}",
        "restore -force -o {existing} {url}",
        "restore -if-db-not-exists -o {existing} {url}",
    )
    yield from (
        "restore -o {directory} {url}",
        "restore -force -o {directory} {url}",
        "restore -dry-run -o {existing} {url}",
    )
    yield from (
        "restore -o {out}/deep/er.db {url}",
        "restore -dry-run {none}",
        "restore -dry-run -if-replica-exists -o {out} {none}",
    )


def lines_of_configs() -> Iterator[str]:
    for command in ("databases", "status"):
        for name in (
            "config",
            "unknown",
            "twice",
            "bare",
            "missing",
            "directory",
            "empty",
            "broken",
            "env",
            "same",
        ):
            yield f"{command} -config {{{name}}}"
            yield f"{command} -json -config {{{name}}}"
        yield from (f"{command} -no-expand-env -json -config {{env}}", f"{command} -config={{config}} --json")
    yield from (
        "status -config {config} {db}",
        "status -config {config} /none.db",
        "status -json -config {config} {db} extra",
    )
    yield from (
        "ltx -json -config {config} {db}",
        "ltx -config {config} /none.db",
        "restore -config {config} -o {out} {db}",
    )
    yield from (
        "restore -config {config} -json -o {out} sqlite:///x.db",
        "restore -dry-run -json -config {config} -o {out} {db}",
    )
    yield from (
        "restore -if-db-not-exists -config {config} {db}",
        "restore -config {config} {db}",
        "restore -config {missing} {db}",
    )
    yield from (
        "reset {db}",
        "reset -dry-run {db}",
        "reset {missing}",
        "reset -config {config} {db}",
        "reset -config {missing} {db}",
    )


def cases() -> list[tuple[str, str]]:
    found = [("levels", line) for line in (*lines_of_grammar(), *lines_of_values(), *lines_of_configs())]
    for name in REPLICAS:
        manifest = json.loads((GOLDEN / name / "manifest.json").read_text())
        found += [(name, f"ltx -json -level {level} {{url}}") for level in (0, 1, 9, "all")]
        found += [
            (name, "restore -json -integrity-check quick -o {out} {url}"),
            (name, "restore -dry-run -json -o {out} {url}"),
        ]
        for txid in list(manifest["restore"].get("txid", {}))[:14]:
            found.append((name, f"restore -json -txid {txid} -o {{out}} {{url}}"))
            found.append((name, f"restore -dry-run -json -txid {txid} -o {{out}} {{url}}"))
    return list(dict.fromkeys(found))


def fill(line: str, top: Path, replica: Path) -> list[str]:
    places = {name: str(top / name) for name in ("out", "existing", "directory", "missing")}
    configs = ("config", "unknown", "twice", "bare", "empty", "broken", "env", "same")
    places |= {name: str(top / f"{name}.yml") for name in configs}
    urls = {"url": f"file://{replica}", "none": f"file://{top}/none", "backup": f"file://{top}/backup"}
    return [word.format(**places, **urls, db=top / "app.db", value="x") for word in line.split(" ") if line]


def prepare(top: Path, replica: Path) -> None:
    """The same files at the same paths for both programs, one after the other."""
    if top.exists():
        shutil.rmtree(top)
    top.mkdir()
    (top / "existing").write_bytes(b"mine")
    (top / "directory").mkdir()
    with closing(sqlite3.connect(top / "app.db")) as connection:
        connection.execute("CREATE TABLE t(x)")
    entry = f"dbs:\n  - path: {top}/app.db\n    replica: {{path: {replica}}}\n"
    (top / "config.yml").write_text(entry)
    (top / "unknown.yml").write_text(f"retenton: 5\n{entry}")
    (top / "twice.yml").write_text(f"{entry}  - path: {top}/b.db\n    replica: {{path: {replica}}}\n")
    (top / "same.yml").write_text(f"{entry}  - path: {top}/app.db\n    replica: {{path: {replica}2}}\n")
    (top / "bare.yml").write_text(f"l0-retention-check-interval: 5\n{entry}")
    (top / "empty.yml").write_text("")
    (top / "broken.yml").write_text("dbs: [")
    (top / "env.yml").write_text(entry.replace(f"{top}/app.db", f"{top}/${{HOME_NAME}}x$1.db"))


def ours(words: list[str], top: Path) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = app.execute(words)
    return Answer(status, out.getvalue(), err.getvalue(), contents(top))


def theirs(program: str, words: list[str], top: Path) -> Answer:
    done = subprocess.run([program, *words], capture_output=True, text=True, cwd=top, timeout=60, check=False)
    return Answer(done.returncode, done.stdout, done.stderr, contents(top))


def contents(top: Path) -> dict[str, str]:
    found = {}
    for path in sorted(top.rglob("*")):
        if path.is_file() and path.suffix != ".yml":
            found[str(path.relative_to(top))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(mine: Answer, other: Answer, line: str) -> list[str]:
    found = []
    if (mine.status == 0) != (other.status == 0):
        found.append(f"status {mine.status}, Litestream {other.status}: {mine.err or mine.out}{other.err}")
    elif mine.status not in (0, 1) or (other.status == 1) != (mine.status == 1):
        found.append(f"status {mine.status}, Litestream {other.status}")
    if (
        "-json" in line
        and mine.status == other.status == 0
        and other.value is not None
        and mine.value != other.value
    ):
        found.append(f"JSON {mine.out}, Litestream {other.out}")
    if mine.status == other.status and mine.files != other.files:
        found.append(f"files {sorted(mine.files)}, Litestream {sorted(other.files)}")
    return found


@pytest.mark.timeout(300)
def test_the_same_answers(
    litestream: str, golden: Callable[[str], Path], tmp_path: Path, monkeypatch: Any
) -> None:
    for name in [name for name in os.environ if name.startswith(("LITESTREAM_", "VFSSTREAM_", "LOG_LEVEL"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME_NAME", "home")
    replicas = {name: golden(name) for name in REPLICAS}
    listed = cases()
    assert len(listed) > 300

    def ask_theirs(number: int) -> Answer:
        name, line = listed[number]
        top = tmp_path / f"t{number}"
        prepare(top, replicas[name])
        return theirs(litestream, fill(line, top, replicas[name]), top)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(ask_theirs, range(len(listed))))
    wrong, unused = [], set(DELIBERATE)
    for number, (name, line) in enumerate(listed):
        top = tmp_path / f"t{number}"
        prepare(top, replicas[name])
        monkeypatch.chdir(top)
        mine = ours(fill(line, top, replicas[name]), top)
        assert "Traceback" not in mine.err
        found = differences(mine, answers[number], line)
        plain = line.replace(" -json -config", " -config")
        if found and plain in DELIBERATE:
            unused.discard(plain)
        elif found:
            wrong.append(f"{name}: {line}\n   " + "\n   ".join(found))
        shutil.rmtree(top)
    assert not wrong, f"{len(wrong)} of {len(listed)}:\n" + "\n".join(wrong)
    assert not unused, f"no difference any more: {unused}"
