"""Query SQLite databases live from object storage, and replicate them there, in the LTX format.

Importing registers the SQLite VFS named ``litestream`` with apsw and makes apsw understand URI file names::

    import apsw, vfsstream

    db = vfsstream.connect("s3://bucket/app")
    db = apsw.Connection("file:app?vfs=litestream&replica_url=s3%3A%2F%2Fbucket%2Fapp")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfsstream.lazy import lazy_names
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

__getattr__ = lazy_names(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)


register()
