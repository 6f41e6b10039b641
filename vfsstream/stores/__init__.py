"""The bytes: one module per kind of storage behind one small contract."""

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
