"""The MCP server through the official client: in memory, over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from vfsstream.config.load import load_text
from vfsstream.config.schema import Config
from vfsstream.daemon.mcp import make_server, serve_http
from vfsstream.errors import UsageError


def ask(server: Any, tool: str, **arguments: Any) -> Any:
    async def go() -> Any:
        from mcp import Client

        async with Client(server) as client:
            if tool == "":
                return await client.list_tools()
            return await client.call_tool(tool, arguments)

    return asyncio.run(go())


def value(answer: Any) -> Any:
    assert not answer.is_error, answer.content
    structured = answer.structured_content
    if structured is not None:
        return structured["result"] if set(structured) == {"result"} else structured
    return json.loads(answer.content[0].text)


def test_tools_say_that_they_only_read() -> None:
    tools = ask(make_server(Config()), "").tools
    assert {tool.name for tool in tools} == {
        "version",
        "databases",
        "status",
        "ltx",
        "points",
        "plan_restore",
        "query",
    }
    assert all(tool.annotations.read_only_hint for tool in tools)
    with_restore = ask(make_server(Config(), allow_restore=True), "").tools
    assert "restore" in {tool.name for tool in with_restore}


def test_looking(golden: Callable[[str], Path], tmp_path: Path) -> None:
    url = f"file://{golden('levels')}"
    text = f"dbs: [{{path: /data/app.db, replica: {{url: '{url}'}}}}]"
    server = make_server(load_text(text, "c.yml", environ={}))
    assert value(ask(server, "databases")) == [{"path": "/data/app.db", "replica": url}]
    status = value(ask(server, "status", source="/data/app.db"))
    points = value(ask(server, "points", source=url))
    assert points[-1]["txid"] == status["txid"]
    plan = value(ask(server, "plan_restore", source=url, txid=points[0]["txid"]))
    assert plan["txid"] == points[0]["txid"]
    assert value(ask(server, "ltx", source=url, level=0))
    failed = ask(server, "plan_restore", source=url, txid="zz")
    assert failed.is_error
    assert "invalid TXID" in failed.content[0].text
    assert ask(server, "status", source="/none.db").is_error


@pytest.mark.server
@pytest.mark.xdist_group("webdav")
def test_a_query_uses_the_credentials_of_the_configuration(
    server: Callable[[str], Any], tmp_path: Path, vfsstream: Callable[..., Any]
) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE t AS SELECT 42 AS x")
        connection.commit()
    keys = json.dumps(server("webdav").litestream("mcp-credentials"))
    text = f"dbs: [{{path: {tmp_path}/app.db, replica: {keys}}}]"
    (tmp_path / "c.yml").write_text(text)
    done = vfsstream("replicate", "-once", "-config", tmp_path / "c.yml")
    assert done.returncode == 0, done.stderr
    assistant = make_server(load_text(text, "c.yml", environ={}))
    answer = ask(assistant, "query", source=f"{tmp_path}/app.db", sql="SELECT x FROM t")
    assert value(answer)["rows"] == [[42]]
    verified = vfsstream("verify", "-json", "-config", tmp_path / "c.yml", tmp_path / "app.db")
    assert json.loads(verified.stdout)["integrity_check"] == "ok", verified.stderr


def test_queries_read_only(golden: Callable[[str], Path], tmp_path: Path) -> None:
    url = f"file://{golden('levels')}"
    server = make_server(Config())
    answer = value(ask(server, "query", source=url, sql="SELECT 1 AS one, count(*) AS n FROM sqlite_schema"))
    assert answer["columns"] == ["one", "n"]
    assert answer["rows"][0][0] == 1
    assert value(ask(server, "query", source=url, sql="SELECT 1 WHERE 0"))["rows"] == []
    for sql in (
        "CREATE TABLE x(y)",
        f"ATTACH '{tmp_path}/new.db' AS n",
        "PRAGMA query_only = 0",
        "SELECT 1; ATTACH '/x' AS y",
    ):
        refused = ask(server, "query", source=url, sql=sql)
        assert refused.is_error
        assert "query failed" in refused.content[0].text
    assert ask(server, "query", source=url, sql="SELECT nothing").is_error


def test_restore_needs_the_flag_and_replaces_nothing(golden: Callable[[str], Path], tmp_path: Path) -> None:
    url, output = f"file://{golden('levels')}", tmp_path / "x.db"
    assert ask(make_server(Config()), "restore", source=url, output=str(output)).is_error
    server = make_server(Config(), allow_restore=True)
    assert value(ask(server, "restore", source=url, output=str(output)))["txid"]
    with closing(sqlite3.connect(output)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert ask(server, "restore", source=url, output=str(output)).is_error


def test_stdio(golden: Callable[[str], Path]) -> None:
    from mcp import StdioServerParameters, stdio_client

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LITESTREAM_CONFIG": ""}
    words = ["-m", "vfsstream", "mcp"]
    server = stdio_client(StdioServerParameters(command=sys.executable, args=words, env=environment))
    assert "version" in value(ask(server, "version"))


def test_http_wants_its_token() -> None:
    with pytest.raises(UsageError, match="without a token"):
        serve_http("0.0.0.0:0", Config())
    close = serve_http("127.0.0.1:0", Config(), token="sesame")
    try:
        url = f"http://127.0.0.1:{close.port}/mcp"  # type: ignore[attr-defined]
        hello = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-03-26",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        }
        headers = {"Accept": "application/json, text/event-stream"}
        with httpx.Client(timeout=30) as client:
            assert client.post(url, json=hello, headers=headers).status_code == 401
            wrong = {**headers, "Authorization": "Bearer wrong"}
            assert client.post(url, json=hello, headers=wrong).status_code == 401
            right = {**headers, "Authorization": "Bearer sesame"}
            answer = client.post(url, json=hello, headers=right)
            assert answer.status_code == 200
            assert "vfsstream" in answer.text
            foreign = {**right, "Host": "evil.example"}
            assert client.post(url, json=hello, headers=foreign).status_code in (403, 421)
    finally:
        close()
