"""nats-server with JetStream."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.servers.daemon import Daemon, find_program


class Nats(Daemon):
    """A server with file storage below its home.

    Args:
        config: further lines of the configuration file.
        account: goes before the host in URLs, as ``"user:password@"``.
        connect: how the tests themselves connect, as keywords of nats-py.
    """

    name = "nats"

    def __init__(self, home: Path, *, config: str = "", account: str = "", **connect: object) -> None:
        super().__init__(home)
        self.program = find_program("nats-server", "nats-server")
        self.account, self._connect = account, connect
        self._made: set[str] = set()
        self.config = home / "nats.conf"
        self.config.write_text(
            f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{home / "data"}" }}\n{config}\n'
        )

    def command(self) -> list[str]:
        return [self.program, "-c", str(self.config)]

    def create_bucket(self, name: str, **settings: object) -> None:
        """Litestream never creates one, nor do we."""
        import nats

        async def create() -> None:
            connection = await nats.connect(f"nats://{self.account}127.0.0.1:{self.port}", **self._connect)
            try:
                await connection.jetstream().create_object_store(bucket=name, **settings)
            finally:
                await connection.close()

        asyncio.run(create())
        self._made.add(name)

    def url(self, name: str, port: int | None = None) -> str:
        """The URL of a bucket, which is made when it is first asked for."""
        if name not in self._made:
            self.create_bucket(name)
        return f"nats://{self.account}127.0.0.1:{port or self.port}/{name}"

    @property
    def options(self) -> dict[str, str]:
        """Nothing: the URL says it all."""
        return {}

    def litestream(self, name: str, port: int | None = None) -> dict[str, object]:
        """The replica settings of Litestream."""
        return {"type": "nats", "url": f"nats://127.0.0.1:{port or self.port}/{name}"}
