"""Ranged reads of one object by 64 threads: our stores against the SDKs used plainly, on the same server.

``python -m bench.stores`` starts the servers of the test suite that are installed here.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.server import ServerProcess
from vfsstream.stores.retry import RetryPolicy
from vfsstream.stores.url import open_store

SIZE = 8 << 20
RANGE = 4096
KEY = "ltx/0/0000000000000001-0000000000000001.ltx"
Read = Callable[[int], bytes]


@dataclass(frozen=True)
class Row:
    """One measurement."""

    server: str
    client: str
    threads: int
    per_second: float
    cpu_ms: float


def measure(server: str, client: str, read: Read, data: bytes, threads: int, reads: int) -> Row:
    """Read so many ranges and check every byte."""
    offsets = [(n * 7919 * 4096) % (SIZE - RANGE) for n in range(reads)]
    for offset in offsets[:threads]:
        read(offset)
    barrier = threading.Barrier(threads + 1)

    def work(mine: Sequence[int]) -> None:
        barrier.wait()
        for offset in mine:
            assert read(offset) == data[offset : offset + RANGE], "wrong bytes"

    with ThreadPoolExecutor(threads) as pool:
        done = [pool.submit(work, offsets[n::threads]) for n in range(threads)]
        barrier.wait()
        start, cpu = time.perf_counter(), time.process_time()
        for future in done:
            future.result()
        took, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Row(server, client, threads, reads / took, cpu * 1000 / reads)


def s3(threads: Sequence[int], reads: int) -> list[Row]:
    """S3 without latency, its server in a process of its own."""
    import boto3
    from botocore.config import Config

    keys = {"access-key-id": "AKIDEXAMPLE1", "secret-access-key": "SECRETKEY123"}
    data = os.urandom(SIZE)
    rows = []
    with ServerProcess() as server:
        url = server.url("bucket", "db")
        store = open_store(url, keys, retry=RetryPolicy(attempts=2))
        store.put(KEY, data)
        sdk = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{server.port}",
            region_name="us-east-1",
            aws_access_key_id="AKIDEXAMPLE1",
            aws_secret_access_key="SECRETKEY123",
            config=Config(s3={"addressing_style": "path"}, max_pool_connections=64),
        )

        def plain(offset: int) -> bytes:
            span = f"bytes={offset}-{offset + RANGE - 1}"
            body: bytes = sdk.get_object(Bucket="bucket", Key=f"db/{KEY}", Range=span)["Body"].read()
            return body

        for count in threads:
            rows.append(measure("S3", "boto3", plain, data, count, reads))
            rows.append(measure("S3", "vfsstream", lambda o: store.get(KEY, o, RANGE), data, count, reads))
        store.close()
        sdk.close()
    return rows


def gcs(threads: Sequence[int], reads: int, folder: Path) -> list[Row]:
    """Google's store on the emulator of the tests."""
    from tests.servers.fake_gcs import BUCKET, FakeGcs

    server = FakeGcs(folder)
    server.start()
    rows = []
    try:
        os.environ.update(server.client_environment)
        from google.cloud import storage

        data = os.urandom(SIZE)
        store = open_store(server.url("db"), retry=RetryPolicy(attempts=2))
        store.put(KEY, data)
        client = storage.Client(project="test")
        blob = client.bucket(BUCKET).blob(f"db/{KEY}")

        def plain(offset: int) -> bytes:
            got: bytes = blob.download_as_bytes(start=offset, end=offset + RANGE - 1, checksum=None)
            return got

        for count in threads:
            rows.append(measure("Google", "google-cloud-storage", plain, data, count, reads))
            rows.append(measure("Google", "vfsstream", lambda o: store.get(KEY, o, RANGE), data, count, reads))
        store.close()
        client.close()
    finally:
        server.stop()
    return rows


def azure(threads: Sequence[int], reads: int, folder: Path) -> list[Row]:
    """Azure on the emulator of the tests."""
    from tests.servers.azurite import CONTAINER, Azurite

    server = Azurite(folder)
    server.start()
    rows = []
    try:
        data = os.urandom(SIZE)
        store = open_store(server.url("db"), server.options, retry=RetryPolicy(attempts=2))
        store.put(KEY, data)
        service: Any = server.sdk()
        blob = service.get_blob_client(CONTAINER, f"db/{KEY}")

        def plain(offset: int) -> bytes:
            got: bytes = blob.download_blob(offset=offset, length=RANGE).readall()
            return got

        for count in threads:
            rows.append(measure("Azure", "azure-storage-blob", plain, data, count, reads))
            rows.append(measure("Azure", "vfsstream", lambda o: store.get(KEY, o, RANGE), data, count, reads))
        store.close()
        service.close()
    finally:
        server.stop()
    return rows


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--stores", nargs="+", default=["s3", "gcs", "azure"])
    arguments = parser.parse_args()
    table = Table("store", "client", "threads", "GET/s", "CPU ms/GET", "ratio", title="4 KiB ranges of one object")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        measures = {
            "s3": lambda: s3(arguments.threads, arguments.reads),
            "gcs": lambda: gcs(arguments.threads, arguments.reads, Path(folder, "gcs")),
            "azure": lambda: azure(arguments.threads, arguments.reads, Path(folder, "azure")),
        }
        for name in arguments.stores:
            rows = measures[name]()
            for plain, ours in zip(rows[::2], rows[1::2], strict=True):
                for row in (plain, ours):
                    ratio = f"{row.per_second / plain.per_second:.1f}"
                    table.add_row(
                        row.server,
                        row.client,
                        str(row.threads),
                        f"{row.per_second:.0f}",
                        f"{row.cpu_ms:.2f}",
                        ratio,
                    )
    Console().print(table)


if __name__ == "__main__":
    main()
