"""Failures as SQLite should see them: our own exceptions that are also apsw's, so that result codes are right."""

from __future__ import annotations

import apsw

from vfsstream.errors import (
    CorruptError,
    DeadlineExceeded,
    Interrupted,
    StoreError,
    UsageError,
    VfsstreamError,
)

__all__ = ["ReadCorrupt", "ReadDeadline", "ReadFailed", "ReadInterrupted", "for_sqlite"]


class ReadFailed(StoreError, apsw.IOError):
    """A page could not be read from the store."""


class ReadDeadline(DeadlineExceeded, apsw.IOError):
    """A page could not be read in time."""


class ReadCorrupt(CorruptError, apsw.CorruptError):
    """A page in the store is damaged."""


class ReadInterrupted(Interrupted, apsw.InterruptError):
    """``Connection.interrupt()`` ended a wait for a page."""


class BadPragma(UsageError, apsw.SQLError):
    """A PRAGMA that cannot be honoured."""


def for_sqlite(error: VfsstreamError) -> VfsstreamError:
    """The same failure as an exception whose class carries SQLite's result code; the original is its cause."""
    if isinstance(error, apsw.Error):
        return error
    wrapped: VfsstreamError
    if isinstance(error, DeadlineExceeded):
        wrapped = ReadDeadline(error.message, hint=error.hint)
    elif isinstance(error, StoreError):
        wrapped = ReadFailed(error.message, retryable=error.retryable, hint=error.hint)
    elif isinstance(error, CorruptError):
        wrapped = ReadCorrupt(str(error))
    else:
        return error
    wrapped.__cause__ = error
    return wrapped
