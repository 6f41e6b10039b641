"""Three layers of options, and what bad values say."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

import vfsstream
from tests.conftest import ROOT
from vfsstream.errors import OptionError
from vfsstream.vfs.connect import database_uri
from vfsstream.vfs.options import KEYS, Options
from vfsstream.vfs.times import format_duration, parse_duration, parse_moment, parse_size

URL = {"replica_url": "file:///r"}


def test_the_nearest_layer_wins() -> None:
    environment = {"LITESTREAM_REPLICA_URL": "file:///env", "VFSSTREAM_CACHE_SIZE": "1MB"}
    assert Options.resolve({}, {}, environment).replica_url == "file:///env"
    assert Options.resolve({}, {}, environment).cache_size == 1 << 20
    assert Options.resolve({}, {"replica_url": "file:///conf"}, environment).replica_url == "file:///conf"
    both = Options.resolve({"replica_url": "file:///uri"}, {"replica_url": "file:///conf"}, environment)
    assert both.replica_url == "file:///uri"


def test_litestreams_values() -> None:
    options = Options.resolve(
        {
            **URL,
            "cache_size": "4096",
            "poll_interval": "1m30s",
            "hydration_enabled": "1",
            "write_enabled": "false",
        },
        {},
        {"LITESTREAM_SYNC_INTERVAL": "1s", "LITESTREAM_BUFFER_PATH": "/tmp/b"},
    )
    assert (options.cache_size, options.poll_interval, options.hydration_enabled) == (4096, 90.0, True)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({}, "replica_url"),
        ({**URL, "write_enabled": "TRUE"}, "write_enabled"),
        ({**URL, "txid": "3", "time": "now"}, "exclude"),
        ({**URL, "poll_interval": "5s", "max_poll_interval": "1s"}, "max_poll_interval"),
        ({**URL, "poll_interval": "-1s"}, "poll_interval=-1s"),
        ({**URL, "max_requests": "0"}, "max_requests=0"),
        ({**URL, "cache-size": "1"}, "cache_size"),
    ],
)
def test_bad_values_name_the_key(parameters: dict[str, str], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        Options.resolve(parameters, {}, {})


def test_write_mode_in_the_environment_is_refused() -> None:
    with pytest.raises(OptionError, match="never writes"):
        Options.resolve(URL, {}, {"LITESTREAM_WRITE_ENABLED": "true"})


def test_keys_of_others_are_none_of_our_business() -> None:
    Options.resolve({**URL, "timeout": "5", "mode": "ro", "vfs": "litestream"}, {}, {})


@pytest.mark.parametrize(
    ("text", "txid"), [("12", 12), ("0x1f", 31), ("000000000000001f", 31), ("1000000000000000", 1 << 60)]
)
def test_txids(text: str, txid: int) -> None:
    assert Options.resolve({**URL, "txid": text}, {}, {}).txid == txid


def test_durations_and_sizes() -> None:
    assert parse_duration("1h2m3.5s", "k") == 3723.5
    assert parse_duration("250ms", "k") == 0.25
    assert format_duration(0.25) == "0.25s"
    assert [parse_size(text, "k") for text in ("7", "2KB", "3MiB", "1g")] == [7, 2048, 3 << 20, 1 << 30]
    for bad in ("", "5", "1x", "s"):
        with pytest.raises(OptionError):
            parse_duration(bad, "k")


def test_moments() -> None:
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert parse_moment("2026-01-01T00:00:00.5+02:00", "k") == datetime(2025, 12, 31, 22, 0, 0, 500000, UTC)
    assert parse_moment("5 minutes ago", "k", now) == now - timedelta(minutes=5)
    assert parse_moment("yesterday", "k", now) == now - timedelta(days=1)
    assert parse_moment("in 5 minutes", "k", now) == now + timedelta(minutes=5)
    assert parse_moment("2020-01-01", "k", now) == datetime(2020, 1, 1, tzinfo=UTC)
    for bad in ("", "2026-13-01T00:00:00Z", "blorb"):
        with pytest.raises(OptionError):
            parse_moment(bad, "k")


def test_uris_carry_every_option() -> None:
    uri = database_uri("s3://b/p?endpoint=http://x&y=1", cache_size="1MB", poll_interval=0.5)
    assert uri.startswith(
        "file:p?vfs=litestream&mode=ro&replica_url=s3%3A%2F%2Fb%2Fp%3Fendpoint%3Dhttp%3A%2F%2Fx%26y%3D1"
    )
    assert "poll_interval=0.5s" in uri
    with pytest.raises(OptionError, match="unknown option 'cache'"):
        database_uri("s3://b/p", cache=5)
    with pytest.raises(OptionError, match="no zone"):
        database_uri("s3://b/p", time=datetime(2026, 1, 1))
    with pytest.raises(OptionError, match="unknown option"):
        vfsstream.configure("some.db", nonsense="1")


def test_the_document_names_every_option_and_its_default() -> None:
    text = (ROOT / "docs" / "reading.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|\s*`?([^`|]*?)`?\s*\|", text, re.MULTILINE))
    assert rows.keys() | {"write_enabled", "sync_interval", "buffer_path"} == KEYS.keys()
    defaults = Options("file:///x")
    for key, shown in rows.items():
        default = getattr(defaults, key)
        if key in ("replica_url", "bulk_max_bytes"):
            continue
        assert (KEYS[key](shown, key) if shown else None) == default, key
