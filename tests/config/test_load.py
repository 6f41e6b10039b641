"""The configuration: Litestream's files read unchanged; everything else refused with file, line and key."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfsstream.config.load import load_text
from vfsstream.config.reference import rows
from vfsstream.config.replicas import open_replica, options_of, shown
from vfsstream.config.schema import Config
from vfsstream.config.text import compose, expand
from vfsstream.errors import ConfigError, MissingExtra

FULL = """\
# the whole of Litestream's file, as its documentation shows it
addr: ":9090"
mcp-addr: "127.0.0.1:3001"
socket: {enabled: true, path: /tmp/l.sock, permissions: 0660}
levels:
  - interval: 30s
  - interval: 5m
snapshot: {interval: 12h, retention: 48h}
validation: {interval: 6h}
l0-retention: 10m
l0-retention-check-interval: 30s
verify-compaction: true
retention: {enabled: yes}
heartbeat-url: https://hc.example/ping
heartbeat-interval: 2m
shutdown-sync-timeout: 10s
shutdown-sync-interval: 250ms
exec: gunicorn app:app
logging: {level: DEBUG, type: json, stderr: on, source: off}
access-key-id: AKID
secret-access-key: SECRET
region: eu-west-1
dbs:
  - path: sqlite:///data/app.db
    monitor-interval: 1s
    checkpoint-interval: 1m
    busy-timeout: 2s
    min-checkpoint-page-count: 500
    truncate-page-n: 1000
    max-sync-wal-bytes: 1048576
    restore-if-db-not-exists: true
    replica:
      url: s3://bucket/app
      sync-interval: 5s
      part-size: 10MiB
      sign-payload: true
  - path: /data/other.db
    replicas:
      - type: s3
        bucket: other
        path: 0123
        endpoint: http://127.0.0.1:9000
        force-path-style: true
  - dir: /data/tenants
    pattern: "*.db"
    recursive: true
    watch: true
    meta-dir: /var/lib/meta
    replica: {type: file, path: /backup/tenants}
  - path: /data/s.db
    replica: {type: sftp, host: "h:22", user: u, password: p, path: /x, host-key: ssh-ed25519 AAAA}
  - path: /data/g.db
    replica: {url: "gs://bucket/app"}
  - path: /data/a.db
    replica: {type: abs, account-name: acct, account-key: key, bucket: c, path: app}
  - path: /data/n.db
    replica: {type: nats, url: "nats://localhost:4222/bucket", username: u, password: p}
  - path: /data/w.db
    replica: {type: webdav, webdav-url: "https://dav.example", webdav-username: u, webdav-password: p, path: /app}
  - path: /data/o.db
    replica: {type: oss, bucket: b, region: cn-hangzhou, path: app}
"""


def load(text: str, **environ: str) -> Config:
    return load_text(text, "app.yml", environ=environ)


def one(replica: str = "{url: file:///b}", more: str = "") -> str:
    return f"dbs:\n  - path: /a.db\n    replica: {replica}\n{more}"


def test_a_whole_file() -> None:
    config = load(FULL)
    assert config.socket.permissions == 0o660
    assert [level.interval for level in config.levels or []] == [timedelta(seconds=30), timedelta(minutes=5)]
    assert config.snapshot.interval == timedelta(hours=12)
    assert config.logging.level == "debug"
    assert config.retention.enabled
    first, second, third = config.dbs[:3]
    assert first.replica is not None
    assert second.replica is not None
    assert third.watch
    assert second.replica.path == "0123"
    assert options_of(config, first.replica) == {
        "access-key-id": "AKID",
        "secret-access-key": "SECRET",
        "region": "eu-west-1",
        "sign-payload": True,
        "part-size": 10 << 20,
    }
    assert options_of(config, second.replica)["type"] == "s3"
    assert shown(config, second.replica) == "s3://other/0123"


def test_an_empty_file_is_valid() -> None:
    for text in ("", "# nothing\n", "---\n", "~\n", "dbs:\n", "snapshot:\n"):
        assert load(text).dbs == []


def test_merges_and_anchors() -> None:
    text = """\
dbs:
  - &first
    path: /a.db
    busy-timeout: 3s
    replica: {url: file:///a}
  - <<: *first
    path: /b.db
    replica: {url: file:///b}
"""
    second = load(text).dbs[1]
    assert (second.path, second.busy_timeout) == ("/b.db", timedelta(seconds=3))


@pytest.mark.parametrize(
    "text", ["0123", "yes", "1.50", "0x1F", "2001-01-01", "1_000", "12:30:45", "'~'", "null.db"]
)
def test_strings_keep_their_spelling(text: str) -> None:
    assert load(f"dbs: [{{path: {text}, replica: {{url: file:///b}}}}]").dbs[0].path == text.strip("'")


@pytest.mark.parametrize(
    ("text", "value"), [("y", True), ("On", True), ("TRUE", True), ("n", False), ("off", False), ("No", False)]
)
def test_yaml_booleans(text: str, value: bool) -> None:
    assert load(f"verify-compaction: {text}").verify_compaction is value


@pytest.mark.parametrize(
    ("text", "value"),
    [("8", 8), ("0x10", 16), ("0b11", 3), ("017", 15), ("1_000", 1000), ("1.5", 1), ("1e3", 1000)],
)
def test_yaml_integers(text: str, value: int) -> None:
    assert load(one(more=f"    min-checkpoint-page-count: {text}")).dbs[0].min_checkpoint_page_count == value


def test_bare_durations_are_nanoseconds_unless_absurd() -> None:
    assert load("l0-retention: 5000000000").l0_retention == timedelta(seconds=5)
    assert load("l0-retention: 0").l0_retention == timedelta(0)
    with pytest.raises(ConfigError, match=r"app.yml:1: l0-retention: .*nanoseconds; write a unit, as 5s"):
        load("l0-retention: 5")


REFUSED: list[tuple[str, str]] = [
    # text, what the message says
    ("retenton: {}", r"app.yml:1: retenton: unknown key \(did you mean retention\?\)"),
    ("Addr: ':90'", r"app.yml:1: Addr: unknown key \(did you mean addr\?\)"),
    (one("{url: s3://b/p, retention: 24h}"), r"app.yml:3: dbs\[0\].replica.retention: unknown key"),
    (one("{url: s3://b/p, snapshot-interval: 24h}"), r"snapshot.interval at the top level"),
    (one("{url: s3://b/p, age: {recipients: [x]}}"), r"app.yml:3: dbs\[0\].replica.age: encryption"),
    ("age: {identities: [x]}", r"app.yml:1: age: encryption"),
    (one("{url: gs://b/p, sse-customer-key: QUJD}"), r"dbs\[0\].replica.sse-customer-key: has no meaning for gs"),
    (one() + "  - path: /a.db\n    replica: {url: file:///c}", r"app.yml:4: dbs\[1\].path: the same database"),
    (
        one() + "  - path: /c.db\n    replica: {url: file:///b}",
        r"app.yml:5: dbs\[1\].replica: the same destination",
    ),
    (one() + "  - path: /c.db\n    replica: {path: /b}", r"the same destination"),
    ("addr: x\naddr: y", r"app.yml:2: addr: given twice; first in line 1"),
    ("addr: 9090", r"app.yml:1: addr: expected host:port.*127.0.0.1:9090"),
    ("addr: [1]", r"app.yml:1: addr: expected one value \(string\), found a list"),
    ("dbs: 5", r"app.yml:1: dbs: expected a list"),
    ("dbs: [~]", r"app.yml:1: dbs\[0\]: an empty entry"),
    ("levels:\n- ~", r"app.yml:2: levels\[0\]: an empty entry"),
    ("levels: [{}]", r"levels\[0\].interval: an interval is required"),
    ("levels: [{interval: 0s}]", r"levels\[0\].interval: must be greater than 0s"),
    ("levels: [" + "{interval: 1s}," * 9 + "]", r"levels: at most 8"),
    ("- a", r"app.yml:1: expected keys and values"),
    ("a: b: c", r"app.yml:1: not valid YAML"),
    ("a: [", r"not valid YAML"),
    ("a: \x01", r"app.yml:1: a character that YAML does not allow"),
    ("? [a]\n: b", r"a key must be a word"),
    ("a: &a [*a]", r"app.yml:1: .*(contains itself|nested too deeply)"),
    ("verify-compaction: 'true'", r"app.yml:1: verify-compaction: 'true': expected true or false"),
    ("snapshot: {interval: 0s}", r"snapshot.interval: must be greater"),
    ("snapshot: {interval: soon}", r"snapshot.interval: invalid duration 'soon'"),
    ("heartbeat-url: ftp://x", r"heartbeat-url: must start"),
    ("heartbeat-interval: 30s", r"heartbeat-interval: must be at least 1m0s, found 30s"),
    ("logging: {type: jsn}", r"logging.type: unknown value 'jsn' \(did you mean json\?\)"),
    ("logging: {level: verbose}", r"logging.level: unknown value"),
    ("exec: ' '", r"exec: an empty command"),
    ("dbs: [{path: /a, dir: /b, replica: {url: file:///x}}]", r"path and dir exclude"),
    ("dbs: [{replica: {url: file:///x}}]", r"path or dir is required"),
    ("dbs: [{dir: /b, replica: {url: file:///x}}]", r"pattern is required"),
    ("dbs: [{path: /b, watch: true, replica: {url: file:///x}}]", r"dbs\[0\].watch: only with dir"),
    ("dbs: [{path: /b}]", r"a replica is required"),
    ("dbs: [{path: /b, replicas: []}]", r"exactly one replica per database, found 0"),
    ("dbs: [{path: /b, replica: {url: file:///x}, replicas: [{url: file:///y}]}]", r"exclude each other"),
    (one("{url: ftp://x}"), r"app.yml:3: dbs\[0\].replica.url: unknown scheme 'ftp'"),
    (one("{url: /x}"), r"dbs\[0\].replica.url: not a URL"),
    (one("{path: s3://b}"), r"use url:"),
    (one("{url: s3://b, bucket: c}"), r"url and bucket exclude"),
    (one("{type: s3}"), r"dbs\[0\].replica.bucket: required for s3"),
    (one("{}"), r"dbs\[0\].replica.path: required for file"),
    (one("{type: gcs, bucket: b}"), r"dbs\[0\].replica.type: unknown value 'gcs' \(did you mean gs\?\)"),
    (
        one(more="    min-checkpoint-page-count: 0"),
        r"app.yml:4: dbs\[0\].min-checkpoint-page-count: must be greater",
    ),
    (one(more="    max-sync-wal-bytes: 64MB"), r"max-sync-wal-bytes: '64MB': expected a whole number"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(text)


@pytest.mark.parametrize(
    ("line", "key", "word"),
    [
        ("interval: 0s1x", "interval", "duration"),
        ("interval: -1h", "interval", "at least 0s"),
        ("interval: 5", "interval", "nanoseconds"),
        ("sample: 0", "sample", "share"),
        ("sample: 101%", "sample", "share"),
        ("sample: nan", "sample", "share"),
        ("sample: some", "sample", "10%"),
        ("cpu: -25%", "cpu", "share"),
        ("cpu: inf", "cpu", "share"),
        ("integrity-check: deep", "integrity-check", "one of: none quick full"),
        ("intervall: 1h", "intervall", "did you mean interval"),
    ],
)
def test_nonsense_about_verification_is_refused_where_it_stands(line: str, key: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"dbs: []\nverify:\n  {line}\n")
    assert (caught.value.line, caught.value.key) == (3, f"verify.{key}")
    assert word in f"{caught.value} {caught.value.hint}"


def test_snapshot_of_a_database_is_everybodys() -> None:
    config = load(one(more="    snapshot: {interval: 1h}"))
    assert config.snapshot.interval == timedelta(hours=1)
    assert "dbs[0].snapshot.interval applies to all" in config.warnings[0]
    two = one(more="    snapshot: {interval: 1h}\n") + (
        "  - path: /c.db\n    replica: {url: file:///c}\n    snapshot: {interval: 2h}"
    )
    with pytest.raises(ConfigError, match=r"dbs\[1\].snapshot.interval: differs"):
        load(two)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$A-${A}x$AB", "1-1x"),
        ("${NONE:-d}", "d"),
        ("${A:-d}", "1"),
        ("$$A", "$A"),
        ("a$", "a$"),
        ("$ x $. x", "$ x $. x"),
        ("${}", ""),
        ("$1x", "x"),
        ("\\$A", "\\1"),
    ],
)
def test_expansion(text: str, result: str) -> None:
    assert expand(text, {"A": "1"}) == result


def test_every_key_can_come_from_the_environment() -> None:
    config = load(
        one(),
        VFSSTREAM__SNAPSHOT__INTERVAL="2h",
        VFSSTREAM__DBS__0__REPLICA__URL="file:///elsewhere",
        VFSSTREAM__DBS__1__PATH="/b.db",
        VFSSTREAM__DBS__1__REPLICA__TYPE="s3",
        VFSSTREAM__DBS__1__REPLICA__BUCKET="b",
        VFSSTREAM__DBS__1__BUSY_TIMEOUT="3s",
        VFSSTREAM__LEVELS__0__INTERVAL="1m",
        VFSSTREAM__SOCKET__ENABLED="true",
    )
    assert config.snapshot.interval == timedelta(hours=2)
    assert config.dbs[0].replica is not None
    assert config.dbs[0].replica.url == "file:///elsewhere"
    assert config.dbs[1].busy_timeout == timedelta(seconds=3)
    assert config.socket.enabled


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SNAPSHOT__INTERVL", "1h", r"VFSSTREAM__SNAPSHOT__INTERVL: names no key .*interval"),
        ("SNAPSHOT", "1h", "names a section"),
        ("ADDR__X", "1", "names no key"),
        ("DBS__1__PATH", "x", "the next one is number 0"),
        ("DBS__PATH", "x", "expected a number"),
        ("SOCKET__ENABLED", "maybe", "VFSSTREAM__SOCKET__ENABLED: .*expected true or false"),
        ("SECRET_ACCESS_KEY__X", "hunter2", "names no key"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load("", **{f"VFSSTREAM__{name}": value})
    assert "hunter2" not in str(caught.value)


def test_files_open_where_the_configuration_says(tmp_path: Any) -> None:
    config = load(one(f"{{path: {tmp_path}/r}}"))
    assert config.dbs[0].replica is not None
    with open_replica(config, config.dbs[0].replica).store as store:
        assert str(tmp_path / "r") in store.describe()


_PIECES = [
    ":",
    " ",
    "-",
    "\n",
    "\t",
    "'",
    '"',
    "[",
    "]",
    "{",
    "}",
    "&a",
    "*a",
    "!!int",
    "!x",
    "#",
    "|",
    "<<: ",
    "~",
    "$",
]
_PIECES += ["\x00", "é", "0x", "9" * 40, "? ", "---\n", "%"]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_file_loads_or_says_where(data: st.DataObject) -> None:
    text = FULL
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.sampled_from(_PIECES)) + text[end:]
    _loads_or_says_where(text)


def _loads_or_says_where(text: str, *, key: bool = False, secrets: bool = True) -> None:
    """The file is read and every replica opened, or the error names line (and key), and no secret."""
    error = _refusal(text)
    if error is None:
        return
    assert re.match(r"app\.yml:\d+: ", str(error)), str(error)
    assert error.key or not key, str(error)
    assert error.line is not None
    assert error.line <= text.count("\n") + 2, str(error)
    assert not secrets or "SECRET" not in f"{error} {error.hint}"


def _refusal(text: str) -> ConfigError | None:
    try:
        config = load(text)
        for entry in config.dbs:
            assert entry.replica is not None
            open_replica(config, entry.replica).store.close()
    except ConfigError as error:
        return error
    except MissingExtra:
        pass
    return None


_VALUES = [
    "",
    "null",
    "-1",
    "0",
    "1e309",
    "5",
    "yes",
    "'x'",
    "[]",
    "[1]",
    "{}",
    "{a: b}",
    "[[[]]]",
    "0x",
    "1h",
    "9" * 30,
]
_VALUES += [
    "ftp://u:SECRET@h/p",
    "s3://",
    "s3://b:99999/x",
    "nats://h",
    "sftp://h/x",
    "gs://",
    "oss://b.c/",
    "abs://a@/",
]
_NAMES = sorted({row[0].rpartition(".")[2] for row in rows()})
_KEY_LINE = re.compile(r"^(\s*(?:- )?)([\w-]+):(.*)$")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_file_with_other_keys_and_values_loads_or_says_line_and_key(data: st.DataObject) -> None:
    """Valid YAML all along: keys renamed, moved, doubled, given values of every kind."""
    lines, renamed = FULL.splitlines(), False
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from([n for n, line in enumerate(lines) if _KEY_LINE.match(line)]))
        match = _KEY_LINE.match(lines[at])
        assert match is not None
        lead, name, rest = match.groups()
        change = data.draw(st.sampled_from(["value", "name", "misspelt", "double", "drop"]))
        if change == "value":
            lines[at] = f"{lead}{name}: {data.draw(st.sampled_from(_VALUES))}"
        elif change == "name":
            lines[at], renamed = f"{lead}{data.draw(st.sampled_from(_NAMES))}:{rest}", True
        elif change == "misspelt":
            lines[at] = f"{lead}{name[1:]}x:{rest}"
        elif change == "double":
            lines.insert(at, lines[at])
        else:
            del lines[at]
    text = "\n".join(lines) + "\n"
    try:
        valid = compose(text, "app.yml")
    except ConfigError:
        return  # YAML itself; the other test is about that
    assert valid is not None
    # A secret under the name of a key that holds none is shown, unless it is seen to be one.
    _loads_or_says_where(text, key=True, secrets=not renamed)


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("dbs:\n- path: a\n  replica:\n    url: s3://b/a\n    access-key-id: SECRET\n", 5, "access-key-id"),
        ("access-key-id: SECRET\ndbs:\n- path: a\n  replica:\n    url: s3://b/a\n", 1, ""),
        ("dbs:\n- path: a\n  replica:\n    url: s3://b:99999/a\n", 4, "url"),
    ],
)
def test_what_a_store_refuses_is_named_by_line_and_key(text: str, line: int, key: str) -> None:
    config = load(text)
    assert config.dbs[0].replica is not None
    with pytest.raises(ConfigError) as caught:
        open_replica(config, config.dbs[0].replica)
    wanted = f"dbs[0].replica.{key}" if key else "access-key-id"
    assert (caught.value.line, caught.value.key) == (line, wanted)
    assert "SECRET" not in f"{caught.value} {caught.value.hint}"
