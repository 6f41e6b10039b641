"""A local copy under a name: whose file it is, and what it holds. Nobody else's file is ever touched.

The first page of a copy bears a mark at bytes 96 to 99, where SQLite puts its own version number whenever it changes
a database (https://sqlite.org/fileformat2.html#the_database_header). The mark depends on the replica, and its top bit
is one that no version of SQLite has. So a file with the mark is a copy of this replica that was last written by us,
whatever else was lost; a file without it belongs to somebody else.

``NAME`` is the finished copy, ``NAME-partial`` what is fetched until it is complete, ``NAME-state`` what is in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, NoReturn

from fastcrc.crc64 import go_iso

from vfsstream.errors import ConflictError, OptionError
from vfsstream.replica.rollback import roll_back
from vfsstream.stores.file import sync_directory
from vfsstream.stores.smallfile import replace_file

__all__ = ["NamedCopy", "State"]

SQLITE = b"SQLite format 3\0"
MARK = slice(96, 100)
HEADER = 100
FORMAT = "vfsstream copy 2"
MOST_FILES = 4096

_lasting: dict[tuple[int, int], int] = {}
"""Descriptors of files that turned out to be other people's, by device and inode. Closing one would drop the locks
that SQLite may hold on the file in this process."""


class State(NamedTuple):
    """What is in a copy.

    Attributes:
        txid: of the view at which the pages were current.
        files: identities of the files of its history.
        have: version of each page, 0 = not here; element 0 is unused.
        sums: CRC-64 of each page as it is in the file.
    """

    txid: int
    files: Iterable[str]
    have: array[int]
    sums: array[int]


class NamedCopy:
    """A file that is ours to write. Made by :meth:`claim`.

    Attributes:
        file: descriptor of what is read and written now.
        finished: that is the file of the name itself, not the partial one.
    """

    def __init__(self, path: Path, replica: str) -> None:
        self.path = path
        self._replica = replica
        digest = hashlib.sha256(f"vfsstream copy of {replica}".encode()).digest()
        self._mark = bytes([digest[0] | 0x80]) + digest[1:4]
        self.file, self.finished = -1, False
        self._old: tuple[int, int] | None = None
        self._idle: list[int] = []

    @classmethod
    def claim(cls, path: Path, replica: str) -> NamedCopy | None:
        """Take a name for the copy of a replica, and what an earlier process left there.

        Returns:
            ``None`` when another reader keeps the file current at this moment.

        Raises:
            OptionError: something is there that is not ours, or the path cannot be used. Nothing was touched.
        """
        copy = cls(path, replica)
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True)
            if copy._take():
                return copy
        except ConflictError:
            pass
        except OSError as error:
            copy.close()
            raise OptionError(
                f"hydration_path={path}: {error.strerror}", hint="name a file in a directory that can be written"
            ) from error
        except BaseException:
            copy.close()
            raise
        copy.close()
        return None

    def _take(self) -> bool:
        held = self._open_ours(self.path)
        self._idle += [held] if held >= 0 else []
        partial = self._open_ours(self._partial)
        self._idle += [partial] if partial >= 0 else []
        there = held >= 0 and os.fstat(held).st_size > 0
        if not there and partial < 0:
            self._require_state()
        for suffix in ("-wal",) if there else ("-wal", "-journal"):
            companion = self._beside(suffix)
            if companion.exists() and companion.stat().st_size:
                self._refuse(companion, "the rest of another database, which would be mixed into the copy")
        if held >= 0:
            self._old = _inode(held)
        if not all(self._lock(file) for file in self._idle):
            return False
        if there:
            self.file, self.finished = held, True
        else:
            self._begin(partial)
        self._idle = [file for file in self._idle if file != self.file]
        return True

    def _open_ours(self, path: Path) -> int:
        """A descriptor of one of our files, or -1 when there is none.

        Raises:
            OptionError: it is not ours.
        """
        try:
            found = path.lstat()
        except FileNotFoundError:
            return -1
        if stat.S_ISLNK(found.st_mode):
            self._refuse(path, "a symbolic link")
        if stat.S_ISDIR(found.st_mode):
            self._refuse(path, "a directory")
        if not stat.S_ISREG(found.st_mode):
            self._refuse(path, "not an ordinary file")
        file = _lasting.pop((found.st_dev, found.st_ino), -1)
        if file < 0:
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        head = os.pread(file, HEADER, 0)
        if head and not self._bears_mark(head):
            _lasting[_inode(file)] = file
            what = "an SQLite database that is" if head.startswith(SQLITE) else "a file that is"
            self._refuse(path, f"{what} no copy of {self._replica} as we left it")
        return file

    def _require_state(self) -> None:
        """Nothing but a state is there: it must be one of ours."""
        state = self._beside("-state")
        with contextlib.suppress(FileNotFoundError):
            if not state.read_bytes().startswith(json.dumps({"format": FORMAT})[:-1].encode()):
                self._refuse(state, "not what we write there")

    def _refuse(self, path: Path, what: str) -> NoReturn:
        raise OptionError(
            f"hydration_path={self.path}: {path} is {what}",
            hint="it is left as it is: name another file, or move it away",
        )

    def _lock(self, file: int) -> bool:
        """Take the lock that says who keeps a file current; it ends with the process. SQLite knows nothing of it."""
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # Whoever holds it may be in this process, and SQLite may have locks on the file for them.
            self._idle = [idle for idle in self._idle if idle != file]
            _lasting[_inode(file)] = file
            return False
        return True

    def _begin(self, partial: int) -> None:
        """Begin to write the partial file."""
        if partial < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            partial = os.open(self._partial, flags, 0o600)
            if not self._lock(partial):
                raise ConflictError(f"{self._partial}: another reader took the file that we made")
            os.pwrite(partial, self.marked(SQLITE.ljust(HEADER, b"\0")), 0)
        self.file, self.finished = partial, False

    # What it holds

    def load(self, page_size: int) -> State | None:
        """What the file in hand holds as far as that is known; a change that was interrupted is undone first.

        Raises:
            ConflictError: undoing showed the file to be somebody else's.
            DatabaseError: it cannot be undone.
            DeadlineExceeded: other programs keep the file busy.
        """
        if self.finished and self._beside("-journal").exists():
            roll_back(self.path)
            if not self._bears_mark(os.pread(self.file, HEADER, 0)):
                raise ConflictError(f"{self.path}: another program wrote to the copy")
        try:
            head, _, body = self._beside("-state").read_bytes().partition(b"\n")
            state = json.loads(head)
            half = len(body) // 2
            fits = (
                state["format"] == FORMAT
                and state["page_size"] == page_size
                and state["checksum"] == go_iso(body)
                and len(body) == 16 * (state["pages"] + 1)
            )
            if fits:
                have, sums = array("Q", body[:half]), array("Q", body[half:])
                return State(int(state["txid"]), frozenset(state["files"]), have, sums)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def save(self, state: State, page_size: int) -> None:
        """Write down what the file holds, the file itself first."""
        os.fsync(self.file)
        body = state.have.tobytes() + state.sums.tobytes()
        head = {
            "format": FORMAT,
            "txid": int(state.txid),
            "pages": len(state.have) - 1,
            "page_size": page_size,
            "checksum": go_iso(body),
            "files": list(state.files)[-MOST_FILES:],
        }
        replace_file(self._beside("-state"), json.dumps(head).encode() + b"\n" + body, shared=True)

    def begin_anew(self) -> None:
        """What the file in hand holds is of no use: fetch everything into an empty partial file.

        Raises:
            ConflictError: somebody else made a file of that name.
        """
        if self.finished:
            self._idle.append(self.file)
            partial = next((file for file in self._idle if self._is_at(file, self._partial)), -1)
            try:
                self._begin(partial)
            except FileExistsError as error:
                raise ConflictError(f"{self._partial}: somebody else made this file") from error
            self._idle = [file for file in self._idle if file != self.file]
        os.ftruncate(self.file, 0)
        os.pwrite(self.file, self.marked(SQLITE.ljust(HEADER, b"\0")), 0)

    # Under its name

    def marked(self, page: bytes) -> bytes:
        """Page 1 with the mark of this copy."""
        return page[: MARK.start] + self._mark + page[MARK.stop :]

    def finish(self) -> None:
        """Give the partial file its name, if it has not got it.

        Raises:
            ConflictError: a file of that name has appeared meanwhile.
        """
        if self.finished:
            return
        if not self._is_at(self.file, self._partial):
            raise ConflictError(f"{self._partial}: the file was taken away while it was written")
        os.fsync(self.file)
        if not self._replaceable():
            raise ConflictError(f"{self.path}: a file of this name has appeared")
        if self._old is None and self._linked():
            self._partial.unlink()
        else:
            os.replace(self._partial, self.path)
        sync_directory(self.path.parent)
        self.finished = True

    def _replaceable(self) -> bool:
        """Nothing is there, or the file that was ours at the start and still is."""
        try:
            there = self.path.lstat()
        except FileNotFoundError:
            self._old = None
            return True
        if self._old is None or (there.st_dev, there.st_ino) != self._old:
            return False
        old = next(file for file in self._idle if _inode(file) == self._old)
        head = os.pread(old, HEADER, 0)
        return not head or self._bears_mark(head)

    def _linked(self) -> bool:
        """Name the file where nothing can be overwritten; ``False``: the file system has no second names."""
        try:
            os.link(self._partial, self.path)
        except FileExistsError as error:
            raise ConflictError(f"{self.path}: a file of this name has appeared") from error
        except OSError:
            return False
        return True

    def check(self, first_sum: int, page_size: int) -> None:
        """The finished file is still the one that has the name, with the first page that we gave it.

        Raises:
            ConflictError: it was removed, replaced, or written to by another program.
        """
        if not self._is_at(self.file, self.path):
            raise ConflictError(f"{self.path}: the copy was removed or replaced")
        if go_iso(os.pread(self.file, page_size, 0)) != first_sum:
            raise ConflictError(f"{self.path}: another program wrote to the copy")

    def give_up(self) -> None:
        """Leave the name to whoever took it; our own unfinished file goes."""
        if not self.finished and self._is_at(self.file, self._partial):
            self._partial.unlink()
        self._idle.append(self.file)
        self.file = -1

    def close(self) -> None:
        """Release the files; not earlier than their last reader is gone."""
        for file in {*self._idle, self.file} - {-1}:
            os.close(file)
        self.file, self._idle = -1, []

    @property
    def _partial(self) -> Path:
        return self._beside("-partial")

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _bears_mark(self, head: bytes) -> bool:
        return head.startswith(SQLITE) and head[MARK] == self._mark

    @staticmethod
    def _is_at(file: int, path: Path) -> bool:
        """Is a descriptor of the file that has this name?"""
        try:
            found = path.lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == _inode(file)


def _inode(file: int) -> tuple[int, int]:
    found = os.fstat(file)
    return found.st_dev, found.st_ino
