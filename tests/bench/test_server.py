"""The S3-compatible test server, spoken to by boto3 and by the real Litestream."""

from __future__ import annotations

import http.client
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench.server import Fault, S3Server, ServerProcess

boto3 = pytest.importorskip("boto3")


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


@pytest.fixture
def client(server: S3Server) -> Iterator[Any]:
    from botocore.config import Config

    made = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1, "mode": "standard"}),
    )
    yield made
    made.close()


def test_objects_ranges_and_counts(server: S3Server, client: Any) -> None:
    client.put_object(Bucket="b", Key="a/x y", Body=b"0123456789", Metadata={"stamp": "7"})
    got = client.get_object(Bucket="b", Key="a/x y", Range="bytes=-3")
    assert got["Body"].read() == b"789"
    assert got["ContentRange"] == "bytes 7-9/10"
    assert got["Metadata"] == {"stamp": "7"}
    assert client.get_object(Bucket="b", Key="a/x y", Range="bytes=2-4")["Body"].read() == b"234"
    assert client.head_object(Bucket="b", Key="a/x y")["ContentLength"] == 10
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket="b", Key="a/none")
    assert server.counts == {"PUT": 1, "GET": 3, "HEAD": 1}


def test_listings_seek_page_and_group(server: S3Server, client: Any) -> None:
    for number in range(25):
        client.put_object(Bucket="b", Key=f"d/{number:03}", Body=b"")
    client.put_object(Bucket="b", Key="e/f", Body=b"")
    page = client.list_objects_v2(Bucket="b", Prefix="d/", StartAfter="d/003", MaxKeys=4)
    assert [o["Key"] for o in page["Contents"]] == ["d/004", "d/005", "d/006", "d/007"]
    assert page["IsTruncated"]
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket="b", Prefix="d/", PaginationConfig={"PageSize": 7}
    )
    assert [o["Key"] for p in pages for o in p["Contents"]] == [f"d/{n:03}" for n in range(25)]
    roots = client.list_objects_v2(Bucket="b", Delimiter="/")
    assert [p["Prefix"] for p in roots["CommonPrefixes"]] == ["d/", "e/"]


def test_conditional_put_delete_and_multipart(server: S3Server, client: Any) -> None:
    client.put_object(Bucket="b", Key="k", Body=b"1", IfNoneMatch="*")
    with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="b", Key="k", Body=b"2", IfNoneMatch="*")
    upload = client.create_multipart_upload(Bucket="b", Key="m")["UploadId"]
    parts = []
    for number, body in enumerate((b"first ", b"second"), 1):
        part = client.upload_part(Bucket="b", Key="m", UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    client.complete_multipart_upload(Bucket="b", Key="m", UploadId=upload, MultipartUpload={"Parts": parts})
    assert server.bucket("b").objects["m"].data == b"first second"
    client.delete_objects(Bucket="b", Delete={"Objects": [{"Key": "k"}, {"Key": "m"}]})
    assert not server.bucket("b").objects


def test_scripted_faults(server: S3Server, client: Any) -> None:
    client.put_object(Bucket="b", Key="k", Body=b"0123456789")
    faults = [Fault(status=503), Fault(shorten=4), Fault(shift=2), Fault(cut_after=3)]
    server.faults.append(lambda request: faults.pop(0) if request.kind == "GET" and faults else None)

    def get() -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
            connection.request("GET", "/b/k", headers={"Range": "bytes=0-7"})
            with connection.getresponse() as response:
                return response.status, response.read()

    assert get()[0] == 503
    assert get() == (206, b"0123")
    assert get() == (206, b"23456789")
    with pytest.raises(http.client.IncompleteRead):
        get()
    assert get() == (206, b"01234567")


def test_latency_delays_and_bandwidth_is_shared(server: S3Server, client: Any) -> None:
    assert server.pace(5.0, 100) == 0.0
    server.bandwidth = 100.0
    assert server.pace(5.0, 100) == 1.0
    assert server.pace(5.0, 100) == 2.0
    assert server.pace(50.0, 100) == 1.0


def test_a_server_process_counts_apart(tmp_path: Path) -> None:
    (tmp_path / "0000").mkdir()
    (tmp_path / "0000" / "x").write_bytes(b"data")
    with ServerProcess() as server:
        server.load("b", "db", tmp_path)
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
            connection.request("GET", "/b/db/0000/x")
            with connection.getresponse() as response:
                assert response.read() == b"data"
        assert server.counts == {"GET": 1}
        server.reset()
        assert not server.counts


@pytest.mark.interop
def test_litestream_replicates_and_restores(server: S3Server, tmp_path: Path, litestream: str) -> None:
    path = tmp_path / "db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=wal")
        database.execute("CREATE TABLE t AS SELECT 42 AS n")
        database.commit()
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        environment.pop("AWS_CA_BUNDLE", None)
        url = server.url("bucket", "db")
        command = [litestream, "replicate", "-once", str(path), url]
        subprocess.run(command, check=True, timeout=60, env=environment, capture_output=True)
    assert server.bucket("bucket").keys[0].startswith("db/0000/")
    restored = tmp_path / "restored"
    command = [litestream, "restore", "-o", str(restored), url]
    subprocess.run(command, check=True, timeout=60, env=environment, capture_output=True)
    with closing(sqlite3.connect(restored)) as database:
        assert database.execute("SELECT n FROM t").fetchall() == [(42,)]
