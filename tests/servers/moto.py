"""moto: S3 in memory, with its check of signatures switched on."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.servers.daemon import START_SECONDS, Daemon, find_program

BUCKET = "replicas"


class Moto(Daemon):
    """Buckets vanish when it is killed. After the four first calls every request must be signed rightly."""

    name = "moto"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        beside = Path(sys.executable).with_name("moto_server")
        self.program = str(beside) if beside.exists() else find_program("moto_server", "moto[s3] (with pip)")
        self.access_key = self.secret_key = ""

    def command(self) -> list[str]:
        return [self.program, "-H", "127.0.0.1", "-p", str(self.port)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "4"}

    def start(self) -> None:
        super().start()
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5) as ready,
            ):
                if ready.status == 200:
                    break
            time.sleep(0.05)
        iam = self.sdk("iam", "x", "x")
        iam.create_user(UserName="replicator")
        made = iam.create_access_key(UserName="replicator")["AccessKey"]
        policy = (
            '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*","iam:*"],"Resource":"*"}]}'
        )
        iam.put_user_policy(UserName="replicator", PolicyName="all", PolicyDocument=policy)
        self.access_key, self.secret_key = made["AccessKeyId"], made["SecretAccessKey"]
        self.sdk().create_bucket(Bucket=BUCKET)

    def sdk(self, service: str = "s3", access: str | None = None, secret: str | None = None) -> Any:
        """A plain boto3 client."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=access or self.access_key,
            aws_secret_access_key=secret or self.secret_key,
            config=Config(s3={"addressing_style": "path"}, max_pool_connections=64),
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, name: str, port: int | None = None) -> str:
        """The URL of a replica; the keys come with ``options``."""
        return f"s3://{BUCKET}/{name}?endpoint=http://127.0.0.1:{port or self.port}&region=us-east-1"

    @property
    def options(self) -> dict[str, str]:
        return {"access-key-id": self.access_key, "secret-access-key": self.secret_key}

    def litestream(self, name: str, port: int | None = None) -> dict[str, object]:
        """The replica settings of Litestream."""
        return {
            "type": "s3",
            "bucket": BUCKET,
            "path": name,
            "endpoint": f"http://127.0.0.1:{port or self.port}",
            "region": "us-east-1",
            "force-path-style": True,
            **self.options,
        }
