"""Small files of our own on the local disk, replaced as a whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

__all__ = ["replace_file"]


def replace_file(path: Path, data: bytes, *, shared: bool = False) -> None:
    """Write a file so that every reader finds the old or the new content.

    It is not brought to the disk before the call returns: after a power cut it may be empty.

    Args:
        shared: other processes may write the same file at this moment, so the temporary name is one of our own;
            otherwise it is ``NAME.tmp``, which the next write takes over after a crash.

    Raises:
        OSError: the old content is still there, and nothing temporary.
    """
    suffix = f"{os.getpid()}-{secrets.token_hex(4)}" if shared else "tmp"
    temporary = path.with_name(f"{path.name}.{suffix}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
