"""Query SQLite databases live from object storage, and replicate them there, in the LTX format.

Importing registers the SQLite VFS named ``litestream`` with apsw and makes apsw understand URI file names::

    import apsw, vfsstream

    db = vfsstream.connect("s3://bucket/app")
    db = apsw.Connection("file:app?vfs=litestream&replica_url=s3%3A%2F%2Fbucket%2Fapp")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from vfsstream.vfs.vfs import configure, register

if TYPE_CHECKING:
    from vfsstream.errors import VfsstreamError
    from vfsstream.replica import Replica
    from vfsstream.vfs.connect import connect

__version__ = "0.1.0"
__all__ = ["Replica", "VfsstreamError", "__version__", "configure", "connect", "register"]

_LAZY = {
    "Replica": "vfsstream.replica",
    "VfsstreamError": "vfsstream.errors",
    "connect": "vfsstream.vfs.connect",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'vfsstream' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


register()
