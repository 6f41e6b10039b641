"""A replica: LTX files in a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from vfsstream.ltx.names import LEVELS, TXID
from vfsstream.plan.files import FileInfo
from vfsstream.replica.layout import Layout, layout_for
from vfsstream.stores.base import TIMESTAMP, Fetched, ObjectInfo, Source, Store
from vfsstream.stores.url import open_store

__all__ = ["Replica", "format_time", "parse_time"]


class Replica:
    """The LTX files below one replica URL. Thread-safe; holds no state beyond the store.

    Args:
        store: where the files are.
        layout: how keys are made; by default Litestream's for this kind of store.
    """

    def __init__(self, store: Store, layout: Layout | None = None) -> None:
        self.store = store
        self.layout = layout or layout_for(store.kind)

    @classmethod
    def open(cls, url: str, options: Mapping[str, str] | None = None) -> Replica:
        """The replica that a URL names. No request is made.

        Raises:
            UrlError: a URL that cannot be understood.
            MissingExtra: the package for this store is not installed.
        """
        return cls(open_store(url, options))

    def files(self, level: int, start: int = 1) -> Iterator[FileInfo]:
        """The files of one level whose ``min_txid >= start``, ascending; foreign objects are skipped."""
        for info in self.store.list(self.layout.level_prefix(level), self.layout.start_after(level, start)):
            described = self._describe(level, info)
            if described is not None and described.min_txid >= start:
                yield described

    def useful_requests(self, most: int) -> int:
        """Small requests to make at once. A folder gives no more to many, and a thread costs more than a look."""
        return 1 if self.store.kind == "file" else most

    def all_files(self, levels: Iterable[int] = LEVELS, start: int = 1) -> dict[int, list[FileInfo]]:
        """Every file of several levels, listed in parallel where that saves time: ``{level: files}``."""
        from vfsstream.replica.parallel import side_by_side

        wanted = list(levels)
        limit = self.useful_requests(len(wanted))
        listings = side_by_side(lambda level: list(self.files(level, start)), wanted, limit, "list")
        return dict(zip(wanted, listings, strict=True))

    def key(self, info: FileInfo) -> str:
        """The key of a file in the store."""
        return self.layout.key(info.level, info.min_txid, info.max_txid)

    def fetch(self, info: FileInfo, offset: int = 0, size: int | None = None) -> Fetched:
        """A range of a file, by the rules of :meth:`Store.fetch`."""
        return self.store.fetch(self.key(info), offset, size)

    def stream(self, info: FileInfo, offset: int = 0) -> Iterator[bytes]:
        """A file's bytes from ``offset``, in chunks."""
        return self.store.stream(self.key(info), offset)

    def write(
        self,
        level: int,
        min_txid: int,
        max_txid: int,
        source: Source,
        *,
        timestamp: int,
        if_absent: bool = False,
    ) -> FileInfo:
        """Store a file; visible only when complete.

        Args:
            timestamp: of the header, milliseconds since 1970; kept as the object's own time.

        Raises:
            AlreadyExists: ``if_absent`` and the name is taken.
        """
        key = self.layout.key(level, min_txid, max_txid)
        metadata = {TIMESTAMP: format_time(timestamp)}
        stored = self.store.put(key, source, metadata=metadata, if_absent=if_absent)
        return FileInfo(TXID(min_txid), TXID(max_txid), level, stored.size, _from_ms(timestamp), True)

    def delete(self, infos: Iterable[FileInfo]) -> None:
        """Delete files; missing ones are not an error."""
        self.store.delete([self.key(info) for info in infos])

    def exact_time(self, info: FileInfo) -> FileInfo:
        """The same description with the header's timestamp, read from the file when the listing has none."""
        if info.exact_time:
            return info
        from vfsstream.ltx.header import HEADER_SIZE, Header

        header = Header.unpack(self.fetch(info, 0, HEADER_SIZE).data, name=self.key(info))
        return FileInfo(info.min_txid, info.max_txid, info.level, info.size, _from_ms(header.timestamp), True)

    def watch(self, level: int, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` when a level changes, where the store can notify; returns the function that ends it."""
        return self.store.watch(self.layout.level_prefix(level), wake)

    def describe(self) -> str:
        """The URL without secrets."""
        return self.store.describe()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def _describe(self, level: int, info: ObjectInfo) -> FileInfo | None:
        span = self.layout.parse(info.key)
        if span is None:
            return None
        exact = parse_time(info.metadata.get(TIMESTAMP))
        return FileInfo(span[0], span[1], level, info.size, exact or info.modified, exact is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Replica {self.describe()}>"


def format_time(milliseconds: int) -> str:
    """Litestream's text for an object's own time: RFC 3339, UTC, trailing zeros trimmed."""
    seconds, fraction = divmod(milliseconds, 1000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:03d}".rstrip("0").rstrip(".") + "Z"


def parse_time(text: str | None) -> datetime | None:
    """The time that an object's metadata states, or ``None`` when it is absent or not a time."""
    if not text:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _from_ms(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
