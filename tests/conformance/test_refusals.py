"""What a real server refuses is said in one line, with what to do: by ``check``, and by ``restore``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.servers.apache import Apache
from tests.servers.azurite import ACCOUNT, CONTAINER, KEY
from tests.servers.daemon import running
from tests.servers.nats import Nats
from tests.servers.sshd import Sshd
from tests.stores.wire import Reply, wire
from vfsstream.cli.app import execute
from vfsstream.errors import AccessDenied
from vfsstream.stores import s3_sign
from vfsstream.stores.url import open_store

pytestmark = [pytest.mark.server]

Server = Callable[[str], Any]


@dataclass(frozen=True)
class Place:
    """Where to go, with what is wrong about it."""

    url: str
    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class Commands:
    """The command line, with a configuration file that names one database and one replica."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def _run(self, place: Place, *words: str) -> tuple[int, str, str]:
        database = self.folder / "app.db"
        config = self.folder / "vfsstream.yml"
        config.write_text(
            yaml.safe_dump({"dbs": [{"path": str(database), "replica": {"url": place.url, **place.options}}]})
        )
        self._capsys.readouterr()
        status = execute([words[0], "-config", str(config), *words[1:], str(database)])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    def check(self, place: Place) -> dict[str, str]:
        """What failed, and why."""
        status, out, err = self._run(place, "check", "-json", "-quick")
        found = json.loads(out)["checks"]
        failed = {check["name"]: check["detail"] for check in found if check["verdict"] == "fail"}
        assert status == (1 if failed else 0), err
        assert not any("\n" in detail for detail in failed.values())
        return failed

    def restore(self, place: Place) -> str:
        """Why it failed; nothing was written."""
        before = {*self.folder.iterdir()}
        status, _, err = self._run(place, "restore", "-o", str(self.folder / "restored.db"))
        assert status != 0
        assert {path.name for path in {*self.folder.iterdir()} - before} <= {"vfsstream.yml"}
        return err


@pytest.fixture
def commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    folder = tmp_path / "here"
    folder.mkdir()
    return Commands(folder, capsys)


# Nothing works: credentials, names, trust


def _s3(server: Server, **wrong: str) -> Place:
    daemon = server("radosgw")
    return Place(daemon.url("refused"), {**daemon.options, **wrong})


def _abs(server: Server, container: str = CONTAINER, **wrong: str) -> Place:
    daemon = server("azurite")
    return Place(f"abs://{ACCOUNT}@{container}/refused", {**daemon.options, **wrong})


def _oss(server: Server, bucket: str | None = None, **wrong: str) -> Place:
    daemon = server("oss")
    url = daemon.url("refused") if bucket is None else f"oss://{bucket}/refused"
    return Place(url, {**daemon.options, **wrong})


def _sftp(server: Server, **wrong: str) -> Place:
    daemon = server("sftp")
    return Place(daemon.url("refused"), {**daemon.options, **wrong})


def _without_key(server: Server, **instead: str) -> Place:
    daemon = server("sftp")
    return Place(daemon.url("refused"), {"host-key": daemon.host_key, **instead})


def _other_key(server: Server) -> str:
    daemon = server("sftp")
    return str(daemon.home / "hostkey")  # a key, but nobody's who may log in


def _webdav(server: Server) -> Place:
    return Place(server("webdav").url("refused").replace(":pw@", ":wrong@"))


def _gcs(server: Server) -> Place:
    daemon = server("gcs")
    return Place("gs://no-such-bucket/refused", environment=daemon.client_environment)


def _sas(permissions: str, hours: int) -> str:
    from azure.storage.blob import generate_container_sas

    until = datetime.now(UTC) + timedelta(hours=hours)
    return str(generate_container_sas(ACCOUNT, CONTAINER, account_key=KEY, permission=permissions, expiry=until))


def _with_sas(server: Server, permissions: str, hours: int = 1) -> Place:
    endpoint = server("azurite").options["endpoint"]
    options = {"endpoint": endpoint, "sas-token": _sas(permissions, hours)}
    return Place(f"abs://{ACCOUNT}@{CONTAINER}/refused", options)


HOPELESS: dict[str, tuple[str, Callable[[Server], Place], tuple[str, ...]]] = {
    "s3 unknown key": (
        "radosgw",
        lambda server: _s3(server, **{"access-key-id": "AKIAUNKNOWNUNKNOWN00"}),
        ("InvalidAccessKeyId", "access-key-id"),
    ),
    "s3 wrong secret": (
        "radosgw",
        lambda server: _s3(server, **{"secret-access-key": "wrong"}),
        ("SignatureDoesNotMatch", "secret-access-key"),
    ),
    "s3 wrong bucket": (
        "radosgw",
        lambda server: Place(
            server("radosgw").url("refused").replace("s3://", "s3://no-such-"),
            server("radosgw").options,
        ),
        ("the bucket does not exist", "create it"),
    ),
    "gs wrong bucket": ("gcs", _gcs, ("no-such-bucket", "the bucket does not exist", "create it")),
    "abs wrong container": (
        "azurite",
        lambda server: _abs(server, "no-such-container"),
        ("no-such-container", "the container does not exist", "create it"),
    ),
    "abs wrong key": (
        "azurite",
        lambda server: _abs(server, **{"account-key": KEY[:-8] + "AAAAAA=="}),
        ("check account-key",),
    ),
    "abs expired sas": (
        "azurite",
        lambda server: _with_sas(server, "rwdl", -1),
        ("the SAS has expired on", "fresh"),
    ),
    "oss wrong bucket": (
        "oss",
        lambda server: _oss(server, "no-such-bucket"),
        ("no-such-bucket", "create the bucket"),
    ),
    "oss wrong secret": (
        "oss",
        lambda server: _oss(server, **{"secret-access-key": "wrong"}),
        ("SignatureDoesNotMatch", "secret-access-key"),
    ),
    "oss unknown key": (
        "oss",
        lambda server: _oss(server, **{"access-key-id": "LTAIUNKNOWN"}),
        ("InvalidAccessKeyId", "access-key-id"),
    ),
    "sftp host key": (
        "sftp",
        lambda server: _sftp(server, **{"host-key": (server("sftp").home / "id.pub").read_text().strip()}),
        ("host key mismatch", "SHA256:", "set host-key to: ssh-ed25519"),
    ),
    "sftp wrong key": (
        "sftp",
        lambda server: _without_key(server, **{"key-path": _other_key(server)}),
        ("refused user", "hostkey refused", "key-path"),
    ),
    "sftp missing key file": (
        "sftp",
        lambda server: _without_key(server, **{"key-path": "/no/such/key"}),
        ("key-path /no/such/key", "No such file"),
    ),
    "sftp password where none is taken": (
        "sftp",
        lambda server: _without_key(server, password="wrong"),
        ("password not accepted here, only publickey",),
    ),
    "webdav wrong password": ("webdav", _webdav, ("HTTP 401", "webdav-password")),
    "nats wrong bucket": (
        "nats",
        lambda server: Place(f"nats://127.0.0.1:{server('nats').port}/no-such-bucket"),
        ("no object store bucket 'no-such-bucket'", "nats object add"),
    ),
}


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=pytest.mark.xdist_group(HOPELESS[name][0])) for name in HOPELESS]
)
def test_what_cannot_work_is_said_and_nothing_is_written(
    case: str, server: Server, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, make, said = HOPELESS[case]
    place = make(server)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    failed = commands.check(place)
    assert [*failed] == ["put"], "the others are not tried"
    for text in (failed["put"], commands.restore(place)):
        for wanted in said:
            assert wanted in text, (wanted, text)


@pytest.mark.xdist_group("radosgw")
def test_a_clock_that_is_wrong(server: Server, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = SimpleNamespace(strftime=time.strftime, gmtime=lambda _: time.gmtime(time.time() + 2 * 3600))
    monkeypatch.setattr(s3_sign, "time", ahead)
    daemon = server("radosgw")
    place = Place(daemon.url("skewed"), daemon.options)
    for text in (commands.check(place)["put"], commands.restore(place)):
        assert "RequestTimeTooSkewed" in text
        assert "set this machine's clock" in text


def test_a_token_that_has_expired(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"example of {name}")
    with wire() as line:
        line.default = Reply(400, {"Content-Type": "application/xml"}, body)
        place = Place(f"s3://bkt/db?endpoint={line.endpoint}")
        for text in (commands.check(place)["put"], commands.restore(place)):
            assert "ExpiredToken" in text
            assert "get fresh credentials" in text
        assert all(seen.headers["x-amz-security-token"] for seen in line.seen)


# Some of it works: permissions


@contextmanager
def _moto(server: Server, folder: Path, denied: str) -> Iterator[Place]:
    moto = server("moto")
    admin, user = moto.sdk("iam"), f"no-{denied}"
    actions = {
        "list": ["GetObject", "PutObject", "DeleteObject"],
        "delete": ["GetObject", "PutObject", "ListBucket"],
    }
    admin.create_user(UserName=user)
    made = admin.create_access_key(UserName=user)["AccessKey"]
    statement = {"Effect": "Allow", "Action": [f"s3:{name}" for name in actions[denied]], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    admin.put_user_policy(UserName=user, PolicyName="some", PolicyDocument=policy)
    keys = {"access-key-id": made["AccessKeyId"], "secret-access-key": made["SecretAccessKey"]}
    yield Place(moto.url(f"denied-{denied}"), keys)


@contextmanager
def _azurite(server: Server, folder: Path, denied: str) -> Iterator[Place]:
    yield _with_sas(server, {"list": "rwd", "delete": "rwl"}[denied])


@contextmanager
def _sshd(server: Server, folder: Path, denied: str) -> Iterator[Place]:
    with running(Sshd(folder, denied={"list": "opendir", "delete": "remove"}[denied])) as daemon:
        yield Place(daemon.url("x"), daemon.options)  # type: ignore[attr-defined]


@contextmanager
def _apache(server: Server, folder: Path, denied: str) -> Iterator[Place]:
    method = {"list": "PROPFIND", "delete": "DELETE"}[denied]
    with running(
        Apache(folder, more=f"<If \"%{{REQUEST_METHOD}} == '{method}'\">\nRequire all denied\n</If>")
    ) as daemon:
        yield Place(daemon.url("x"))  # type: ignore[attr-defined]


@contextmanager
def _nats(server: Server, folder: Path, denied: str) -> Iterator[Place]:
    subject = {"list": "$JS.API.CONSUMER.CREATE.>", "delete": "$JS.API.STREAM.PURGE.>"}[denied]
    some = f'{{publish: {{deny: ["{subject}"]}}}}'
    users = f"{{user: all, password: p}}, {{user: some, password: p, permissions: {some}}}"
    with running(Nats(folder, config=f"authorization {{ users: [{users}] }}", account="all:p@")) as daemon:
        url = daemon.url("bucket").replace("all:p@", "some:p@")  # type: ignore[attr-defined]
        yield Place(url, {"timeout": "1s"})


PARTLY = {"moto": _moto, "azurite": _azurite, "sftp": _sshd, "webdav": _apache, "nats": _nats}
SAID = {
    "moto": ("AccessDenied", "allow ListBucket, GetObject, PutObject and DeleteObject"),
    "azurite": ("AuthorizationPermissionMismatch", "read, write, delete and list"),
    "sftp": ("ermission denied", "check owner and permissions"),
    "webdav": ("forbidden (HTTP 403)", "check the user's permissions"),
    "nats": ("ermissions", "the account needs"),
}


@pytest.mark.parametrize("denied", ["list", "delete"])
@pytest.mark.parametrize("kind", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in PARTLY])
def test_a_permission_that_is_missing(
    kind: str, denied: str, server: Server, commands: Commands, tmp_path: Path
) -> None:
    with PARTLY[kind](server, tmp_path / "server", denied) as place:
        failed = commands.check(place)
        name = {"list": "list with start", "delete": "delete"}[denied]
        assert name in failed, failed
        for wanted in SAID[kind]:
            assert wanted in failed[name], failed
        if denied == "list":
            text = commands.restore(place)
            assert all(wanted in text for wanted in SAID[kind]), text
        else:
            with open_store(place.url, dict(place.options)) as store:
                store.put("ltx/0/0000000000000001-0000000000000001.ltx", b"x")
                assert [*store.list("ltx/0/")], "what is not to be deleted is still read"


# In good order


@pytest.mark.xdist_group("oss")
@pytest.mark.parametrize("version", ["v1", "v4"])
def test_signatures_of_both_versions(server: Server, version: str) -> None:
    daemon = server("oss")
    with open_store(daemon.url(f"s{version}"), {**daemon.options, "signature-version": version}) as store:
        store.put("a/b", b"1")
        assert [info.key for info in store.list("a/")] == ["a/b"]
        store.delete(["a/b"])
    wrong = {**daemon.options, "signature-version": version, "secret-access-key": "wrong"}
    with (
        open_store(daemon.url("x"), wrong) as store,
        pytest.raises(AccessDenied, match="SignatureDoesNotMatch"),
    ):
        store.get("a/b")
