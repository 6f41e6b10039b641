"""Exit statuses, and how an error becomes one line on stderr."""

from __future__ import annotations

import os
from collections.abc import Mapping

from vfsstream import errors

__all__ = ["EXIT_CODES", "ExitStatus", "code_of", "describe", "redact"]

OK = 0
FAILED = 1
UNREPLICATED = 4
INTERRUPTED = 130

EXIT_CODES: tuple[tuple[int, int, str], ...] = (
    # distinct, default, meaning
    (0, 0, "done; also help, and 'nothing to do' when asked for (`-if-db-not-exists`, `-if-replica-exists`)"),
    (1, 1, "any other error"),
    (2, 1, "usage: unknown command or flag, impossible value"),
    (3, 1, "configuration: unknown key, impossible value, unreadable file"),
    (4, 4, "stopped, but not everything is in the replica"),
    (5, 1, "missing: empty replica, TXID or time that cannot be restored, no such object"),
    (6, 1, "corrupt: an LTX file, a chain or a database that fails its checks"),
    (7, 1, "storage: network, timeout, server error"),
    (8, 1, "storage: access denied"),
    (9, 1, "conflict: another replicator holds the replica, or it continues another history"),
    (10, 1, "local database or disk: cannot be opened, no space"),
    (130, 130, "interrupted with Ctrl-C"),
)
"""Every exit status: with ``VFSSTREAM_EXIT_CODES=distinct``, by default, and what it means.

By default there are as few as Litestream's scripts expect. ``replicate -exec`` ends with its child's status.
"""

_KINDS: tuple[tuple[type[errors.VfsstreamError], int], ...] = (
    (errors.ConfigError, 3),
    (errors.UsageError, 2),
    (errors.CorruptError, 6),
    (errors.MissingError, 5),
    (errors.ConflictError, 9),
    (errors.AccessDenied, 8),
    (errors.StoreError, 7),
    (errors.DatabaseError, 10),
    (errors.Interrupted, INTERRUPTED),
)


class ExitStatus(Exception):
    """End the program with this status, everything having been said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def code_of(error: BaseException, environ: Mapping[str, str] | None = None) -> int:
    """The exit status of an error."""
    environ = os.environ if environ is None else environ
    distinct = next((code for kind, code in _KINDS if isinstance(error, kind)), FAILED)
    if environ.get("VFSSTREAM_EXIT_CODES") == "distinct":
        return distinct
    return next((default for code, default, _ in EXIT_CODES if code == distinct), FAILED)


def describe(error: BaseException) -> list[str]:
    """An error as lines for stderr: what happened, then what to do."""
    if isinstance(error, errors.VfsstreamError):
        hint = error.hint
        text = str(error)
        if hint:
            text = text.replace(f" ({hint})", "", 1)
            return [f"Error: {_line(text)}", f"Try: {_line(hint)}"]
        return [f"Error: {_line(text)}"]
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        return [f"Error: {error.strerror}{where}"]
    return [f"Error: {_line(str(error) or type(error).__name__)}"]


def _line(text: str) -> str:
    return redact(" ".join(text.split()))


def redact(text: str) -> str:
    """Without the passwords and keys of any URL in the text."""
    if "://" not in text and "=" not in text:
        return text
    from vfsstream.config.secrets import redact as hide

    return hide(text)
