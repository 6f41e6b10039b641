"""What the daemon shows: logs, metrics, health, heartbeat, the page's door."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from vfsstream.daemon.child import split_command
from vfsstream.daemon.heartbeat import Heartbeat, healthy
from vfsstream.daemon.logs import Log
from vfsstream.daemon.manager import DatabaseState
from vfsstream.daemon.metrics import Metrics
from vfsstream.daemon.web import Web, unhealthy
from vfsstream.errors import StoreError, UsageError
from vfsstream.ltx.names import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.replicate import events
from vfsstream.stores.trace import Trace

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = DatabaseState("/a.db", "replicating", "file:///r", "file", 5, 5, NOW, database_size=4096, wal_size=10)
LATE = DatabaseState("/b.db", "replicating", "file:///r", "file", 5, 4, NOW, lag_seconds=90, lag_txids=1)
STOPPED = DatabaseState("/c.db", "stopped", "file:///r", "file", lag_seconds=1e6)


# --- logs ------------------------------------------------------------------------------------------------------


def lines(**settings: Any) -> tuple[Log, list[str]]:
    written: list[str] = []
    return Log(written.append, **settings), written


def test_text_lines() -> None:
    log, written = lines()
    log.info("two words", db="/a b.db", txid=TXID(3), took=timedelta(seconds=90), ok=True, n=1)
    log.debug("not shown")
    line = written[0]
    assert line.split(" ", 1)[1] == (
        'level=INFO msg="two words" db="/a b.db" txid=0000000000000003 took=1m30s ok=true n=1'
    )
    assert len(written) == 1


def test_json_and_pretty_lines() -> None:
    log, written = lines(form="json")
    log.warn("m", level=3, error="x\ny")
    assert json.loads(written[0])["ltx_level"] == 3
    log, written = lines(form="pretty", colour=True)
    log.error("m")
    assert "\x1b[31mERR\x1b[0m m" in written[0]


def test_floods_are_counted_not_written() -> None:
    now = [0.0]
    log, written = lines(burst=3, clock=lambda: now[0])
    for _ in range(100):
        log.error("broken", db="/a.db")
    log.error("broken", db="/b.db")
    assert len(written) == 4
    now[0] = 31.0
    log.error("broken", db="/a.db")
    assert written[-1].endswith("suppressed=97")


def test_secrets_are_not_written() -> None:
    log, written = lines(secrets=("planted",))
    log.error("x", error="at sftp://u:word@h/x?token=abc with planted", url="s3://b?secret-access-key=K")
    assert not any(secret in written[0] for secret in ("word", "abc", "planted", "=K"))


# --- metrics ---------------------------------------------------------------------------------------------------

DASHBOARD = """
litestream_db_size litestream_wal_size litestream_total_wal_bytes litestream_sync_count litestream_sync_error_count
litestream_sync_seconds litestream_checkpoint_count litestream_checkpoint_error_count litestream_txid
litestream_replica_operation_total litestream_replica_operation_bytes
"""


def full_metrics() -> Metrics:
    metrics = Metrics(lambda: [GOOD, LATE])
    info = FileInfo(TXID(1), TXID(1), 0, 100)
    checkpoint = events.CheckpointResult(True, 3, 3, False, 0.1)
    for event in (
        events.Synced("/a.db", NOW, TXID(1), 2, 2, 300, True, 0.5),
        events.SyncFailed("/a.db", NOW, StoreError("x"), 1),
        events.Checkpointed("/a.db", NOW, checkpoint),
        events.Uploaded("/a.db", NOW, info, True, 4096),
        events.Stalled("/a.db", NOW, 60.0, "upload"),
        events.FullImage("/a.db", NOW, TXID(1), "first"),
    ):
        metrics.event(event)
    metrics.trace(Trace("put", "k", 100, 0.2, "ok", None, "s3"))
    metrics.trace(Trace("list", "k", 3, 0.2, "StoreError", StoreError("x"), "s3"))
    return metrics


def test_litestreams_dashboard_finds_its_names() -> None:
    text = full_metrics().text().decode()
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert not set(DASHBOARD.split()) - names
    assert 'litestream_checkpoint_error_count{db="/b.db",mode="PASSIVE"} 0.0' in text
    assert 'litestream_sync_count{db="/a.db"} 2.0' in text
    assert 'litestream_checkpoint_count{db="/a.db",mode="PASSIVE"} 1.0' in text
    assert 'litestream_replica_operation_total{operation="PUT",replica_type="s3"} 1.0' in text
    assert 'litestream_replica_operation_bytes{operation="PUT",replica_type="s3"} 100.0' in text
    assert (
        'litestream_replica_operation_errors_total{code="StoreError",operation="LIST",replica_type="s3"} 1.0'
        in text
    )
    assert 'vfsstream_lag_seconds{db="/b.db"} 90.0' in text


# --- health and heartbeat --------------------------------------------------------------------------------------


def test_health() -> None:
    assert unhealthy([GOOD, STOPPED], 60) == []
    assert unhealthy([GOOD, LATE], 60) == ["/b.db: 90 seconds behind"]
    assert unhealthy([LATE], 100) == []
    stalled = DatabaseState("/d.db", "open", "", "", stalled=True)
    assert unhealthy([stalled], 60) == ["/d.db: stalled"]


def test_a_heart_beats_only_while_all_is_well() -> None:
    within = timedelta(minutes=5)
    assert healthy([GOOD], NOW + timedelta(minutes=4), within)
    assert healthy([GOOD], NOW + timedelta(days=4), within)  # nothing to upload
    assert not healthy([], NOW, within)
    assert not healthy([STOPPED], NOW, within)
    assert healthy([LATE], NOW, within)
    assert not healthy([GOOD, LATE], NOW + timedelta(minutes=6), within)
    never = DatabaseState("/d.db", "open", "", "")
    assert not healthy([never], NOW, within)


@pytest.fixture
def pings() -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(500 if "bad" in self.path else 204)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_heartbeat(pings: tuple[str, list[str]]) -> None:
    url, seen = pings
    log, written = lines()
    minute = timedelta(minutes=1)
    beat = Heartbeat(f"{url}/ok", minute, lambda: [GOOD], log)
    assert beat.beat(NOW)
    assert not beat.beat(NOW + timedelta(seconds=59))
    assert beat.beat(NOW + timedelta(seconds=60))
    bad = Heartbeat(f"{url}/bad", minute, lambda: [GOOD], log)
    assert not bad.beat(NOW)
    assert not bad.beat(NOW + timedelta(seconds=30))
    assert seen == ["/ok", "/ok", "/bad"]
    assert "error=500" in written[0]
    assert "bad" not in written[0]


# --- the page's door ------------------------------------------------------------------------------------------


@pytest.fixture
def web() -> Iterator[Web]:
    states = [GOOD]
    server = Web(
        ":0", lambda: states, full_metrics(), 60.0, secrets=("planted",), details=lambda: {"errors": ["planted"]}
    )
    server.states = states  # type: ignore[attr-defined]
    yield server
    server.close()


def get(web: Web, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{web.port}{path}", method=method)
    if host is not None:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def test_without_a_host_only_the_loopback_is_served(web: Web) -> None:
    assert web._server.socket.getsockname()[0] == "127.0.0.1"


def test_routes(web: Web) -> None:
    assert get(web, "/healthz")[:2] == (200, "ok\n")
    web.states.append(LATE)  # type: ignore[attr-defined]
    assert get(web, "/healthz")[:2] == (503, "/b.db: 90 seconds behind\n")
    web.record()
    status, text, _ = get(web, "/api/status")
    answer = json.loads(text)
    assert (status, answer["problems"], len(answer["history"])) == (200, ["/b.db: 90 seconds behind"], 1)
    assert answer["databases"][0]["txid"] == "0000000000000005"
    assert "planted" not in text
    assert "litestream_txid" in get(web, "/metrics")[1]
    assert get(web, "/debug/pprof/")[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", ""])
@pytest.mark.parametrize("path", ["/", "/api/status"])
def test_foreign_names_get_nothing(web: Web, host: str, path: str) -> None:
    status, text, _ = get(web, path, host)
    assert status == 421
    assert "/a.db" not in text


@pytest.mark.parametrize("host", ["localhost:9090", "127.0.0.1", "[::1]:9090", "10.0.0.7:80"])
def test_our_names_get_the_page(web: Web, host: str) -> None:
    status, text, headers = get(web, "/", host)
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/api/status", "/metrics", "/healthz"])
def test_nothing_can_be_changed(web: Web, method: str, path: str) -> None:
    assert get(web, path, method=method)[0] == 405


def test_an_address_in_use(web: Web) -> None:
    with pytest.raises(UsageError, match="cannot listen"):
        Web(f"127.0.0.1:{web.port}", list, full_metrics(), 60.0)


# --- the child's command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gunicorn app:app", ["gunicorn", "app:app"]),
        ("a 'b c' \"d e\"", ["a", "b c", "d e"]),
        ("a 'x; y' \"p|q\"", ["a", "x; y", "p|q"]),
        (r"a b\ c $HOME *", ["a", "b c", "$HOME", "*"]),
        ("run --url=http://h/?a=1", ["run", "--url=http://h/?a=1"]),
    ],
)
def test_commands(text: str, words: list[str]) -> None:
    assert split_command(text) == words


@pytest.mark.parametrize("text", ["", "  ", "a 'b", "a; b", "a | b", "a > f", "a && b", "a;b"])
def test_impossible_commands(text: str) -> None:
    with pytest.raises(UsageError):
        split_command(text)
