"""The bytes: one module per kind of storage behind one small contract."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfsstream.stores.base import TIMESTAMP, Capabilities, Fetched, ObjectInfo, Source, Store
    from vfsstream.stores.file import FileStore
    from vfsstream.stores.memory import MemoryStore
    from vfsstream.stores.url import StoreUrl, open_store, parse_url

__all__ = [
    "TIMESTAMP",
    "Capabilities",
    "Fetched",
    "FileStore",
    "MemoryStore",
    "ObjectInfo",
    "Source",
    "Store",
    "StoreUrl",
    "open_store",
    "parse_url",
]

# Each name is imported when it is first asked for: a command that needs one of them starts without the others.
_HOME = {
    "TIMESTAMP": "vfsstream.stores.base",
    "Capabilities": "vfsstream.stores.base",
    "Fetched": "vfsstream.stores.base",
    "ObjectInfo": "vfsstream.stores.base",
    "Source": "vfsstream.stores.base",
    "Store": "vfsstream.stores.base",
    "FileStore": "vfsstream.stores.file",
    "MemoryStore": "vfsstream.stores.memory",
    "StoreUrl": "vfsstream.stores.url",
    "open_store": "vfsstream.stores.url",
    "parse_url": "vfsstream.stores.url",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
