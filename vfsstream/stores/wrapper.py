"""The base of the stores that wrap another one: everything is passed on unless overridden."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from vfsstream.stores.base import Capabilities, Fetched, ObjectInfo, Source, Store

__all__ = ["StoreWrapper", "unwrap"]


class StoreWrapper(Store):
    """Passes every operation on to ``inner``.

    Attributes:
        inner: the wrapped store.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.inner.kind

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return self.inner.capabilities

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix, start_after)

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        return self.inner.list_prefixes(prefix)

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        return self.inner.fetch(key, offset, size)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        return self.inner.stream(key, offset)

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        return self.inner.put(key, source, metadata=metadata, if_absent=if_absent)

    def delete(self, keys: Iterable[str]) -> None:
        self.inner.delete(keys)

    def remove_directory(self, prefix: str) -> None:
        self.inner.remove_directory(prefix)

    def head(self, key: str) -> ObjectInfo:
        return self.inner.head(key)

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None]:
        return self.inner.watch(prefix, wake)

    def describe(self) -> str:
        return self.inner.describe()

    def close(self) -> None:
        self.inner.close()


def unwrap(store: Store) -> Store:
    """The store below all wrappers."""
    while isinstance(store, StoreWrapper):
        store = store.inner
    return store
