"""A store that tries again: jittered pauses, a deadline, streams and listings resumed where they broke.

Only errors that say ``retryable`` are tried again. A missing object, a taken name and refused credentials are
answers, not failures of the transport, and come back at once.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from vfsstream.errors import AlreadyExists, DeadlineExceeded, Interrupted, NotFound, StoreError
from vfsstream.stores.base import Fetched, ObjectInfo, Source, Store, chunks_of
from vfsstream.stores.deadline import deadline, nearest_end, pause
from vfsstream.stores.wrapper import StoreWrapper

__all__ = ["POLICIES", "RetryPolicy", "RetryStore", "call_with_retry", "finish_with_retry", "policy_for"]

T = TypeVar("T")

REPLAY_LIMIT = 8 << 20
"""A source that can be read only once is kept in memory up to this size, so that its put can be tried again."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long to try.

    Attributes:
        attempts: tries in all for one request without progress; 1 means no second try.
        base_delay: seconds before the second try, doubled from try to try, each with full jitter.
        max_delay: longest pause, seconds.
        deadline: seconds without progress after which the operation fails; ``None`` leaves it to ``attempts``.
    """

    attempts: int = 10
    base_delay: float = 0.1
    max_delay: float = 5.0
    deadline: float | None = 60.0

    def pause(self, failures: int, roll: float) -> float:
        """Seconds to wait after the given number of failures in a row; ``roll`` is a random number in [0, 1)."""
        return min(self.max_delay, self.base_delay * 2.0 ** min(failures - 1, 30)) * (0.5 + roll / 2)


POLICIES: Mapping[str, RetryPolicy] = {
    # A local disk that fails does so for good, except for network file systems.
    "file": RetryPolicy(attempts=3, base_delay=0.05, max_delay=0.2, deadline=30.0),
    "memory": RetryPolicy(attempts=3, base_delay=0.01, max_delay=0.1, deadline=30.0),
    # A lost session is built anew before the second try, which takes a handshake.
    "sftp": RetryPolicy(attempts=8, base_delay=0.25, max_delay=5.0, deadline=60.0),
    "nats": RetryPolicy(attempts=8, base_delay=0.25, max_delay=5.0, deadline=60.0),
}


def policy_for(kind: str) -> RetryPolicy:
    """The policy of a kind of store."""
    return POLICIES.get(kind, RetryPolicy())


class _Attempts:
    """The failures in a row of one operation."""

    def __init__(self, policy: RetryPolicy, stop: threading.Event, what: str) -> None:
        self.policy, self.stop, self.what = policy, stop, what
        self.progress()

    def progress(self) -> None:
        self.failures = 0
        self.cause: StoreError | None = None
        self.started = time.monotonic()

    @property
    def left(self) -> float | None:
        """Seconds for further tries: whoever waits for the whole operation must hear why it failed while he waits."""
        limit, outer = self.policy.deadline, nearest_end()
        ends = [] if limit is None else [self.started + limit]
        ends += [] if outer is None else [outer]
        return min(ends) - time.monotonic() if ends else None

    def failed(self, error: StoreError) -> None:
        """Wait until the next try is due; raise when there is none."""
        self.failures += 1
        if not error.retryable:
            raise error
        if isinstance(error, DeadlineExceeded) and self.cause is not None:
            cause = self.cause  # that the time is up says nothing of why it was not enough
        else:
            cause = self.cause = error
        left = self.left
        out_of_time = left is not None and left <= 0
        if self.failures >= self.policy.attempts and not out_of_time:
            raise error
        seconds = self.policy.pause(self.failures, random.random())
        if out_of_time or isinstance(error, DeadlineExceeded) or (left is not None and left < seconds):
            raise DeadlineExceeded(
                f"{self.what}: gave up after {time.monotonic() - self.started:.0f} s"
                f" and {self.failures} {'try' if self.failures == 1 else 'tries'}: {cause.message}",
                hint=cause.hint,
            ) from cause
        if pause(seconds, self.stop):
            raise Interrupted(f"{self.what}: stopped while waiting to try again: {error.message}") from error


def call_with_retry(
    function: Callable[[], T],
    policy: RetryPolicy,
    what: str,
    stop: threading.Event | None = None,
) -> T:
    """Call ``function`` until it gives an answer.

    Args:
        what: names the operation in errors, as ``"get s3://bucket/key"``.
        stop: when set, waiting ends with :class:`~vfsstream.errors.Interrupted`.

    Raises:
        StoreError: the last failure, when it cannot be retried or the tries are used up.
        DeadlineExceeded: the policy's deadline passed; chained to the last failure and naming it.
    """
    attempts = _Attempts(policy, stop or threading.Event(), what)
    while True:
        try:
            with deadline(attempts.left):
                return function()
        except StoreError as error:
            attempts.failed(error)


def finish_with_retry(
    finish: Callable[[], T], policy: RetryPolicy, what: str, *, gone: str, made: Callable[[], T | None]
) -> T:
    """As :func:`call_with_retry`, for what can be done only once: a try whose answer was lost may have done it.

    Args:
        gone: in the message of an error, says that there is nothing to finish any more.
        made: looks at what is there; the answer if it is ours, else ``None``.
    """
    tries = 0

    def once() -> T:
        nonlocal tries
        tries += 1
        return finish()

    try:
        return call_with_retry(once, policy, what)
    except (AlreadyExists, NotFound, StoreError) as error:
        if tries == 1 or (isinstance(error, StoreError) and gone not in error.message):
            raise
        found = made()
        if found is None:
            raise
        return found


class RetryStore(StoreWrapper):
    """A store whose operations are tried again.

    Args:
        inner: the store.
        policy: by default the one of its kind.
        stop: when set, waits end with :class:`~vfsstream.errors.Interrupted`; ``close`` sets it too.
    """

    def __init__(
        self, inner: Store, policy: RetryPolicy | None = None, *, stop: threading.Event | None = None
    ) -> None:
        super().__init__(inner)
        self.policy = policy or policy_for(inner.kind)
        self._stop = stop or threading.Event()

    def _attempts(self, action: str, key: str) -> _Attempts:
        return _Attempts(self.policy, self._stop, f"{action} {self.inner.describe()}/{key}")

    def _call(self, function: Callable[[], T], action: str, key: str) -> T:
        # The first try is the common one: no description is made for it, and nothing allocated.
        try:
            with deadline(self.policy.deadline):
                return function()
        except StoreError as error:
            attempts = self._attempts(action, key)
            attempts.failed(error)
        while True:
            try:
                with deadline(attempts.left):
                    return function()
            except StoreError as error:
                attempts.failed(error)

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        listing = self._call(lambda: _started(self.inner.list(prefix, start_after)), "list", prefix)
        return self._resume_list(listing, prefix, start_after)

    def _resume_list(
        self, listing: Iterator[ObjectInfo], prefix: str, start_after: str | None
    ) -> Iterator[ObjectInfo]:
        attempts, last = self._attempts("list", prefix), start_after
        while True:
            try:
                while True:
                    with deadline(attempts.left):
                        info = next(listing, None)
                    if info is None:
                        return
                    last = info.key
                    attempts.progress()
                    yield info
                    attempts.progress()  # the time the caller took is not ours
            except StoreError as error:
                attempts.failed(error)
                listing = _lazily(lambda: self.inner.list(prefix, last))  # noqa: B023 - called in this round

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        names = self._call(lambda: list(self.inner.list_prefixes(prefix)), "list", prefix)
        return iter(names)

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        return self._call(lambda: self.inner.fetch(key, offset, size), "read", key)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        return self._resume_stream(self._call(lambda: self.inner.stream(key, offset), "read", key), key, offset)

    def _resume_stream(self, chunks: Iterator[bytes], key: str, position: int) -> Iterator[bytes]:
        attempts = self._attempts("read", key)
        while True:
            try:
                while True:
                    with deadline(attempts.left):
                        chunk = next(chunks, None)
                    if chunk is None:
                        return
                    position += len(chunk)
                    attempts.progress()
                    yield chunk
                    attempts.progress()
            except StoreError as error:
                attempts.failed(error)
                chunks = _lazily(lambda: self.inner.stream(key, position))  # noqa: B023 - called in this round
            except GeneratorExit:
                close = getattr(chunks, "close", None)
                if close is not None:
                    close()
                raise

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        replay, rest = _replayable(source)
        if rest is not None:
            # Too large to keep: the store itself tries the parts of such an upload again.
            return self.inner.put(key, chain([replay], rest), metadata=metadata, if_absent=if_absent)
        tries = 0

        def attempt() -> ObjectInfo:
            nonlocal tries
            tries += 1
            try:
                return self.inner.put(key, replay, metadata=metadata, if_absent=if_absent)
            except AlreadyExists:
                # An earlier try may have succeeded without our hearing of it.
                if tries == 1 or self.inner.fetch(key).data != replay:
                    raise
                return self.inner.head(key)

        return self._call(attempt, "write", key)

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        self._call(lambda: self.inner.delete(wanted), "delete", wanted[0] if wanted else "")

    def head(self, key: str) -> ObjectInfo:
        return self._call(lambda: self.inner.head(key), "stat", key)

    def close(self) -> None:
        self._stop.set()
        super().close()


def _started(listing: Iterator[T]) -> Iterator[T]:
    """The same iterator, its first page already asked for."""
    first = next(listing, None)
    return iter(()) if first is None else chain([first], listing)


def _lazily(make: Callable[[], Iterator[T]]) -> Iterator[T]:
    yield from make()


def _replayable(source: Source) -> tuple[bytes, Iterator[bytes] | None]:
    """The bytes of a small source; of a large one its beginning, and the iterator of the rest."""
    if isinstance(source, bytes):
        return source, None
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source), None
    parts, held = [], 0
    chunks = chunks_of(source)
    for chunk in chunks:
        parts.append(chunk)
        held += len(chunk)
        if held > REPLAY_LIMIT:
            return b"".join(parts), chunks
    return b"".join(parts), None
