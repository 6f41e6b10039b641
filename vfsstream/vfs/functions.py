"""The SQL functions of a connection to a replica."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import apsw

from vfsstream.errors import OptionError
from vfsstream.vfs.file import ReplicaFile

__all__ = ["functions_of", "register_functions"]

Function = Callable[..., str | int | None]


def functions_of(file: ReplicaFile) -> dict[str, tuple[int, Function]]:
    """Name to (number of arguments, callable). They hold the file weakly: SQLite keeps them to the very end."""
    reference = weakref.ref(file)

    def there() -> ReplicaFile:
        file = reference()
        if file is None:
            raise OptionError("the database is closed")
        return file

    def set_time(text: object) -> None:
        if text is None:
            raise OptionError("litestream_set_time: timestamp required")
        there().set_time(str(text))

    return {
        "litestream_txid": (0, lambda: there().txid()),
        "litestream_time": (0, lambda: there().time()),
        "litestream_lag": (0, lambda: there().lag()),
        "litestream_stats": (0, lambda: there().stats()),
        "litestream_set_time": (1, set_time),
    }


def register_functions(connection: apsw.Connection, file: ReplicaFile) -> None:
    """Give a connection the functions. ``litestream_set_time`` may not be called from views and triggers."""
    for name, (arguments, function) in functions_of(file).items():
        flags = apsw.SQLITE_DIRECTONLY if name == "litestream_set_time" else apsw.SQLITE_INNOCUOUS
        connection.create_scalar_function(name, function, arguments, flags=flags)
