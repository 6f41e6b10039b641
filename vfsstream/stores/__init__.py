"""The bytes: one module per kind of storage behind one small contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfsstream.lazy import lazy_names

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

__getattr__ = lazy_names(__name__, _HOME)
