"""The stores that the conformance suite runs over: each name with a way to a fresh place on it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers.fixtures import SERVERS
from vfsstream.stores import Store
from vfsstream.stores.retry import RetryPolicy
from vfsstream.stores.url import open_store


@dataclass(frozen=True)
class Traits:
    """Where a store differs by nature.

    Attributes:
        time_unit: of an object's own time, in milliseconds; 0 when the store keeps none.
        many: enough objects in one directory to need a second page.
        ranged: a missing bucket or folder is an error; else it is an empty listing.
        multipart: a size that goes up in parts.
        shared_root: all places of one server are one place: it must be emptied between tests.
    """

    time_unit: int = 1
    many: int = 1030
    missing_root_is_error: bool = False
    multipart: int = 5 << 20
    clear: bool = False


TRAITS: Mapping[str, Traits] = {
    "memory": Traits(many=20),
    "file": Traits(many=20),
    "moto": Traits(missing_root_is_error=True),
    "radosgw": Traits(missing_root_is_error=True),
    "gcs": Traits(missing_root_is_error=True, multipart=8 << 20),
    "azurite": Traits(missing_root_is_error=True, multipart=4 << 20, many=60),
    "sftp": Traits(time_unit=1000, many=20),
    "nats": Traits(missing_root_is_error=True, many=20),
    "webdav": Traits(time_unit=0, many=20),
    "oss": Traits(missing_root_is_error=True, many=130, multipart=6 << 20),
}
NAMES = ("memory", "file", *SERVERS)


@dataclass(frozen=True)
class Place:
    """A fresh place on one kind of store.

    Attributes:
        name: the kind.
        url, options, environment: how to open it.
        litestream: the replica settings of Litestream for the same place, or ``None``.
        server: the running server, or ``None``.
    """

    name: str
    url: str
    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    litestream: Mapping[str, object] | None = None
    server: Any = None
    path: str = ""

    @property
    def traits(self) -> Traits:
        """What is particular about the kind."""
        return TRAITS[self.name]

    def open(self, **options: Any) -> Store:
        """The store, failing soon rather than late."""
        options.setdefault("retry", RetryPolicy(attempts=3, base_delay=0.05, deadline=60))
        return open_store(self.url, dict(self.options), **options)


def new_place(name: str, folder: Path, server: Callable[[str], Any]) -> Place:
    """A place on the kind of store that ``name`` names, with nothing in it."""
    if name == "file":
        return Place(name, f"file://{folder}/replica", litestream={"type": "file", "path": f"{folder}/replica"})
    path = f"t-{secrets.token_hex(6)}"
    daemon = server(name)
    return Place(
        name,
        daemon.url(path),
        dict(daemon.options),
        dict(getattr(daemon, "client_environment", {})),
        daemon.litestream(path),
        daemon,
        path,
    )
