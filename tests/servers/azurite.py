"""Azurite, Microsoft's own emulator of Azure Blob storage, on files."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tests.servers.daemon import Daemon, find_program
from tests.servers.install import AZURITE, missing

CONTAINER = "replicas"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Azurite(Daemon):
    """It checks keys and SAS. Its index is written every few seconds: a kill may lose the last blobs."""

    name = "azurite"
    saves_late = True

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.node = find_program("node", "nodejs")
        if not AZURITE.exists():
            missing("azurite", "python -m tests.servers.install")

    def command(self) -> list[str]:
        flags = ["--silent", "--skipApiVersionCheck", "--disableProductStyleUrl", "--disableTelemetry"]
        place = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port), "-l", str(self.home / "data")]
        return [self.node, str(AZURITE), *place, *flags]

    def start(self) -> None:
        super().start()
        from azure.core.exceptions import ResourceExistsError

        with self.sdk() as service, contextlib.suppress(ResourceExistsError):
            service.create_container(CONTAINER)

    def sdk(self) -> Any:
        """A plain client of the SDK."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient(self.endpoint, credential={"account_name": ACCOUNT, "account_key": KEY})

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    def url(self, name: str, port: int | None = None) -> str:
        """The URL of a replica; endpoint and key come with ``options``."""
        return f"abs://{ACCOUNT}@{CONTAINER}/{name}"

    @property
    def options(self) -> dict[str, str]:
        return {"account-key": KEY, "endpoint": self.endpoint}

    def litestream(self, name: str, port: int | None = None) -> dict[str, object]:
        """The replica settings of Litestream."""
        return {
            "type": "abs",
            "bucket": CONTAINER,
            "path": name,
            "account-name": ACCOUNT,
            "account-key": KEY,
            "endpoint": f"http://127.0.0.1:{port or self.port}/{ACCOUNT}",
        }
