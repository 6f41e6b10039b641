"""What a killed restore leaves behind, and how the next one goes on from there.

Beside the unfinished database stands a note: of one LTX file, the bytes read so far, the running checksum, and the
pages that came from it. The next restore applies the newer files of its own plan anew and takes that file up where the
note says. Whether the plan is the same does not matter; the file and its pages are what counts.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Note", "Partial", "find_partial", "lock_file", "new_path", "remove_note", "remove_stale", "save_note"]

_SUFFIX = ".restoring"
_NOTE = ".note"
_TEMP = re.compile(r"\.[0-9]+\.[0-9a-f]{8}" + re.escape(_SUFFIX))


@dataclass(frozen=True, slots=True)
class Note:
    """How far one file of a plan has been applied; what it says is on the disk.

    Attributes:
        name: of the file, level and key included.
        size: of the file, bytes.
        offset: where the next frame begins.
        checksum: running, of all before the offset.
        pages: frames before the offset.
        taken: by page number, 1 where the page was written from this file.
    """

    name: str
    size: int
    offset: int
    checksum: int
    pages: int
    taken: bytes


@dataclass(frozen=True, slots=True)
class Partial:
    """An unfinished database, locked by us.

    Attributes:
        path: of the database.
        descriptor: open for reading and writing.
        note: beside it.
    """

    path: Path
    descriptor: int
    note: Note


def new_path(output: Path) -> Path:
    """Where a new unfinished database goes."""
    return output.with_name(f".{output.name}.{os.getpid()}.{secrets.token_hex(4)}{_SUFFIX}")


def find_partial(output: Path) -> Partial | None:
    """The unfinished database of a killed restore of the same target that got furthest, if there is any."""
    best: Partial | None = None
    for path in _unfinished(output):
        note = _load(path)
        if note is None or (best is not None and note.offset <= best.note.offset):
            continue
        try:
            descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            continue
        # Its pages are taken on trust, so it must be our own, and nobody may be working on it.
        if not _is_own(descriptor) or not lock_file(descriptor):
            os.close(descriptor)
            continue
        if best is not None:
            os.close(best.descriptor)
        best = Partial(path, descriptor, note)
    return best


def _is_own(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and (not hasattr(os, "geteuid") or status.st_uid == os.geteuid())


def remove_stale(output: Path, keep: Path) -> None:
    """Remove what killed restores of the same target left behind; who still works on one holds its lock."""
    for path in _unfinished(output):
        if path != keep and not _is_locked(path):
            path.unlink(missing_ok=True)
            _note_path(path).unlink(missing_ok=True)
    for path in output.parent.glob(f".{output.name}.*{_SUFFIX}{_NOTE}"):
        database = path.with_name(path.name.removesuffix(_NOTE))
        if database != keep and not database.exists():
            path.unlink(missing_ok=True)


def remove_note(path: Path) -> None:
    """Forget how far an unfinished database was; it is about to change."""
    _note_path(path).unlink(missing_ok=True)


def save_note(path: Path, note: Note) -> None:
    """Put a note beside an unfinished database whose pages are on the disk already."""
    taken = base64.b85encode(zlib.compress(note.taken, 1)).decode()
    fields = (note.name, note.size, note.offset, note.checksum, note.pages, taken)
    target = _note_path(path)
    temp = target.with_name(target.name + ".new")
    temp.write_text(json.dumps([*fields, zlib.crc32(repr(fields).encode())]))
    os.replace(temp, target)


def _load(path: Path) -> Note | None:
    try:
        *fields, checksum = json.loads(_note_path(path).read_text())
        if zlib.crc32(repr(tuple(fields)).encode()) != checksum:
            return None
        name, size, offset, running, pages, taken = fields
        return Note(name, size, offset, running, pages, zlib.decompress(base64.b85decode(taken)))
    except (OSError, ValueError, TypeError, zlib.error):
        return None


def _unfinished(output: Path) -> list[Path]:
    found = output.parent.glob(f".{output.name}.*{_SUFFIX}")
    return [path for path in found if _TEMP.fullmatch(path.name[len(output.name) + 1 :])]


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + _NOTE)


def lock_file(descriptor: int) -> bool:
    """Mark a file as being worked on for as long as it is open; ``False`` when somebody else did."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows refuses to remove an open file by itself
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # pragma: no cover - a file system without locks
        return True
    return True


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError:  # gone, or a link, which no restore makes
        return False
    try:
        return not lock_file(descriptor)
    finally:
        os.close(descriptor)
