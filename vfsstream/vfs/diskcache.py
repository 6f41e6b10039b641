"""Decoded pages in a file that processes share, so that the next one starts warm.

One file of slots, one page each; page ``p`` lives in slot ``(p - 1) % slots``, which bounds the file and makes
eviction an overwrite. A slot begins with a record that names the page, its version and a checksum over both and
the content. There are no locks between readers and writers: whatever is torn, half written, damaged or from
somebody else does not match its checksum and counts as absent; the page is fetched again and written over it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import Struct
from typing import Any

from fastcrc.crc64 import go_iso

from vfsstream.errors import OptionError
from vfsstream.plan.files import FileInfo
from vfsstream.replica.positioned import read_at, write_at
from vfsstream.stores.smallfile import replace_file

__all__ = ["DiskCache", "directory_for", "identity"]

RECORD = Struct(">QQI4x")
LEAST_SLOTS = 16
KNOWN_FILES = 4096
SAVE_EVERY = 30.0


def identity(info: FileInfo) -> str:
    """Names an LTX file for ever: the same name in a replica made anew has another time."""
    return f"{info.level}/{info.name}/{info.size}/{info.created_at}"


def contradict(some: Iterable[str], others: Iterable[str]) -> bool:
    """Do two sets of identities have a file of the same name that is not the same file?

    Then a replica was set back and went on another way: one TXID stands for two contents. A time that was not known
    contradicts nothing.
    """
    found = {name: rest for name, *rest in map(_parts, some)}
    for name, *rest in map(_parts, others):
        known = found.get(name, rest)
        if known[0] != rest[0] or (known[1] != rest[1] and "None" not in (known[1], rest[1])):
            return True
    return False


def _parts(identity: str) -> tuple[str, str, str]:
    """``level/name``, size, time."""
    level, name, size, when = (*str(identity).split("/", 3), "", "", "")[:4]
    return f"{level}/{name}", size, when


def directory_for(cache_dir: str, replica: str) -> Path:
    """The directory of one replica below ``cache_dir``, made if need be.

    Raises:
        OptionError: it cannot be made or written.
    """
    path = Path(cache_dir).expanduser() / hashlib.sha256(replica.encode()).hexdigest()[:32]
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OptionError(f"cache_dir={cache_dir}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise OptionError(f"cache_dir={cache_dir}: not writable")
    return path


class DiskCache:
    """The cache of one replica.

    Args:
        directory: shared by all processes that read the replica.
        page_size: of the database.
        budget: bytes of the file, at most.
        files: the plan of the view: a cache that knows none of them belongs to another history and is dropped.

    Attributes:
        damaged: slots whose checksum did not match.
        full: nothing more is written, the disk refused it.
    """

    def __init__(self, directory: Path, page_size: int, budget: int, files: Iterable[FileInfo]) -> None:
        self.directory, self.page_size = directory, page_size
        self._slot = RECORD.size + page_size
        self.slots = max(LEAST_SLOTS, budget // self._slot)
        self.damaged = 0
        self.full = False
        self._known = dict.fromkeys(identity(info) for info in files)
        self._saved = time.monotonic()
        self._lock = threading.Lock()
        self._descriptor = -1
        with self._exclusive():
            self._open()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One process at a time looks at or changes the description."""
        with open(self.directory / "lock", "ab") as handle:
            with contextlib.suppress(ImportError):
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _read_description(self) -> dict[str, Any]:
        try:
            found = json.loads((self.directory / "cache.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _fits(self, found: dict[str, Any]) -> bool:
        slots, files = found.get("slots"), found.get("files")
        return (
            found.get("format") == 1
            and found.get("page_size") == self.page_size
            and isinstance(slots, int)
            and LEAST_SLOTS <= slots <= self.slots
            and isinstance(files, list)
            and not self._known.keys().isdisjoint(files)
            and not contradict(self._known, files)
            and isinstance(found.get("data"), str)
            and (self.directory / Path(found["data"]).name).is_file()
        )

    def _open(self) -> None:
        found = self._read_description()
        if self._fits(found):
            self._data = Path(found["data"]).name
            self.slots = found["slots"]
        else:
            self._data = f"pages-{secrets.token_hex(8)}"
            for old in self.directory.glob("pages-*"):
                old.unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(self.directory / self._data, flags, 0o600)
        self._write_description(found if self._fits(found) else {})

    def _write_description(self, found: dict[str, Any]) -> None:
        files = [*dict.fromkeys([*found.get("files", []), *self._known])][-KNOWN_FILES:]
        text = json.dumps(
            {"format": 1, "page_size": self.page_size, "slots": self.slots, "data": self._data, "files": files}
        )
        with contextlib.suppress(OSError):
            replace_file(self.directory / "cache.json", text.encode(), shared=True)

    def learn(self, files: Iterable[FileInfo], *, now: bool = False) -> None:
        """These files belong to the same history; written down now and then."""
        self._known.update(dict.fromkeys(identity(info) for info in files))
        if not now and time.monotonic() < self._saved + SAVE_EVERY:
            return
        self._saved = time.monotonic()
        with contextlib.suppress(OSError), self._exclusive():
            found = self._read_description()
            if found.get("data") == self._data:
                self._write_description(found)

    def _place(self, pgno: int) -> int:
        return (pgno - 1) % self.slots * self._slot

    def page(self, pgno: int, version: int) -> bytes | None:
        """The page at exactly this version, or ``None``."""
        try:
            slot = read_at(self._descriptor, self._slot, self._place(pgno))
        except OSError:
            return None
        if len(slot) != self._slot:
            return None
        found_version, checksum, found_pgno = RECORD.unpack_from(slot)
        if found_pgno != pgno or found_version != version:
            return None
        page = slot[RECORD.size :]
        if _checksum(page, pgno, version) != checksum:
            self.damaged += 1
            return None
        return page

    def has(self, pgno: int, version: int) -> bool:
        """Does the record name this page at this version? The content is not looked at."""
        found = self._record(pgno)
        return found is not None and found[2] == pgno and found[0] == version

    def _record(self, pgno: int) -> tuple[int, int, int] | None:
        try:
            record = read_at(self._descriptor, RECORD.size, self._place(pgno))
        except OSError:
            return None
        return RECORD.unpack(record) if len(record) == RECORD.size else None

    def store(self, pgno: int, version: int, page: bytes) -> None:
        """Keep a page, unless a newer version of it is there or the disk is full."""
        if self.full:
            return
        found = self._record(pgno)
        if found is not None and found[2] == pgno and found[0] > version and self.page(pgno, found[0]) is not None:
            return
        slot = RECORD.pack(version, _checksum(page, pgno, version), pgno) + page
        with self._lock:  # against close: the number of the descriptor may soon mean another file
            if self._descriptor < 0:
                return
            try:
                write_at(self._descriptor, slot, self._place(pgno))
            except OSError:
                self.full = True

    def restart(self) -> None:
        """After a fork: the lock may be held by a thread that does not exist here."""
        self._lock = threading.Lock()

    def close(self) -> None:
        """Write down what is known, release the file."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self.learn((), now=True)
            os.close(descriptor)


def _checksum(page: bytes, pgno: int, version: int) -> int:
    return int(go_iso(page, version ^ pgno << 32 & 0xFFFFFFFFFFFFFFFF))
