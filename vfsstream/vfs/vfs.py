"""The VFS named ``litestream``: main databases are replicas, everything else goes to the platform's own VFS."""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import apsw

from vfsstream.vfs.room import make_room

if TYPE_CHECKING:  # the reader is loaded when the first replica is opened: importing vfsstream costs little
    from vfsstream.vfs.file import ReplicaFile
    from vfsstream.vfs.options import Options

__all__ = ["NAME", "ReplicaVFS", "configure", "file_of", "keep_cause", "open_file", "register", "resolve"]

NAME = "litestream"

_configured: dict[str, dict[str, str]] = {}
_open_names: Counter[str] = Counter()
_known_names: set[str] = set()
_companions: set[str] = set()
_names_lock = threading.Lock()  # guards the four above
_causes = threading.local()


def configure(name: str, **options: str | None) -> None:
    """Set options for every later open of one database name, as ``configure("app.db", replica_url="s3://…")``.

    URI parameters win over these, these over the environment. ``None`` forgets a key.

    Raises:
        OptionError: an unknown key.
    """
    from vfsstream.vfs.options import require_key

    for key in options:
        require_key(key)
    with _names_lock:
        settings = _configured.setdefault(name, {})
        for key, value in options.items():
            if value is None:
                settings.pop(key, None)
            else:
                settings[key] = value


def resolve(name: str, parameters: Mapping[str, str]) -> Options | None:
    """The options of a main database, or ``None`` when it is a plain file for the platform's VFS.

    ``ATTACH 'other.db'`` and ``VACUUM INTO 'copy.db'`` on a connection to a replica come here too: names that
    nobody declared to be a replica are files.

    Raises:
        OptionError: a bad value, or no replica known.
    """
    from vfsstream.vfs.options import Options

    with _names_lock:
        configured = dict(_configured.get(name, ()))
        anything_open = bool(_open_names)
        known = name in _known_names
    explicit = "replica_url" in parameters or "replica_url" in configured or "vfs" in parameters
    if not explicit and not known and anything_open:
        default = os.environ.get("LITESTREAM_REPLICA_URL") or os.environ.get("VFSSTREAM_REPLICA_URL")
        if not default or os.path.basename(name) != name or os.path.exists(name) or "." in name:
            return None
    return Options.resolve(parameters, configured, os.environ)


def open_file(name: str, options: Options) -> ReplicaFile:
    """A file object on the shared database of these options."""
    from vfsstream.vfs.file import ReplicaFile
    from vfsstream.vfs.logs import apply_environment
    from vfsstream.vfs.registry import registry

    apply_environment(os.environ)
    database = registry.acquire(options)
    with _names_lock:
        _open_names[name] += 1
        _known_names.add(name)
        _companions.update(_companions_of(name))

    def closed() -> None:
        with _names_lock:
            _open_names[name] -= 1
            if not _open_names[name]:
                del _open_names[name]
                _companions.difference_update(_companions_of(name))
        registry.release(options)

    return ReplicaFile(database, closed)


def _companions_of(name: str) -> tuple[str, ...]:
    return name, f"{name}-journal", f"{name}-wal"


def is_replica_companion(name: str) -> bool:
    """A journal or WAL name of a replica that is open: there is never such a file."""
    return name in _companions


def split_uri(text: str) -> tuple[str, dict[str, str]]:
    """Name and parameters of a ``file:`` URI, first value of each, as SQLite itself reads them."""
    from urllib.parse import parse_qsl, unquote, urlsplit

    parts = urlsplit(text)
    parameters: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        parameters.setdefault(key, value)
    return unquote(parts.path), parameters


def keep_cause(error: BaseException | None, prepare: Callable[[], None] | None = None) -> None:
    """What this thread told SQLite by a result code alone: raised when SQLite asks the VFS about the failure.

    Args:
        prepare: called just before that: the exception stays pending while SQLite goes on with its C code.
    """
    _causes.kept = (error, prepare) if error is not None else None


class ReplicaVFS(apsw.VFS):
    """Registered once per process; the platform's VFS does all but the main databases."""

    def __init__(self) -> None:
        super().__init__(NAME, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is not None and flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            path, parameters = self._split(name)
            options = resolve(path, parameters)
            if options is not None:
                flags[1] = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB
                return open_file(path, options)  # type: ignore[return-value]  # any object with the methods will do
        return apsw.VFSFile("", name, flags)

    @staticmethod
    def _split(name: str | apsw.URIFilename) -> tuple[str, dict[str, str]]:
        if isinstance(name, apsw.URIFilename):
            path = name.filename()
            parameters = {key: name.uri_parameter(key) or "" for key in name.parameters}
        else:
            path, parameters = name, {}
        if path.startswith("file:"):  # opened without SQLITE_OPEN_URI: SQLite did not take it apart
            path, parameters = split_uri(path)
            parameters.setdefault("vfs", NAME)
        return path, parameters

    def xAccess(self, pathname: str, flags: int) -> bool:
        return False if pathname in _companions else super().xAccess(pathname, flags)  # twice a transaction

    def xDelete(self, filename: str, syncdir: bool) -> None:
        if not is_replica_companion(filename):
            super().xDelete(filename, syncdir)

    def xGetLastError(self) -> tuple[int, str | None]:
        # Asked by SQLite after every IOERR: the one place where a failure of native code can still be explained.
        kept = getattr(_causes, "kept", None)
        if kept is not None:
            error, prepare = kept
            keep_cause(None)
            if prepare is not None:
                prepare()
            raise error
        return super().xGetLastError()

    def xFullPathname(self, name: str) -> str:
        # The name of a replica is a label: it must not change with the working directory.
        return name


def file_of(connection: apsw.Connection, schema: str = "main") -> ReplicaFile | None:
    """The replica behind a connection's database, or ``None`` when it is something else."""
    if not _known_names:
        return None
    import ctypes

    from vfsstream.vfs.file import FIND_FILE

    found: list[ReplicaFile] = []
    holder = ctypes.py_object(found)
    try:
        handled = connection.file_control(schema, FIND_FILE, ctypes.addressof(holder))
    except apsw.Error:
        return None
    return found[0] if handled and found else None


def _on_connect(connection: apsw.Connection) -> None:
    file = file_of(connection)
    if file is not None:
        from vfsstream.vfs.functions import register_functions

        file.connection = weakref.ref(connection)
        register_functions(connection, file)
        if file.database.options.hydration_path is not None:
            from vfsstream.vfs.native import take_over

            take_over(connection, file)


_vfs: ReplicaVFS | None = None


def register() -> None:
    """Register the VFS in apsw's SQLite and switch URI file names on. Importing vfsstream does it."""
    global _vfs
    if _vfs is not None:
        return
    if not apsw.connections():
        # apsw initialises SQLite at import; the switch works only before that. Harmless: no connection is open.
        apsw.shutdown()
        apsw.config(apsw.SQLITE_CONFIG_URI, 1)
        apsw.initialize()
    else:
        import logging

        logging.getLogger("vfsstream.vfs").warning(
            "vfsstream was imported while SQLite connections were open: pass flags with SQLITE_OPEN_URI,"
            " or use vfsstream.connect()"
        )
    _vfs = ReplicaVFS()
    make_room(NAME)
    apsw.connection_hooks.append(_on_connect)
