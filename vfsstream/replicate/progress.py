"""How far work on the files of a replica is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FilesProgress"]


@dataclass(frozen=True, slots=True)
class FilesProgress:
    """Files and bytes, of how many."""

    files: int
    total_files: int
    bytes: int
    total_bytes: int
