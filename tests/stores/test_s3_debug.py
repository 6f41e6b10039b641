"""What LITESTREAM_S3_DEBUG writes into the log, and that it writes no secret."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.stores.wire import Reply, Wire, wire
from vfsstream.errors import StoreError, UrlError
from vfsstream.stores import Store
from vfsstream.stores.retry import RetryPolicy
from vfsstream.stores.s3_debug import parse_debug, wire_log
from vfsstream.stores.url import open_store


@pytest.fixture
def line() -> Iterator[Wire]:
    with wire() as running:
        yield running


def opened(line: Wire) -> Store:
    keys = {"access-key-id": "AKIDEXAMPLE", "secret-access-key": "SECRETEXAMPLE", "session-token": "TOKENEXAMPLE"}
    policy = RetryPolicy(attempts=2, base_delay=0.01)
    return open_store(f"s3://bkt/db?endpoint={line.endpoint}", keys, retry=policy)


def test_the_words() -> None:
    assert parse_debug("") == frozenset()
    assert parse_debug(" Request, retries ") == {"request", "retries"}
    assert len(parse_debug("all")) == 6
    with pytest.raises(UrlError, match="LITESTREAM_S3_DEBUG: unknown word 'requests'"):
        parse_debug("requests")
    assert wire_log(frozenset()) is None


def test_everything_is_shown_but_secrets(
    line: Wire, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITESTREAM_S3_DEBUG", "all")
    caplog.set_level(logging.INFO, "vfsstream.s3")
    xml = Reply(200, {"Content-Type": "application/xml"}, b"<ListBucketResult></ListBucketResult>")
    line.script = [
        Reply(503),
        Reply(200, {"ETag": '"e"'}),
        xml,
        Reply(206, {"Content-Range": "bytes 0-1/2"}, b"ab"),
    ]
    store = opened(line)
    store.put("0000/k", b"the body")
    assert list(store.list("0000/")) == []
    assert b"".join(store.stream("0000/k")) == b"ab"
    text = caplog.text
    for wanted in (
        f"s3 request: PUT {line.endpoint}/bkt/db/0000/k",
        "s3 request body: b'the body'",
        "s3 signing: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/",
        "s3 try failed: PUT",
        "s3 response body: b'<ListBucketResult>",
        ": 206 ",
    ):
        assert wanted in text, wanted
    assert "SECRETEXAMPLE" not in text
    assert "TOKENEXAMPLE" not in text
    assert "Signature=" not in text


def test_without_an_answer(line: Wire, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITESTREAM_S3_DEBUG", "retries")
    caplog.set_level(logging.INFO, "vfsstream.s3")
    with wire() as gone:
        pass
    with pytest.raises(StoreError):
        opened(gone).get("0000/k")
    assert caplog.text.count("s3 try failed: GET") == 2
    assert "connection refused" in caplog.text
    assert "s3 request" not in caplog.text


def test_unset_it_says_nothing(
    line: Wire, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LITESTREAM_S3_DEBUG", raising=False)
    caplog.set_level(logging.INFO, "vfsstream.s3")
    opened(line).put("0000/k", b"x")
    assert caplog.text == ""
