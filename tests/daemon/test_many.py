"""A hundred databases in a directory, coming and going under load, one daemon: every one restored equal."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.test_app import Run, run
from tests.daemon.helpers import add_row, daemon, make_database, rows, until

__all__ = ["run"]

COUNT = 100


@pytest.mark.timeout(400)
def test_a_hundred_databases_come_and_go(tmp_path: Path, run: Run) -> None:
    top, replica = tmp_path / "tenants", tmp_path / "replica"
    (top / "deep").mkdir(parents=True)
    config = tmp_path / "app.yml"
    entry = f"{{dir: {top}, pattern: '*.db', recursive: true, watch: true, replica: {{path: {replica}}}}}"
    config.write_text(f"levels: [{{interval: 5s}}]\ndbs: [{entry}]\n")
    paths = [top / ("deep" if number % 4 == 0 else "") / f"{number:03}.db" for number in range(COUNT)]
    for path in paths[:60]:
        make_database(path)
    with daemon(tmp_path, "-config", config) as running:
        until(lambda: running.log.count("writing a full image") >= 60, "the first sixty")
        for number, path in enumerate(paths[:60]):
            add_row(path, f"first {number}")
        for path in paths[60:]:
            make_database(path)
        until(lambda: running.log.count("writing a full image") >= COUNT, "all of them")
        vanishing = paths[:5]
        expected = {path: rows(path) for path in vanishing}
        until(lambda: all(uploaded(run, replica, top, path) for path in vanishing), "those that will vanish")
        for path in vanishing:
            for name in path.parent.glob(f"{path.name}*"):
                name.unlink()
        for round_ in range(3):
            for number, path in enumerate(paths[5:]):
                add_row(path, f"round {round_} {number}")
        assert running.stop() == 0, running.log[-3000:]
    expected |= {path: rows(path) for path in paths[5:]}
    for path in paths:
        output = tmp_path / "out.db"
        output.unlink(missing_ok=True)
        assert run("restore", "-o", output, f"file://{replica}/{path.relative_to(top)}")[0] == 0
        with closing(sqlite3.connect(output)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert rows(output) == expected[path], path
    shutil.rmtree(top)


def uploaded(run: Run, replica: Path, top: Path, path: Path) -> bool:
    """Whether the second TXID of a database is in its replica."""
    _, out, _ = run("ltx", f"file://{replica}/{path.relative_to(top)}")
    return "0000000000000002" in out
