"""The exceptions of vfsstream.

::

    VfsstreamError
    ├── UsageError                    the caller asked for something impossible
    │   ├── UrlError                  a replica URL that cannot be understood
    │   ├── ConfigError               a configuration key or value, with file and line
    │   ├── OptionError               a URI parameter, PRAGMA or environment value of the VFS
    │   └── MissingExtra              the optional package for a store is not installed
    ├── CorruptError                  bytes that are not what they claim to be
    │   └── LtxError                  an LTX file that breaks a rule of the format
    ├── MissingError                  something that should be there is not
    │   ├── NotFound                  a store has no object of that key
    │   ├── ReplicaEmpty              a replica without any restorable file
    │   ├── NotRestorable             no set of files leads to the wanted TXID or time
    │   └── ViewExpired               the files of a pinned view were removed by retention
    ├── ConflictError                 somebody else changed what we rely on
    │   ├── AlreadyExists             a conditional put found an object
    │   ├── LeaseHeld                 another replicator holds the writer lease
    │   └── ForkDetected              the replica continues another history than the local one
    ├── StoreError                    the transport to a store failed; ``retryable`` says if again may help
    │   ├── AccessDenied              credentials or permissions; never retried
    │   └── DeadlineExceeded          the time limit of the operation passed
    ├── DatabaseError                 the source or target database cannot be used
    │   └── DiskFull                  no space left for a local file
    └── Interrupted                   the user or the application stopped the operation

Three axes are visible in the types: corrupt data, missing data, failed transport; plus misuse and conflict.
Each exception carries a ``hint``: what the user can do about it.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "ConfigError",
    "ConflictError",
    "CorruptError",
    "DatabaseError",
    "DeadlineExceeded",
    "DiskFull",
    "ForkDetected",
    "Interrupted",
    "LeaseHeld",
    "LtxError",
    "MissingError",
    "MissingExtra",
    "NotFound",
    "NotRestorable",
    "OptionError",
    "ReplicaEmpty",
    "StoreError",
    "UrlError",
    "UsageError",
    "VfsstreamError",
    "ViewExpired",
]


class VfsstreamError(Exception):
    """Base of every error raised on purpose by vfsstream.

    Args:
        message: one line, lower case: what was found, where, and what was expected.
        hint: one line: what the user can do. Shown after the message.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(VfsstreamError, ValueError):
    """The caller asked for something impossible; nothing was done."""


class UrlError(UsageError):
    """A replica URL that cannot be understood."""


class ConfigError(UsageError):
    """A configuration key or value that cannot be honoured.

    Attributes:
        path: the file, or ``None`` for the environment.
        line: line number from 1, or ``None``.
        key: dotted key, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        line: int | None = None,
        key: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.path, self.line, self.key = path, line, key
        where = ":".join(str(part) for part in (path, line) if part is not None)
        prefix = ": ".join(part for part in (where, key) if part)
        super().__init__(f"{prefix}: {message}" if prefix else message, hint=hint)


class OptionError(UsageError):
    """A URI parameter, PRAGMA or environment value of the VFS that cannot be honoured."""


class MissingExtra(UsageError, ImportError):
    """The optional package that a store needs is not installed.

    Args:
        extra: the extra to install, as in ``pip install 'vfsstream[extra]'``.
        what: what needs it, as ``"s3:// replicas"``.
    """

    def __init__(self, extra: str, what: str) -> None:
        self.extra = extra
        super().__init__(
            f"{what} need an optional package that is not installed",
            hint=f"pip install 'vfsstream[{extra}]'",
        )


class CorruptError(VfsstreamError):
    """Bytes that are not what they claim to be."""


class LtxError(CorruptError):
    """An LTX file that breaks a rule of the format.

    Attributes:
        name: the key or path of the file when known; settable by whoever knows it.
        offset: byte offset of the fault in the file, or ``None``.
    """

    def __init__(
        self, message: str, *, name: str | None = None, offset: int | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.name, self.offset = name, offset

    def __str__(self) -> str:
        where = f"{self.name}: " if self.name else ""
        at = f" at byte {self.offset}" if self.offset is not None else ""
        return f"{where}{super().__str__()}{at}"


class MissingError(VfsstreamError):
    """Something that should be there is not."""


class NotFound(MissingError, FileNotFoundError):
    """A store has no object of that key. Never retried.

    Attributes:
        key: the key asked for.
    """

    def __init__(self, key: str, *, hint: str | None = None) -> None:
        self.key = key
        super().__init__(f"no such object: {key}", hint=hint)

    def __str__(self) -> str:
        return VfsstreamError.__str__(self)


class ReplicaEmpty(MissingError):
    """A replica without any restorable file."""


class NotRestorable(MissingError):
    """No set of files leads to the wanted TXID or time; the message names the nearest ones that work."""


class ViewExpired(MissingError):
    """The files of a pinned view were removed by retention; restart the transaction to get a fresh view."""


class ConflictError(VfsstreamError):
    """Somebody else changed what we rely on."""


class AlreadyExists(ConflictError):
    """A conditional put found an object under the key.

    Attributes:
        key: the key of the put.
    """

    def __init__(self, key: str, *, hint: str | None = None) -> None:
        self.key = key
        super().__init__(f"object already exists: {key}", hint=hint)


class LeaseHeld(ConflictError):
    """Another replicator holds the writer lease; the message names it."""


class ForkDetected(ConflictError):
    """The replica continues another history than the local database."""


class StoreError(VfsstreamError):
    """The transport to a store failed.

    Attributes:
        retryable: ``True`` when the same request may succeed later.
    """

    def __init__(self, message: str, *, retryable: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


class AccessDenied(StoreError):
    """Credentials or permissions are not enough; never retried."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, retryable=False, hint=hint)


class DeadlineExceeded(StoreError, TimeoutError):
    """The time limit of the operation passed; the cause is chained."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, retryable=True, hint=hint)


class DatabaseError(VfsstreamError):
    """The source or target database cannot be used."""


class DiskFull(DatabaseError):
    """No space left for a local file; the message names the path and the step."""


class Interrupted(VfsstreamError):
    """The user or the application stopped the operation."""
