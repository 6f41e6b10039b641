"""One replica as this process reads it: shared by every connection that opened it with the same options."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple

from vfsstream.errors import CorruptError, MissingError, NotFound, ViewExpired
from vfsstream.ltx.names import LEVELS
from vfsstream.plan import restore_plan
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica
from vfsstream.vfs.diskcache import directory_for
from vfsstream.vfs.follower import Follower
from vfsstream.vfs.indexcache import IndexCache
from vfsstream.vfs.kept import KeptPlan, by_level
from vfsstream.vfs.lending import open_named
from vfsstream.vfs.opening import LoadedFile, read_plan_files
from vfsstream.vfs.options import Options
from vfsstream.vfs.pagemap import build, missing_from, replace_places, take_places
from vfsstream.vfs.planning import Opened, incoming, open_view, yield_now
from vfsstream.vfs.source import Frame, PageSource, SimpleSource
from vfsstream.vfs.view import View

__all__ = ["Database", "Moment", "make_source"]


class Moment(NamedTuple):
    """A view and the source that holds its history's pages."""

    view: View
    source: PageSource


def make_source(replica: Replica, options: Options) -> PageSource:
    """The machinery that fetches pages."""
    if options.prefetch != "off" or options.hydration_enabled or options.cache_dir is not None:
        from vfsstream.vfs.fetch import FetchEngine

        return FetchEngine(replica, options)
    return SimpleSource(replica, options.cache_size, options.deadline, options.max_requests)


def index_cache_for(replica: Replica, options: Options) -> IndexCache | None:
    """Where page indexes are kept for the next process, if anywhere."""
    if options.cache_dir is None:
        return None
    return IndexCache(directory_for(options.cache_dir, replica.describe()))


def frames_of(view: View, loaded: LoadedFile) -> Iterable[Frame]:
    """The frames that came along with a file's header, all of a small file's, those that the view still shows."""
    data = loaded.head
    index = loaded.index
    stop = int((index.offset + index.size).searchsorted(len(data), "right"))
    rows = zip(index.pgno[:stop].tolist(), index.offset[:stop].tolist(), index.size[:stop].tolist(), strict=True)
    for pgno, offset, size in rows:
        place = view.find(pgno)
        if place is not None and place.offset == offset and view.files[place.file] == loaded.info:
            yield pgno, place.version, data[offset : offset + size]


class Database:
    """The shared state of one replica.

    ``current`` is replaced, never changed: reading the attribute once gives a consistent moment.

    Attributes:
        current: the newest view.
        follower: finds newer ones; ``None`` for an immutable database.
        zeros_read: pages read that were never written.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.replica = open_named(options.replica_url)
        self.follower: Follower | None = None
        self.zeros_read = 0
        self.repairs = 0
        self._pid = os.getpid()
        self._repair_lock = threading.Lock()
        self._kept: KeptPlan | None = None
        try:
            indexes = index_cache_for(self.replica, options)
            if indexes is not None and not options.immutable:
                self._kept = KeptPlan(indexes)
            opened, age = self._from_cache() or (self._from_store(indexes), None)
            source = make_source(self.replica, options)
        except BaseException:
            self.replica.close()
            raise
        self._sources = [source]
        self.current = Moment(opened.view, source)
        self._offer(self.current, opened.loaded)
        try:
            source.opened(opened.view)
        except BaseException:
            source.close()
            self.replica.close()
            raise
        if self._kept is not None:
            self._kept.begin(opened.loaded, opened.view, age or 0.0)
        if not options.immutable:
            self.follower = Follower(self, opened.files)
            if age is not None:
                self.follower.hurry(age)

    def _from_store(self, indexes: IndexCache | None) -> Opened:
        options = self.options
        return open_view(
            self.replica,
            txid=options.txid,
            moment=options.time,
            wait=options.wait,
            poll=options.poll_interval,
            index_cache=indexes,
        )

    def _from_cache(self) -> tuple[Opened, float] | None:
        """The view that an earlier process left, and its age in seconds; no request is made."""
        found = self._kept.load() if self._kept is not None and self.options.stale_ok else None
        if found is None:
            return None
        loaded, age = found
        try:
            view = build([incoming(file) for file in loaded], 0, yield_now)
        except CorruptError:
            return None
        files = by_level(file.info for file in loaded)
        return Opened(view, loaded, {level: files.get(level, []) for level in LEVELS}), age

    def _offer(self, moment: Moment, loaded: Iterable[LoadedFile]) -> None:
        budget = self.options.cache_size // 2
        for file in loaded:
            if (budget := budget - len(file.head)) >= 0:
                moment.source.offer(frames_of(moment.view, file))

    # Called by the follower's thread only.

    def publish(self, view: View, loaded: LoadedFile | None) -> None:
        """Make a newer view of the same history current."""
        before, source = self.current
        if loaded is not None:
            source.offer(frames_of(view, loaded))
        self.current = Moment(view, source)
        source.advanced(view)
        if self._kept is not None and loaded is not None:
            if view.txid > before.txid:
                self._kept.follow(loaded, view)
            else:
                self._kept.repointed(loaded, view)

    def restart(self, opened: Opened) -> None:
        """Begin another history: the replica was deleted and made anew. Pinned views keep the old source."""
        source = make_source(self.replica, self.options)
        self._sources.append(source)
        self.current = Moment(opened.view, source)
        self._offer(self.current, opened.loaded)
        source.opened(opened.view)
        self._kept = None  # the next open begins with the new history

    # Called by readers.

    def travel(self, moment: datetime) -> Moment:
        """The state before a moment, in the current history.

        Raises:
            NotRestorable: nothing is that old.
        """
        current = self.current
        opened = open_view(self.replica, moment=moment, generation=current.view.generation)
        return Moment(opened.view, current.source)

    def repair(self, moment: Moment, pgno: int, check: Callable[[], None]) -> Moment:
        """The same view, with new places for pages whose files are gone.

        One thread works; others wait for it, since its work usually serves them too.

        Raises:
            ViewExpired: retention removed what this view needs.
        """
        while not self._repair_lock.acquire(timeout=0.05):
            check()
        try:
            self.repairs += 1
            view = moment.view
            place = view.find(pgno)
            assert place is not None
            lost = view.files[place.file]
            for last in (False, False, True):
                repaired = self._repaired(view, pgno, lost, check, last)
                if repaired is not None:
                    return Moment(repaired, moment.source)
            raise self._expired(view, lost)
        finally:
            self._repair_lock.release()

    def _repaired(
        self, view: View, pgno: int, lost: FileInfo, check: Callable[[], None], last: bool
    ) -> View | None:
        """The view by other files; ``None`` when a listing was out of date already while it was read."""
        looked = True
        if self.follower is not None:
            self.follower.refresh(check, full=True)
            looked = self.follower.last_error is None
            current = self.current.view
            if current.generation == view.generation:
                candidate = take_places(view, current, yield_now)
                found = candidate.find(pgno)
                if found is not None and not _same(candidate.files[found.file], lost):
                    return candidate
        try:
            files = self.replica.all_files()
            available = [info for level in files.values() for info in level]
            if any(_same(info, lost) for info in available):
                return view  # it is there (again): the read is repeated
            plan = restore_plan(files, txid=view.txid)
            loaded = read_plan_files(self.replica, plan)
            candidate = replace_places(view, [incoming(file) for file in loaded], yield_now)
        except NotFound:
            return None
        except (MissingError, CorruptError) as error:
            # Proof only if the follower saw everything: it may have met a file that was being removed.
            if looked or last:
                raise self._expired(view, lost) from error
            return None
        return None if lost in missing_from(candidate, available) else candidate

    def _expired(self, view: View, lost: FileInfo) -> ViewExpired:
        hint = "restart the transaction to read the newest state"
        if self.options.immutable:
            hint = "retention removed this state; open another one"
        return ViewExpired(
            f"TXID {view.txid} cannot be read any more: {self.replica.key(lost)} is gone", hint=hint
        )

    def after_fork(self) -> None:
        """Re-arm everything that threads and sockets of the parent were part of."""
        self._pid = os.getpid()
        self._repair_lock = threading.Lock()
        for source in self._sources:
            source.after_fork()
        if self.follower is not None:
            self.follower.after_fork()

    def close(self) -> None:
        """Stop following and release everything. Waits for no remote answer."""
        if self.follower is not None:
            self.follower.close()
        for source in self._sources:
            source.close()
        if self._kept is not None:
            self._kept.close(self.lag() or 0.0)
        with contextlib.suppress(Exception):
            self.replica.close()

    def stats(self) -> dict[str, object]:
        """Counters and state, as plain data."""
        view, source = self.current
        answer: dict[str, object] = {
            "replica": self.replica.describe(),
            "txid": str(view.txid),
            "pages": view.commit,
            "page_size": view.page_size,
            "files": len(view.files),
            "generation": view.generation,
            "zeros_read": self.zeros_read,
            "repairs": self.repairs,
            "pages_source": dict(source.stats()),
        }
        if self.follower is not None:
            answer["follower"] = self.follower.stats()
        return answer

    def lag(self) -> float | None:
        """Seconds since the last successful look for news; ``None`` when the database does not follow."""
        return None if self.follower is None else time.monotonic() - self.follower.last_success

    def __repr__(self) -> str:
        view = self.current.view
        lag = self.lag()
        following = "fixed" if lag is None else f"lag={lag:.1f}s"
        return f"<Database {self.replica.describe()} txid={view.txid} pages={view.commit} {following}>"


def _same(a: FileInfo, b: FileInfo) -> bool:
    return (a.level, a.min_txid, a.max_txid) == (b.level, b.min_txid, b.max_txid)
