"""The modes in which every acceptance test of the reader runs: what reads ahead, how much memory, what is kept locally.

A mode is a set of environment variables, which every open of a replica in the test and in its child processes
obeys unless it says otherwise itself.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import apsw

__all__ = ["DEFAULT", "MODES", "Mode", "on_the_copy", "usual"]


@dataclass(frozen=True)
class Mode:
    """One combination.

    Attributes:
        prefetch: what reads ahead.
        tiny: memory for two pages of 4 KiB, decoded or not.
        disk: the disk cache: ``""`` (none), ``"ample"``, or ``"small"``: sixteen pages.
        copy: the local copy: ``""`` (none), ``"private"``, or ``"native"``: with a name, and each connection of
            the test is made once it is complete, so that SQLite's own code reads it.
    """

    prefetch: str = "auto"
    tiny: bool = False
    disk: str = ""
    copy: str = ""

    def __str__(self) -> str:
        parts = [self.prefetch, "tiny" if self.tiny else "", f"{self.disk}_disk" if self.disk else "", self.copy]
        return "-".join(part for part in parts if part) if self != DEFAULT else "default"

    def environment(self, home: Path) -> Mapping[str, str]:
        """The variables; local files are kept below ``home``."""
        found = {"VFSSTREAM_PREFETCH": self.prefetch}
        if self.tiny:
            found |= {"VFSSTREAM_CACHE_SIZE": "8192", "VFSSTREAM_WINDOW_BUDGET": "8192"}
        if self.disk:
            found["VFSSTREAM_CACHE_DIR"] = str(home / "kept")
        if self.disk == "small":
            found["VFSSTREAM_DISK_CACHE_SIZE"] = "1"
        if self.copy:
            found["VFSSTREAM_HYDRATION_ENABLED"] = "true"
        if self.copy == "native":
            found["VFSSTREAM_HYDRATION_PATH"] = str(home / "copy.db")
        return found


DEFAULT = Mode()

PREFETCH = ("off", "seq", "btree", "bulk", "auto")

MODES = [
    # Each part of reading ahead alone, with room and without: here nothing local takes the reads away from it.
    *(Mode(prefetch, tiny) for tiny in (False, True) for prefetch in PREFETCH),
    # Every pair of a disk cache and a local copy; what reads ahead beside them and the memory take turns.
    *(
        Mode(PREFETCH[(number * 2) % 5], number % 2 == 0, disk, copy)
        for number, (disk, copy) in enumerate(
            (disk, copy) for disk in ("", "ample", "small") for copy in ("", "private", "native") if disk or copy
        )
    ),
]


def usual(module: ModuleType, test: str, modes: Sequence[Mode] = MODES) -> list[Mode]:
    """The modes of a test in a run without the soak: the default one and another, in turn."""
    others = [mode for mode in modes if mode != DEFAULT]
    tests = [name for name in vars(module) if name.startswith("test_")]
    return [DEFAULT, *others[(zlib.crc32(module.__name__.encode()) + tests.index(test)) % len(others) :][:1]]


def on_the_copy(connect: Callable[..., apsw.Connection]) -> Callable[..., apsw.Connection]:
    """Opens twice: the second connection when the local copy is complete, or cannot become so."""
    from vfsstream.vfs.native import hydrator_of
    from vfsstream.vfs.vfs import file_of

    def connect_late(*arguments: object, **options: object) -> apsw.Connection:
        first = connect(*arguments, **options)
        file = file_of(first)
        hydrator = hydrator_of(file) if file is not None else None
        end = time.monotonic() + 20
        while hydrator is not None and not hydrator.complete and hydrator.trouble is None:
            if time.monotonic() > end:
                break
            time.sleep(0.002)
        second = connect(*arguments, **options)
        first.close()
        return second

    return connect_late
