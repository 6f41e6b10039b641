"""The OSS stand-in as a server of the test session."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.servers import oss_standin
from tests.servers.daemon import Daemon

BUCKET = "replicas"


class Oss(Daemon):
    """One bucket behind signatures."""

    name = "oss"
    region = "cn-hangzhou"

    def command(self) -> list[str]:
        folder = self.home / "data"
        (folder / BUCKET).mkdir(parents=True, exist_ok=True)
        return [sys.executable, str(Path(oss_standin.__file__)), str(self.port), str(folder)]

    def url(self, name: str, port: int | None = None) -> str:
        """The URL of a replica; endpoint and keys come with ``options``."""
        return f"oss://{BUCKET}/{name}"

    @property
    def options(self) -> dict[str, str]:
        """What the URL cannot say."""
        return self.options_at(self.port)

    def options_at(self, port: int) -> dict[str, str]:
        """The same through a proxy."""
        key, secret = oss_standin.FULL
        return {
            "endpoint": f"http://127.0.0.1:{port}",
            "region": self.region,
            "access-key-id": key,
            "secret-access-key": secret,
        }

    def litestream(self, name: str, port: int | None = None) -> dict[str, object]:
        """The replica settings of Litestream."""
        return {"type": "oss", "bucket": BUCKET, "path": name, **self.options_at(port or self.port)}
