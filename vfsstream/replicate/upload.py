"""From local level-0 files to the replica: in order, a few at a time, never over somebody else's history."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path

from vfsstream.errors import (
    AlreadyExists,
    ForkDetected,
    Interrupted,
    LtxError,
    MissingError,
    NotFound,
    StoreError,
)
from vfsstream.ltx import HEADER_SIZE, TRAILER_SIZE, Decoder, Header
from vfsstream.ltx.names import LEVELS, SNAPSHOT_LEVEL, TXID
from vfsstream.plan.files import FileInfo
from vfsstream.plan.restore import restore_plan
from vfsstream.replica import Replica
from vfsstream.replicate.lease import Lease
from vfsstream.replicate.localfiles import LocalFiles, disk_errors
from vfsstream.replicate.reconcile import Behind, Standing, behind, compare
from vfsstream.stores.deadline import stoppable
from vfsstream.stores.smallfile import replace_file

__all__ = ["Uploader"]

_WORTH_A_LOOK = 64 << 20


@dataclass(slots=True)
class _Sent:
    info: FileInfo
    full: bool
    page_size: int


class Uploader:
    """Uploads the files of one database. :meth:`run` is called by one thread at a time.

    Args:
        rebase: called when the replica is ahead; makes capture go on above the given TXID. Gets a reason, and if there
            is one a copy of the replica's file of that TXID.
        uploaded: called for every file that arrived, in order.
        trusted: local files above this TXID were written by this process and are not read again before upload.

    Attributes:
        position: every TXID up to here is in the replica; ``None`` until the first contact.
        listing: what the replica had at first contact.
        needs_snapshot: no chain leads from a base to the position.
    """

    def __init__(
        self,
        replica: Replica,
        local: LocalFiles,
        *,
        concurrency: int = 4,
        lease: Lease | None = None,
        take_over: bool = False,
        rebase: Callable[[TXID, str, Path | None], None],
        uploaded: Callable[[FileInfo, bool, int], None] = lambda info, full, page_size: None,
        at_point: Callable[[str], None] = lambda point: None,
    ) -> None:
        self.replica, self.local, self.lease = replica, local, lease
        self._concurrency, self._take_over = concurrency, take_over
        self._rebase, self._uploaded, self._at_point = rebase, uploaded, at_point
        self.position: TXID | None = None
        self.listing: dict[int, list[FileInfo]] | None = None
        self.needs_snapshot = False
        self._remote_page_size: int | None = None
        self._sent_here: dict[int, bool] = {}  # not uploaded yet; whether it holds every page
        self.bytes = self.files = 0
        self.interrupted = threading.Event()
        self._unmet = local.own / "unmet"
        self._met = local.own / "replica"
        if not local.txids():
            self._unmet.touch()

    def run(self, position: TXID) -> TXID:
        """Upload every local file up to ``position``.

        Raises:
            StoreError: the transport failed; try again.
            DatabaseError: a local file cannot be read; try again.
            ForkDetected, LeaseHeld: the replica is somebody else's.
            Interrupted: :attr:`interrupted` was set.
        """
        self._check_interrupted()
        with disk_errors("read", self.local.level0), stoppable(self.interrupted):
            return self._run(position)

    def _check_interrupted(self) -> None:
        if self.interrupted.is_set():
            raise Interrupted("the upload was interrupted")

    def _run(self, position: TXID) -> TXID:
        if self.lease is not None and (self.position is None or self.position < position):
            self.lease.ensure()
        if self.position is None:
            self._make_contact(position)
        assert self.position is not None
        pending = self._pending(self.position, position)
        if pending and pending != list(range(self.position + 1, pending[-1] + 1)):
            self.needs_snapshot = True  # a local file was lost before it was uploaded
        self._send(pending)
        if pending:
            self.position = pending[-1]
        return self.position

    def _pending(self, reached: TXID, position: TXID) -> list[TXID]:
        """The local files above ``reached``; those that this process wrote just now need no listing."""
        wanted = [TXID(txid) for txid in range(reached + 1, position + 1)]
        if all(txid in self._sent_here for txid in wanted):
            return wanted
        return [txid for txid in self.local.txids() if reached < txid <= position]

    def _make_contact(self, position: TXID) -> None:
        remote = self.replica.all_files(LEVELS)
        local = self.local.infos()
        standing = compare(local, position, remote)
        newest = max((info.max_txid for files in remote.values() for info in files), default=TXID(0))
        if self._unmet.exists() and newest and not self._is_ours(standing):
            # Local files begun without a look at the replica share no history with it: the numbers collide only.
            # Those given so far are given anew, so that the chain goes on without a gap.
            standing = behind(remote)
        elif isinstance(standing, Standing) and self._collides_only(standing, local, remote):
            standing = behind(remote)
        elif newest and self._belongs_elsewhere(standing, local, remote):
            found = f"holds files up to TXID {newest} that the local files, of {self._met.read_text()}, do not continue"
            self._fork(found, max(newest, position), remote)
            return
        if isinstance(standing, Behind):
            copy = self._copy_of_newest(remote, standing.newest)
            self._rebase(standing.newest, "the replica is ahead of the local files", copy)
            self.listing, self.position = remote, standing.newest
            first, self._remote_page_size = self._page_sizes_of(remote)
            self.needs_snapshot |= standing.needs_snapshot or first != self._remote_page_size
            self._note_meeting()
            return
        if standing.common is not None and not self._same(standing.common):
            if self._is_damaged(standing.common):
                self.local.set_aside(standing.common)
                self._make_contact(position)
                return
            path = self.local.path(standing.common)
            found = f"has another file for TXID {standing.common} than the local copy {path}"
            self._fork(found, max(newest, position), remote)
            return
        self.listing = remote
        self.needs_snapshot |= standing.needs_snapshot or self._lacks_base_of_page_size(remote)
        self.position = position
        self._note_meeting()
        if standing.missing:
            self.position = TXID(standing.missing[0] - 1)
            self._send([txid for txid in standing.missing if txid <= position])
            self.position = position

    def _fork(self, found: str, above: TXID, remote: dict[int, list[FileInfo]]) -> None:
        if not self._take_over:
            raise ForkDetected(
                f"{self.replica.describe()} {found}: it continues another history",
                hint="replicate to another place; or go on above that history with all pages: `vfsstream reset` "
                "forgets the local files, fork=take-over does it in Python",
            )
        self._rebase(above, "the replica continues another history", None)
        self.listing, self.position, self.needs_snapshot = remote, above, True
        self._note_meeting()

    def _belongs_elsewhere(
        self, standing: Behind | Standing, local: list[FileInfo], remote: dict[int, list[FileInfo]]
    ) -> bool:
        """The local files were uploaded to another replica, and none of them is in this one."""
        if not self._met.exists() or self._met.read_text() == self.replica.describe():
            return False
        if isinstance(standing, Standing) and standing.common is not None:
            return False  # whose content says more
        shared = {info.min_txid for info in local} & {info.max_txid for info in remote.get(0, ())}
        return not shared or not self._same(min(shared))

    def _note_meeting(self) -> None:
        replace_file(self._met, self.replica.describe().encode())
        self._unmet.unlink(missing_ok=True)

    def _lacks_base_of_page_size(self, remote: dict[int, list[FileInfo]]) -> bool:
        """The page size changed, and a crash came before the snapshot without which nothing after it restores."""
        changed = self.local.last_page_size_change()
        return changed is not None and all(info.max_txid < changed for info in remote.get(SNAPSHOT_LEVEL, ()))

    def _copy_of_newest(self, remote: dict[int, list[FileInfo]], newest: TXID) -> Path | None:
        """The newest level-0 file, if it is small enough to be worth the look that may save all pages."""
        info = next((info for info in remote.get(0, ()) if info.min_txid == info.max_txid == newest), None)
        if info is None or info.size > _WORTH_A_LOOK:
            return None
        path = self.local.own / "newest.tmp"
        with open(path, "wb") as file:
            file.writelines(self.replica.stream(info))
            file.flush()
            os.fsync(file.fileno())
        return path

    def _page_sizes_of(self, remote: dict[int, list[FileInfo]]) -> tuple[int | None, int | None]:
        """Of the base from which the newest state is restored, and of the newest file."""
        try:
            plan = restore_plan(remote)
        except MissingError:
            return None, None
        first, last = (
            Header.unpack(self.replica.fetch(info, 0, HEADER_SIZE).data, name=self.replica.key(info)).page_size
            for info in (plan[0], plan[-1])
        )
        return first, last

    def _is_ours(self, standing: Behind | Standing) -> bool:
        """Whether the replica holds what was begun here: the first upload arrived, then we were killed."""
        return isinstance(standing, Standing) and standing.common is not None and self._same(standing.common)

    def _collides_only(self, standing: Standing, local: list[FileInfo], remote: dict[int, list[FileInfo]]) -> bool:
        """A file that was written before this first look has the number of another one, above a shared history.

        So it looks when the newest local file was lost and with it the note of its number. Whoever holds the lease
        goes on above what an earlier holder wrote, as he does when the replica is ahead by more than that.
        """
        common = standing.common
        if self.lease is None or self.listing is not None or common is None or common not in self._sent_here:
            return False
        single = {info.min_txid for info in remote.get(0, ()) if info.min_txid == info.max_txid}
        shared = [i.min_txid for i in local if i.min_txid in single and i.min_txid not in self._sent_here]
        return bool(shared) and self._same(max(shared)) and not self._same(common)

    def _send(self, txids: list[TXID]) -> None:
        if len(txids) == 1:
            self._done(self._put(txids[0]))
            return
        if not txids:
            return
        with ThreadPoolExecutor(min(self._concurrency, len(txids)), "vfsstream-upload") as pool:
            waiting = list(reversed(txids))
            running: dict[Future[_Sent], TXID] = {}
            arrived: dict[TXID, _Sent] = {}
            order = iter(txids)
            due = next(order, None)
            try:
                while waiting or running:
                    while waiting and len(running) < self._concurrency:
                        txid = waiting.pop()
                        running[pool.submit(copy_context().run, self._put, txid)] = txid
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        txid = running.pop(future)
                        arrived[txid] = future.result()
                    while due is not None and due in arrived:
                        self._done(arrived.pop(due))
                        due = next(order, None)
            except BaseException:
                for future in running:
                    future.cancel()
                raise

    def _put(self, txid: TXID) -> _Sent:
        self._check_interrupted()
        path = self.local.path(txid)
        try:
            size = path.stat().st_size
            data = path.read_bytes() if size <= 1 << 20 else None
            header = Header.unpack(data[:HEADER_SIZE] if data is not None else _head(path), name=str(path))
            if txid not in self._sent_here:
                self._verify(txid)
        except FileNotFoundError as error:
            self._sent_here.pop(txid, None)
            self.forget_contact()  # which finds that a snapshot must take its place
            raise StoreError(f"{path} vanished before it was uploaded", retryable=True) from error
        except LtxError as error:
            self.local.set_aside(txid)
            self.forget_contact()
            raise StoreError(
                f"{path} was damaged before it was uploaded ({error.message}); a snapshot takes its place",
                retryable=True,
            ) from error
        self._at_point("upload:before-put")
        absent = self.replica.store.capabilities.can_put_if_absent
        stamp = header.timestamp
        try:
            if data is not None:
                info = self.replica.write(0, txid, txid, data, timestamp=stamp, if_absent=absent)
            else:
                with open(path, "rb") as file:
                    info = self.replica.write(0, txid, txid, file, timestamp=stamp, if_absent=absent)
        except AlreadyExists as error:
            if not self._same(txid):
                raise ForkDetected(
                    f"{self.replica.describe()} already has another file for TXID {txid}: "
                    "somebody else replicates to the same place",
                    hint="stop the other replicator, or give this one a replica of its own",
                ) from error
            info = FileInfo(txid, txid, 0, size, None)
        if info.size != size:
            raise StoreError(f"{self.replica.key(info)} arrived with {info.size} of {size} bytes", retryable=True)
        self._at_point("upload:after-put")
        full = self._sent_here.get(txid)
        return _Sent(info, _is_full(header, path) if full is None else full, header.page_size)

    def _done(self, sent: _Sent) -> None:
        txid = sent.info.min_txid
        if self.position is not None and txid == self.position + 1:
            self.position = txid
        if self._remote_page_size not in (None, sent.page_size):
            self.needs_snapshot = True  # files of two page sizes cannot be merged
        self._remote_page_size = sent.page_size
        self._sent_here.pop(txid, None)
        self.bytes += sent.info.size
        self.files += 1
        self._uploaded(sent.info, sent.full, sent.page_size)

    def written_here(self, txid: int, *, full: bool) -> None:
        """This process wrote the file just now; it need not be read back before or after its upload.

        Args:
            full: it holds every page.
        """
        self._sent_here[txid] = full

    def _verify(self, txid: TXID) -> None:
        path = self.local.path(txid)
        with open(path, "rb") as file:
            for _ in Decoder(iter(lambda: file.read(1 << 20), b""), name=str(path)).runs():
                pass

    def _is_damaged(self, txid: TXID) -> bool:
        try:
            self._verify(txid)
        except LtxError:
            return True
        return False

    def _same(self, txid: TXID) -> bool:
        """Whether the replica's file of a TXID is the local one: header, trailer and size."""
        path = self.local.path(txid)
        info = FileInfo(txid, txid, 0, 0)
        try:
            with open(path, "rb") as file:
                head = file.read(HEADER_SIZE)
                size = file.seek(0, 2)
                file.seek(-TRAILER_SIZE, 2)
                tail = file.read()
            remote_head = self.replica.fetch(info, 0, HEADER_SIZE).data
            remote_tail = self.replica.fetch(info, -TRAILER_SIZE)
        except (FileNotFoundError, NotFound):
            return True
        whole = remote_tail.total_size
        return remote_head == head and remote_tail.data == tail and whole in (None, size)

    def forget_contact(self) -> None:
        """Look at the replica again before the next upload (after an error whose outcome is unknown)."""
        self.position = None


def _head(path: object) -> bytes:
    with open(path, "rb") as file:  # type: ignore[call-overload]
        data: bytes = file.read(HEADER_SIZE)
        return data


def _is_full(header: Header, path: object) -> bool:
    """Whether a file holds every page: known for the first, and for any other by its index."""
    if header.is_snapshot:
        return True
    from vfsstream.ltx import PageIndex, index_start
    from vfsstream.ltx.names import lock_pgno

    with open(path, "rb") as file:  # type: ignore[call-overload]
        size = file.seek(0, 2)
        if size < header.commit * 10:  # fewer bytes than page frames could have
            return False
        file.seek(max(0, size - 24))
        start = index_start(file.read(), size)
        file.seek(start)
        index = PageIndex.decode(file.read(), header, size)
    return len(index) == header.commit - (header.commit >= lock_pgno(header.page_size))
