"""Follow mode: a local copy of a database that keeps up with its replica."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

from vfsstream.errors import (
    CorruptError,
    DatabaseError,
    ForkDetected,
    Interrupted,
    MissingError,
    StoreError,
    UsageError,
    VfsstreamError,
)
from vfsstream.ltx.header import HEADER_SIZE, Header
from vfsstream.ltx.merging import merge_pages
from vfsstream.ltx.names import LEVELS, TXID
from vfsstream.plan.continuation import continuation
from vfsstream.plan.files import FileInfo
from vfsstream.replica.replica import Replica
from vfsstream.replica.rollback import Rewriter, patch_first_page, roll_back
from vfsstream.replicate.restore import restore
from vfsstream.stores.file import sync_directory

__all__ = ["FollowEvent", "Follower", "read_txid_file", "write_txid_file"]

_FULL_LISTING = 30.0
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class FollowEvent:
    """What a follower did.

    Attributes:
        kind: ``restored``, ``resumed``, ``applied``, or ``failed`` when it will try again.
        txid: of the copy now.
        files: LTX files applied.
        pages: pages that really changed.
        error: why it failed.
    """

    kind: str
    txid: TXID
    files: int = 0
    pages: int = 0
    error: VfsstreamError | None = None


class Follower:
    """Keeps a database file at the newest state of a replica.

    Other processes may read the file all the time, by SQLite's locks: they see one committed state after another.
    This process must not open it: closing a file drops the POSIX locks that the process holds on it.
    The TXID of the copy stands beside it in ``<output>-txid``; 0 there means that it is not known.

    Args:
        replica: where from.
        output: path of the copy.
        interval: seconds between two looks.
        force: replace an existing database that is not a copy of this replica.
        parallelism: requests at once during the first restore.
        lock_timeout: seconds to wait for readers before trying again later.
        observer: told of every event; must not block.
    """

    def __init__(
        self,
        replica: Replica,
        output: str | os.PathLike[str],
        *,
        interval: float = 1.0,
        force: bool = False,
        parallelism: int | None = None,
        lock_timeout: float = 5.0,
        observer: Callable[[FollowEvent], None] | None = None,
    ) -> None:
        if os.name == "nt":  # pragma: no cover - SQLite's locks there are of another kind
            raise UsageError("follow mode needs POSIX locks, which this system lacks")
        if interval <= 0:
            raise UsageError(f"interval of {interval} s, expected more than 0")
        self.replica, self.output = replica, Path(output).absolute()
        self.interval, self.force, self.parallelism = interval, force, parallelism
        self.lock_timeout = lock_timeout
        self.txid = TXID(0)
        self.stop = threading.Event()
        self._observe = observer or (lambda event: None)
        self._listed = 0.0

    def start(self) -> None:
        """Restore the copy, or take up an existing one.

        Raises:
            DatabaseError: a database without a usable ``-txid`` file stands in the way.
            ForkDetected: the copy is ahead of the replica: another history.
        """
        known = read_txid_file(self.output)
        if not self.output.exists() or known == 0 or (known is None and self.force):
            self._restore()
            return
        if known is None:
            raise DatabaseError(
                f"cannot resume follow mode: {self.output} exists, but no valid {_txid_path(self.output).name}",
                hint="remove the database, or use -force to replace it",
            )
        roll_back(self.output)
        self.txid = known
        self._observe(FollowEvent("resumed", known))

    def _restore(self) -> None:
        fresh = self.output.with_name(f".{self.output.name}.follow")
        try:
            result = restore(self.replica, fresh, force=True, parallelism=self.parallelism, stop=self.stop)
            _into_rollback_mode(fresh, result.size)
            # With 0 beside it, whichever database a crash leaves here is restored anew.
            write_txid_file(self.output, TXID(0))
            for suffix in ("-wal", "-shm", "-journal"):
                self.output.with_name(self.output.name + suffix).unlink(missing_ok=True)
            os.replace(fresh, self.output)
            sync_directory(self.output.parent)
        finally:
            fresh.unlink(missing_ok=True)
        write_txid_file(self.output, result.txid)
        self.txid = result.txid
        self._observe(
            FollowEvent("restored", self.txid, len(result.files), result.size // _page_size(self.output))
        )

    def step(self) -> bool:
        """Look once and apply everything that is new, in one transaction of the copy.

        Returns:
            ``True`` when the copy advanced.

        Raises:
            ForkDetected: the copy is ahead of the replica.
            LtxError: a file is damaged; the copy is as before.
            DeadlineExceeded: readers keep the copy busy; it is as before.
        """
        plan = self._plan()
        if not plan:
            return False
        names = [self.replica.key(info) for info in plan]
        streams = [_begun(self._chunks(info)) for info in plan]
        if {_stated_page_size(first, name) for (first, _), name in zip(streams, names, strict=True)} != {
            _page_size(self.output)
        }:  # nothing in place can follow that
            self._restore()
            return True
        with tempfile.TemporaryFile(prefix=".vfsstream-", dir=self.output.parent) as spool:
            header, pages = merge_pages([chain([first], rest) for first, rest in streams], names)
            pgnos = _spool(pages, spool)  # read to the end, so every checksum is verified
            changed = self._apply(header, pgnos, spool)
        self.txid = header.max_txid
        write_txid_file(self.output, self.txid)
        self._observe(FollowEvent("applied", self.txid, len(plan), changed))
        return True

    def _plan(self) -> list[FileInfo]:
        recent = list(self.replica.files(0, self.txid + 1))
        now = time.monotonic()
        if not recent and now - self._listed < _FULL_LISTING:
            return []
        if recent and recent[0].min_txid == self.txid + 1:
            plan = continuation({0: recent}, self.txid)
            if plan[-1].max_txid == recent[-1].max_txid:
                return plan
        listed = self.replica.all_files(LEVELS)
        self._listed = now
        newest = max((info.max_txid for files in listed.values() for info in files), default=TXID(0))
        if newest < self.txid:
            raise ForkDetected(
                f"the copy is at TXID {self.txid}, ahead of the replica's newest {newest}: another history",
                hint="remove the copy, or use -force with a fresh output",
            )
        return continuation(listed, self.txid)

    def _chunks(self, info: FileInfo) -> Iterator[bytes]:
        for chunk in self.replica.stream(info):
            if self.stop.is_set():
                raise Interrupted("interrupted; the copy is as before")
            yield chunk

    def _apply(self, header: Header, pgnos: list[int], spool: IO[bytes]) -> int:
        """Write what differs; returns the number of pages that do."""
        size, commit = header.page_size, header.commit
        with Rewriter(self.output, size, self.lock_timeout, self.stop) as rewriter:
            first = rewriter.read(1)
            old = rewriter.pages()
            counter = int.from_bytes(first[24:28], "big") + 1
            places = [
                (pgno, place)
                for place, pgno in enumerate(pgnos)
                if pgno != 1 and rewriter.read(pgno) != _page(spool, place, size)
            ]
            newest = _page(spool, 0, size) if pgnos and pgnos[0] == 1 else first
            cut = [pgno for pgno in range(commit + 1, old + 1) if pgno != header.lock_pgno]
            touched = [1, *(pgno for pgno, _ in places if pgno <= min(old, commit)), *cut]
            rewriter.prepare(touched)

            def pages() -> Iterator[tuple[int, bytes]]:
                yield 1, patch_first_page(newest, counter, commit)
                for pgno, place in places:
                    yield pgno, _page(spool, place, size)

            rewriter.write(pages(), commit)
        return len(places) + 1

    def run(self, stop: threading.Event) -> None:
        """Start, then look again and again until ``stop`` is set.

        Failures that may pass are reported to the observer and tried again, ever more slowly.

        Raises:
            DatabaseError, ForkDetected, UsageError: what no waiting mends.
        """
        self.stop = stop
        failures = 0
        started = False
        while not stop.is_set():
            try:
                if not started:
                    self.start()
                    started = True
                self.step()
                failures = 0
            except Interrupted:
                return
            except (StoreError, MissingError, CorruptError) as error:
                failures += 1
                self._observe(FollowEvent("failed", self.txid, error=error))
            stop.wait(min(_LONGEST_PAUSE, self.interval * 2 ** min(failures, 10)))


def _begun(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The beginning of a file, at least a header if there is one, and the rest."""
    first = b""
    while len(first) < HEADER_SIZE and (more := next(chunks, b"")):
        first += more
    return first, chunks


def _stated_page_size(first: bytes, name: str) -> int:
    return Header.unpack(first[:HEADER_SIZE], name).page_size


def _spool(pages: Iterator[tuple[int, bytes]], spool: IO[bytes]) -> list[int]:
    pgnos = []
    for pgno, page in pages:
        pgnos.append(pgno)
        spool.write(page)
    spool.flush()
    return pgnos


def _page(spool: IO[bytes], place: int, size: int) -> bytes:
    return os.pread(spool.fileno(), size, place * size)


def _page_size(path: Path) -> int:
    with open(path, "rb") as file:
        stored = int.from_bytes(file.read(18)[16:], "big")
    return 65536 if stored == 1 else stored


def _into_rollback_mode(path: Path, size: int) -> None:
    """A reader that opened the copy in WAL mode would hold a lock for the life of its connection."""
    page_size = _page_size(path)
    with open(path, "r+b") as file:
        page = file.read(512)
        counter = int.from_bytes(page[24:28], "big") + 1
        file.seek(0)
        file.write(patch_first_page(page, counter, size // page_size))
        file.flush()
        os.fsync(file.fileno())


def _txid_path(output: Path) -> Path:
    return output.with_name(output.name + "-txid")


def read_txid_file(output: Path) -> TXID | None:
    """The TXID that stands beside a copy; ``None`` when there is no such file or it makes no sense."""
    try:
        text = _txid_path(output).read_text("ascii")
        return TXID.parse(text.removesuffix("\n"))
    except (OSError, UnicodeDecodeError, UsageError):
        return None


def write_txid_file(output: Path, txid: TXID) -> None:
    """Put a TXID beside a copy, atomically and durably."""
    path = _txid_path(output)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temp, "w", encoding="ascii") as file:
            file.write(f"{txid}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise DatabaseError(f"cannot write {path}: {error.strerror}") from error
