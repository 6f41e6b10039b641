"""Replica URLs: what Litestream's replicate and restore commands read in them, we read too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vfsstream.errors import MissingExtra, UrlError
from vfsstream.stores.retry import RetryStore
from vfsstream.stores.trace import TraceStore
from vfsstream.stores.url import (
    STORE_OPTIONS,
    StoreUrl,
    joined,
    key_prefix,
    open_store,
    parse_url,
    url_from_options,
)
from vfsstream.stores.wrapper import unwrap


@pytest.mark.parametrize(
    ("url", "directory"),
    [
        ("file:///b/plain", "/b/plain"),
        ("file:///b/a%20b", "/b/a%20b"),
        ("file:///b/c d", "/b/c%20d"),
        ("file:///b/é", "/b/%C3%A9"),
        ("file:///b/pl+us", "/b/pl+us"),
        ("file:///b/q?x=1", "/b/q"),
        ("file:///b/h#frag", "/b/h#frag"),
        ("file://host/x", "/host/x"),
        ("file://~/x", "/~/x"),
        ("FILE:///b/x", "/b/x"),
        ("file:///a//b/../c/", "/a/c"),
        ("/b/a b", "/b/a b"),
    ],
)
def test_file_urls_stay_encoded(url: str, directory: str) -> None:
    assert parse_url(url).path == directory
    assert parse_url(url).scheme == "file"


def test_relative_paths() -> None:
    assert parse_url("file:rel").path == os.path.abspath("rel")
    assert parse_url("some/dir").path == os.path.abspath("some/dir")
    assert parse_url("~/x").path == os.path.expanduser("~/x")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("s3://bkt", StoreUrl("s3", host="bkt", path=".")),
        ("s3://bkt/", StoreUrl("s3", host="bkt", path="", raw_path="/")),
        ("S3://BKT/a//b/../c/", StoreUrl("s3", host="BKT", path="a/c", raw_path="/a//b/../c/")),
        (
            "s3://bkt/sp%20ace+plus/é",
            StoreUrl("s3", host="bkt", path="sp ace+plus/é", raw_path="/sp%20ace+plus/é"),
        ),
        ("s3://bkt/a%2Fb", StoreUrl("s3", host="bkt", path="a/b", raw_path="/a%2Fb")),
        ("s3://bkt/../..", StoreUrl("s3", host="bkt", path="", raw_path="/../..")),
        ("s3://bkt.localhost:9000/p", StoreUrl("s3", host="bkt.localhost", port=9000, path="p", raw_path="/p")),
        ("gs://b/p#frag", StoreUrl("gs", host="b", path="p", raw_path="/p")),
        ("abs://acc@cont/p", StoreUrl("abs", user="acc", host="cont", path="p", raw_path="/p")),
        (
            "sftp://u%40x:p%3Aw@h:2222//data/db",
            StoreUrl(
                "sftp", user="u@x", password="p:w", host="h", port=2222, path="data/db", raw_path="//data/db"
            ),
        ),
        (
            "nats://u:p@h1:4222,h2:4223/B",
            StoreUrl("nats", "u", "p", host="h1:4222,h2:4223", path="B", raw_path="/B"),
        ),
        ("webdavs://[::1]:8443/x", StoreUrl("webdavs", host="[::1]", port=8443, path="x", raw_path="/x")),
    ],
)
def test_the_parts_of_a_url(url: str, wanted: StoreUrl) -> None:
    got = parse_url(url)
    assert got.text == url
    for name in ("scheme", "user", "password", "host", "port", "path", "raw_path"):
        assert getattr(got, name) == getattr(wanted, name), name


def test_access_points() -> None:
    arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine"
    assert parse_url(f"s3://{arn}").host == arn
    assert parse_url(f"s3://{arn}").path == ""
    got = parse_url(f"S3://{arn}/a//b?partSize=6000000")
    assert (got.host, got.path, got.query["partSize"]) == (arn, "a/b", "6000000")
    with pytest.raises(UrlError, match="access point"):
        parse_url("s3://arn:aws:s3:eu-west-1:123456789012:bucket/mine")


def test_a_query() -> None:
    assert parse_url("s3://b/p?a=1&a=2&b=x+y&c=%2F&d=").query == {"a": "1", "b": "x y", "c": "/", "d": ""}


@pytest.mark.parametrize(
    ("url", "names", "remedy"),
    [
        ("", "empty", None),
        ("gcs://b/p", "'gcs'", "gs://"),
        ("azblob://b/p", "'azblob'", "abs://"),
        ("https://h/p", "'https'", "webdavs://"),
        ("ftp://h/p", "'ftp'", "one of"),
        ("s3:bucket/p", "malformed", "s3://"),
        ("s3://b/100%", "%-escape", "%25"),
        ("s3://b/%zz", "%-escape", "%25"),
        ("s3://b/%ff", "UTF-8", None),
        ("sftp://u@h:99999/p", "99999", "65535"),
        ("sftp://u@h:ssh/p", "h:ssh", "HOST"),
        ("s3://b/a\nb", "control character", None),
    ],
)
def test_a_malformed_url_is_named_with_a_remedy(url: str, names: str, remedy: str | None) -> None:
    with pytest.raises(UrlError) as caught:
        parse_url(url)
    assert names in str(caught.value)
    assert remedy is None or remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_message_shows_a_password() -> None:
    with pytest.raises(UrlError) as caught:
        parse_url("sftp://u:geheim@h:99999/p")
    assert "geheim" not in str(caught.value)
    assert "geheim" not in repr(parse_url("sftp://u:geheim@h/p"))


@pytest.mark.parametrize(
    ("url", "options", "prefix"),
    [
        ("gs://b", {}, ""),
        ("gs://b/", {}, ""),
        ("gs://b/a//c/../d/", {}, "a/d/"),
        (None, {"path": "/foo/"}, "/foo/"),
        (None, {"path": "foo//bar/../x"}, "foo/x/"),
        (None, {"path": ""}, ""),
    ],
)
def test_where_keys_are_cleaned(url: str | None, options: dict[str, str], prefix: str) -> None:
    parsed = parse_url(url) if url else url_from_options({"type": "gs", **options})
    assert key_prefix(parsed, options) == prefix


def test_places_from_keys(tmp_path: Path) -> None:
    assert url_from_options({"path": "~/x"}).path == os.path.expanduser("~/x")
    assert url_from_options({"path": "/a%20b"}).path == "/a%20b"
    assert url_from_options({"path": "sqlite3:///a/b"}).path == "/a/b"
    with pytest.raises(UrlError, match="key url"):
        url_from_options({"path": "s3://b/x"})
    with pytest.raises(UrlError, match="'gcs'"):
        url_from_options({"type": "gcs", "path": "x"})
    with pytest.raises(UrlError, match="no path"):
        url_from_options({"type": "file"})
    assert open_store(None, {"path": str(tmp_path)}).describe() == f"file://{tmp_path}"


def test_keys_that_a_store_does_not_know() -> None:
    with pytest.raises(UrlError, match=r"'force-path'.*force-path-style"):
        open_store("s3://b/p", {"force-path": "true"})
    with pytest.raises(UrlError, match="url and bucket"):
        open_store("s3://b/p", {"bucket": "other"})
    assert set(STORE_OPTIONS) == {"file", "s3", "gs", "abs", "sftp", "webdav", "nats", "oss"}


def test_a_deeper_place() -> None:
    assert joined(parse_url("s3://b/p"), "a b").path == "p/a b"
    assert joined(parse_url("s3://b"), "x").path == "x"
    assert joined(parse_url("sftp://u@h/data"), "a b").raw_path == "/data/a%20b"
    assert joined(parse_url("file:///data"), "x").path == "/data/x"


def test_the_wrappers(tmp_path: Path) -> None:
    seen: list[str] = []
    with open_store(str(tmp_path), trace=lambda trace: seen.append(trace.operation), max_concurrency=2) as store:
        store.put("a", b"x")
        assert isinstance(store, RetryStore)
        assert type(unwrap(store)).__name__ == "FileStore"
    assert seen == ["put"]
    assert TraceStore(unwrap(store), print).kind == "file"


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://b/p", "boto3", "s3"),
        ("gs://b/p", "google.cloud.storage", "gcs"),
        ("abs://a@b/p", "azure.storage.blob", "azure"),
    ],
)
def test_an_install_without_the_package_says_what_to_install(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == module else real(name, *a))
    with pytest.raises(MissingExtra, match=rf"vfsstream\[{extra}\]"):
        open_store(url)


def test_no_package_is_imported_before_a_request_needs_it(tmp_path: Path) -> None:
    script = (
        "import sys; from vfsstream.stores import open_store\n"
        "stores = [open_store(u) for u in ('s3://b/p', 'gs://b/p', sys.argv[1])]\n"
        "heavy = {'boto3', 'botocore', 'google.cloud', 'azure', 'paramiko', 'nats', 'urllib3', 'requests', 'numpy'}\n"
        "found = heavy & {m for m in sys.modules if '.' not in m or m == 'google.cloud'}\n"
        "found -= {'google.cloud'} if not hasattr(sys.modules.get('google.cloud'), 'storage') else set()\n"
        "sys.exit(repr(found) if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_remote_store_has_the_limit_of_its_kind(tmp_path: Path) -> None:
    from vfsstream.stores.limit import LimitStore
    from vfsstream.stores.wrapper import StoreWrapper

    for url, limited in (
        ("s3://b/p?endpoint=http://127.0.0.1:1&region=x", True),
        ("sftp://u@h/p", True),
        (str(tmp_path), False),
    ):
        with open_store(url) as store:
            assert isinstance(store, StoreWrapper)
            assert isinstance(store.inner, LimitStore) is limited
