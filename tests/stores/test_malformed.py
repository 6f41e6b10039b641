"""Malformed URLs and settings of every kind of store: one error that says what is wrong, never anything else."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vfsstream.errors import UrlError
from vfsstream.stores.url import STORE_OPTIONS, open_store

KEYS = {"access-key-id": "a", "secret-access-key": "b"}

TABLE: list[tuple[str, dict[str, str], str]] = [
    # any
    ("", {}, "no path"),
    ("   ", {}, "empty replica URL"),
    ("s3:/bucket", {}, "malformed replica URL"),
    ("s3://b/\n", {}, "control character"),
    ("ftp://h/p", {}, "unknown replica URL scheme 'ftp'"),
    ("gcs://b/p", {}, "write gs://"),
    ("https://h/p", {}, "write webdavs://"),
    ("s3://b/%zz", {}, "%-escape"),
    ("sftp://u@h/%ff", {}, "not UTF-8"),
    ("sftp://u@h:99999/p", {}, "out of range"),
    ("webdav://a:b:c/p", {}, "malformed host"),
    ("s3://b/p", {"bucket": "other"}, "both given"),
    ("s3://b/p", {"buckets": "b"}, "unknown key 'buckets'"),
    # file
    ("file://", {}, "no path"),
    ("file:///a%zz", {}, "%-escape"),
    # s3
    ("s3://", KEYS, "bucket"),
    ("s3:///path", KEYS, "bucket"),
    ("s3://arn:aws:s3", KEYS, "access point"),
    ("s3://b/p?partSize=much", KEYS, "much"),
    ("s3://b/p?partSize=1", KEYS, "5 MiB|5242880|part"),
    ("s3://b/p?concurrency=-1", KEYS, "concurrency"),
    ("s3://b/p?endpoint=http://", KEYS, "endpoint"),
    ("s3://b/p", {"access-key-id": "a"}, "secret-access-key"),
    ("s3://b/p?sseCustomerKey=short", KEYS, "sse"),
    ("s3://b/p?sseKmsKey=1", KEYS, "unknown parameter 'sseKmsKey'"),
    # gs
    ("gs://", {}, "bucket"),
    # abs
    ("abs://", {}, "container|account"),
    ("abs://a@", {"account-key": "AAAA"}, "container"),
    ("abs://container/p", {"account-key": "AAAA"}, "account"),
    ("abs://a@c/p", {"account-key": "not base64!"}, "account-key"),
    # sftp
    ("sftp://host/p", {}, "user"),
    ("sftp:///p", {}, "host"),
    ("sftp://u@h/p?color=red", {}, "color"),
    ("sftp://u@h/p", {"host-key": "ssh-ed25519 nonsense"}, "not a public key"),
    ("sftp://u@h/p", {"concurrent-writes": "perhaps"}, "neither true nor false"),
    # nats
    ("nats://h", {}, "bucket"),
    ("nats://h/a/b", {}, "not the name"),
    ("nats:///b", {}, "server"),
    ("nats://h:port/b", {}, "port"),
    ("nats://h/b", {"client-cert": "c.pem"}, "go together"),
    ("nats://h/b", {"timeout": "soon"}, "not a duration"),
    ("nats://h/b", {"max-reconnects": "many"}, "not a whole number"),
    # webdav
    ("webdav://", {}, "server"),
    ("", {"type": "webdav", "webdav-url": "ftp://h/p"}, "not an http"),
    ("", {"type": "webdav", "webdav-url": "http://"}, "no host"),
    # oss
    ("oss://", KEYS, "bucket"),
    ("oss://b/p", {**KEYS, "part-size": "1"}, "part-size"),
    ("oss://b/p", {**KEYS, "signature-version": "v9"}, "signature-version"),
]


@pytest.mark.parametrize(("url", "options", "said"), TABLE, ids=[f"{n}-{row[0]}" for n, row in enumerate(TABLE)])
def test_what_is_wrong_is_named(
    url: str, options: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "LITESTREAM_S3_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UrlError, match=f"(?i){said}") as caught:
        open_store(url, options).close()
    assert "\n" not in str(caught.value)


def test_a_parameter_that_nobody_knows_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with open_store("s3://b/p?regoin=eu-west-1", KEYS):
        assert "unknown parameter 'regoin'" in caplog.text


SCHEMES = sorted({*STORE_OPTIONS, "webdavs", "S3", "ftp"})
ODD = st.text(
    st.sampled_from("abZ09-._~%/?#[]@!$&'()*+,;=:\\ \"<>{}|^`é€²\x00\n😀"), max_size=30
)  # what means something in a URL, and what may not stand in one
NAMES = sorted({name for keys in STORE_OPTIONS.values() for name in keys})


def _opens(url: str, options: dict[str, str]) -> None:
    refused = ""
    try:
        store = open_store(url, options)
    except UrlError as error:
        refused = str(error)
    if refused:
        assert refused.isprintable()
        return
    assert store.describe()
    assert repr(store)
    store.close()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("odd"))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SCHEMES), ODD, ODD, ODD)
@example("sftp", "u:p@[::1", "/", "")
@example("nats", "h:-1", "/b", "")
@example("s3", "arn:aws:s3:::accesspoint/", "", "")
@example("webdav", "[::1]:x", "/p", "")
@example("oss", "b.oss-.aliyuncs.com", "/p", "")
def test_any_text_is_a_store_or_one_error(scheme: str, place: str, path: str, query: str) -> None:
    _opens(f"{scheme}://{place}/{path}?{query}", {})
    _opens(f"{scheme}://{place}{path}", {})


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(STORE_OPTIONS)), st.dictionaries(st.sampled_from(NAMES), ODD, max_size=4))
def test_any_setting_is_a_store_or_one_error(kind: str, options: dict[str, str]) -> None:
    _opens("", {"type": kind, **options})
    _opens(f"{kind}://user@host/path", options)
