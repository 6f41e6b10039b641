"""Ways to log in to a real sshd, and whom to trust."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.daemon import find_program, running
from tests.servers.sshd import Sshd
from vfsstream.errors import AccessDenied
from vfsstream.stores.url import open_store

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("sftp")]

KEY = "ltx/0/0000000000000001-0000000000000001.ltx"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running(Sshd(tmp_path_factory.mktemp("sshd"))) as daemon:
        yield daemon


def works(daemon: Any, **options: str) -> None:
    with open_store(daemon.url("login"), {"host-key": daemon.host_key, **options}) as store:
        store.put(KEY, b"let in")
        assert store.get(KEY) == b"let in"


def refused(daemon: Any, said: str, **options: str) -> None:
    with (
        open_store(daemon.url("login"), {"host-key": daemon.host_key, **options}) as store,
        pytest.raises(AccessDenied, match=said) as caught,
    ):
        store.get(KEY)
    assert "\n" not in str(caught.value)


def make_key(daemon: Any, path: Path, kind: str, passphrase: str = "") -> str:
    """A key that the server accepts."""
    keygen = find_program("ssh-keygen", "openssh-client")
    subprocess.run([keygen, "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True)
    with (daemon.home / "authorized_keys").open("a") as accepted:
        accepted.write(path.with_suffix(".pub").read_text())
    return str(path)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_keys_of_every_kind_with_and_without_a_passphrase(sshd: Any, tmp_path: Path, kind: str) -> None:
    works(sshd, **{"key-path": make_key(sshd, tmp_path / "plain", kind)})
    locked = make_key(sshd, tmp_path / "locked", kind, "open sesame")
    works(sshd, **{"key-path": locked, "key-passphrase": "open sesame"})
    refused(sshd, "is encrypted", **{"key-path": locked})
    refused(sshd, "key-path .*locked", **{"key-path": locked, "key-passphrase": "open barley"})


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    program = find_program("ssh-agent", "openssh-client")
    socket = Path(f"/tmp/vfsstream-agent-{os.getpid()}")  # paths of sockets are short
    told = subprocess.run([program, "-a", str(socket)], check=True, capture_output=True, text=True).stdout
    pid = re.search(r"SSH_AGENT_PID=(\d+)", told)
    assert pid is not None
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    yield
    subprocess.run([program, "-k"], check=True, capture_output=True, env={**os.environ, "SSH_AGENT_PID": pid[1]})
    socket.unlink(missing_ok=True)


def test_a_key_that_only_the_agent_holds(sshd: Any, tmp_path: Path, agent: None) -> None:
    add = find_program("ssh-add", "openssh-client")
    refused(sshd, "no password and no key|refused user", agent="true")
    key = make_key(sshd, tmp_path / "held", "ed25519")
    subprocess.run([add, "-q", key], check=True)
    Path(key).unlink()
    works(sshd, agent="true")
    refused(sshd, "refused user")


def test_the_file_of_known_hosts(sshd: Any, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    place = f"[127.0.0.1]:{sshd.port}"
    options = {"key-path": str(sshd.user_key), "host-key": "", "known-hosts": str(known)}
    refused(sshd, "known-hosts file", **options)
    known.write_text("")
    refused(sshd, re.escape(f"has no key of {place}"), **options)
    known.write_text(f"{place} {sshd.host_key}\n")
    works(sshd, **options)
    wrong = " ".join((sshd.home / "id.pub").read_text().split()[:2])
    known.write_text(f"{place} {wrong}\n")
    refused(sshd, "host key mismatch", **options)
