"""Replicas for which a URL does not say enough, because their credentials are in a configuration file.

A name that stands for a function which opens the replica may be given wherever a replica URL is.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vfsstream.replica import Replica

__all__ = ["lent", "open_named"]

_openers: dict[str, Callable[[], Replica]] = {}  # guarded by _lock
_lock = threading.Lock()
_numbers = itertools.count(1)


@contextmanager
def lent(opener: Callable[[], Replica]) -> Iterator[str]:
    """A ``replica_url`` for :func:`vfsstream.connect` that is valid until the end of the block.

    Connections opened inside may live on; each opening calls ``opener`` at most once and closes what it returned.
    """
    name = f"lent:{next(_numbers)}"
    with _lock:
        _openers[name] = opener
    try:
        yield name
    finally:
        with _lock:
            del _openers[name]


def open_named(url: str) -> Replica:
    """The replica of a URL, or of a name that :func:`lent` gave."""
    with _lock:
        opener = _openers.get(url)
    return Replica.open(url) if opener is None else opener()
