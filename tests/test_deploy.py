"""The deployment examples: checked by what checks there are, and the container's command line really run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.daemon.helpers import daemon, until
from vfsstream import __version__
from vfsstream.cli import app
from vfsstream.config.load import load_text

DEPLOY = ROOT / "examples" / "deploy"


def test_the_configuration_loads() -> None:
    text = (DEPLOY / "vfsstream.yml").read_text()
    config = load_text(text, "vfsstream.yml", environ={"REPLICA_URL": "s3://bucket/app"})
    assert config.dbs[0].path == "/data/app.db"
    assert config.dbs[0].restore_if_db_not_exists


def test_the_systemd_unit() -> None:
    unit = DEPLOY / "vfsstream.service"
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    elif os.environ.get("CI"):
        pytest.fail("systemd-analyze is missing: apt-get install systemd")
    text = unit.read_text()
    assert "Type=notify" in text
    assert "WatchdogSec=" in text


def test_hadolint_has_nothing_to_say() -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [program, "--no-color", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("version", ["1.29", "1.31", ""])
def test_the_cluster_would_accept_it(version: str) -> None:
    """Against the schema of Kubernetes itself, unknown fields refused; restartPolicy of a sidecar came with 1.29."""
    program = Path(sys.executable).with_name("kubernetes-validate")
    flags = ["--strict", *(["-k", version] if version else [])]
    sidecar = DEPLOY / "kubernetes" / "sidecar.yaml"
    done = subprocess.run([program, *flags, sidecar], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("passed") == 2


@pytest.mark.soak
def test_the_image_is_what_its_lines_make(tmp_path: Path) -> None:
    """No container engine is needed: pip's line runs in a fresh environment, with this source as the package."""
    found = re.search(
        r"RUN pip install --no-cache-dir \"vfsstream(\[\w+\])==", (DEPLOY / "Dockerfile").read_text()
    )
    assert found is not None
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}{found[1]}"], check=True, timeout=900)
    program = tmp_path / "venv" / "bin" / "vfsstream"
    shown = subprocess.run([program, "version"], capture_output=True, text=True, check=True, cwd=tmp_path)
    declared = re.search(r"ARG VFSSTREAM_VERSION=(\S+)", (DEPLOY / "Dockerfile").read_text())
    assert declared is not None
    assert shown.stdout.strip() == declared[1]
    check = [program, "config", "check", DEPLOY / "vfsstream.yml"]
    places = {"REPLICA_URL": "s3://bucket/app", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    done = subprocess.run(
        check, capture_output=True, text=True, env={**os.environ, **places}, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr


def words_of(line: str) -> list[str]:
    found: list[str] = yaml.safe_load(line)
    return found


def test_the_dockerfile() -> None:
    lines = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text()).splitlines()
    words = {"FROM", "ARG", "RUN", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"}
    instructions = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    assert {name for name, _ in instructions} <= words
    for name, rest in instructions:
        if name == "ARG":
            assert rest == f"VFSSTREAM_VERSION={__version__}"
        if name == "COPY":
            assert (DEPLOY / rest.split()[0]).exists()
        if name == "ENTRYPOINT":
            assert words_of(rest)[:3] == ["vfsstream", "replicate", "-exec"]


def test_the_kubernetes_sidecar(tmp_path: Path) -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "sidecar.yaml").read_text()))
    config, workload = documents
    load_text(config["data"]["litestream.yml"], "litestream.yml", environ={"REPLICA_URL": "s3://bucket/app"})
    spec = workload["spec"]
    assert spec["replicas"] == 1
    pod = spec["template"]["spec"]
    claimed = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    volumes = claimed | {volume["name"] for volume in pod["volumes"]}
    for container in pod["initContainers"] + pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        if container["command"] == ["vfsstream"]:
            _flags_exist(container["args"])
    sidecar = next(c for c in pod["initContainers"] if c["name"] == "vfsstream")
    assert sidecar["restartPolicy"] == "Always"
    ports = {port["name"] for port in sidecar["ports"]}
    assert sidecar["readinessProbe"]["httpGet"]["port"] in ports


def _flags_exist(arguments: list[str]) -> None:
    command: Any = app.program.get_command(None, arguments[0])  # type: ignore[arg-type]
    known = {name for param in command.params for name in param.opts}
    assert {word for word in arguments if word.startswith("-")} <= known


def test_fly() -> None:
    found = tomllib.loads((DEPLOY / "fly" / "fly.toml").read_text())
    assert (DEPLOY / "fly" / found["build"]["dockerfile"]).exists()
    assert found["env"]["DB_PATH"].startswith(found["mounts"]["destination"])
    assert found["metrics"]["port"] == found["checks"]["replication"]["port"] == 9090


def test_the_container_as_it_would_run(tmp_path: Path, vfsstream: Callable[..., Any]) -> None:
    """Restore, application, stop; then again on an empty volume, as after the loss of the machine."""
    database, url = tmp_path / "data" / "app.db", f"file://{tmp_path}/replica"
    config = tmp_path / "litestream.yml"
    text = (DEPLOY / "vfsstream.yml").read_text().replace("0.0.0.0:9090", "127.0.0.1:0")
    config.write_text(text.replace("/run/vfsstream/control.sock", str(tmp_path / "control.sock")))
    environment = {"DB_PATH": str(database), "REPLICA_URL": url, "PAUSE": "0.05"}
    command = f"'{sys.executable}' '{DEPLOY / 'app.py'}'"
    counted = 0
    for _ in range(2):
        database.parent.mkdir()
        with daemon(tmp_path, "-config", config, "-exec", command, env=environment) as running:
            running.said("child started")
            until(lambda: visits(database) > counted + 3, "visits")  # noqa: B023
            assert running.stop(signal.SIGTERM) == 0, running.log
        before, counted = counted, visits(database)
        assert counted > before
        shutil.rmtree(database.parent)


def visits(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(path, timeout=10)) as connection:
            (found,) = connection.execute("SELECT count(*) FROM visits").fetchone()
            return int(found)
    except sqlite3.OperationalError:
        return 0
