"""More databases than the usual limit of open files has room for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.daemon.helpers import daemon, make_database, until

resource = pytest.importorskip("resource")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_soft_limit_of_open_files_does_not_limit_the_number_of_databases(tmp_path: Path) -> None:
    top, replica = tmp_path / "tenants", tmp_path / "replica"
    top.mkdir()
    for number in range(40):
        make_database(top / f"{number}.db")
    config = tmp_path / "app.yml"
    config.write_text(f"dbs: [{{dir: {top}, pattern: '*.db', replica: {{path: {replica}}}}}]\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        running = daemon(tmp_path, "-config", config)
        started = running.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        until(lambda: len(list(replica.glob("*.db/ltx/0/*.ltx"))) >= 40, f"all of them: {started.log[-2000:]}")
        assert started.stop() == 0, started.log[-2000:]
    finally:
        running.__exit__(None, None, None)
