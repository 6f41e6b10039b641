"""SQLite's own check of a database that was just made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vfsstream.errors import DatabaseError

__all__ = ["IntegrityCheck", "check_integrity"]

IntegrityCheck = Literal["none", "quick", "full"]
"""What SQLite checks before the new database replaces anything."""


def check_integrity(path: Path, kind: IntegrityCheck) -> None:
    """Let SQLite check a finished database that nobody else has open; makes no sidecars.

    Raises:
        DatabaseError: the finding.
    """
    if kind == "none":
        return
    import apsw

    # immutable: the header says WAL, and SQLite would make sidecars beside the temporary file.
    uri = f"{path.as_uri()}?immutable=1"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        check = "quick_check" if kind == "quick" else "integrity_check"
        (found,) = connection.execute(f"PRAGMA {check}(1)").fetchall()[0]
    except apsw.Error as error:
        found = str(error)
    finally:
        connection.close()
    if found != "ok":
        raise DatabaseError(f"post-restore integrity check: {found}", hint="nothing was changed")
