"""Reading the chunks of NATS objects: a place in an object is found from the sizes of the chunks before it."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from vfsstream.errors import StoreError
from vfsstream.stores.nats_link import NO_MESSAGE, JetStreamError, Message, NatsLink
from vfsstream.stores.nats_objects import Meta, digest_text

__all__ = ["SMALL", "ChunkReader"]

SMALL = 256 * 1024
"""Objects up to this size, bytes, are read whole and kept."""

_SMALL_KEPT = 16 << 20
_MAPS_KEPT = 512
_SINGLE_GETS = 4


@dataclass(frozen=True, slots=True)
class ChunkMap:
    """Where the chunks of an object are: stream sequence and first byte of each, and the end."""

    sequences: list[int]
    offsets: list[int]


class ChunkReader:
    """Runs on the loop of ``link``; what it has learned of objects is kept.

    Args:
        stream: of the bucket.
        place: names the bucket in errors.
        subject_of: the subject of an object's chunks.
    """

    def __init__(self, link: NatsLink, stream: str, place: str, subject_of: Callable[[str], str]) -> None:
        self._link, self._stream, self._place, self._subject_of = link, stream, place, subject_of
        self._cache_lock = threading.Lock()  # guards the two caches
        self._maps: OrderedDict[str, ChunkMap] = OrderedDict()
        self._small: OrderedDict[str, bytes] = OrderedDict()
        self._small_bytes = 0

    async def whole(self, meta: Meta) -> bytes:
        """A small object, read at once and kept: its identity never changes its bytes."""
        with self._cache_lock:
            kept = self._small.get(meta.nuid)
        if kept is not None or meta.size == 0:
            return kept or b""
        subject = self._subject_of(meta.nuid)
        if meta.chunks == 1:
            data = (await self._chunk(meta, last_by_subj=subject)).data
        else:
            parts = self._link.consume(self._stream, subject, policy="all")
            data = b"".join([part.data async for part in parts])
        self._check(meta, data)
        with self._cache_lock:
            if meta.nuid not in self._small:
                self._small[meta.nuid] = data
                self._small_bytes += len(data)
            while self._small_bytes > _SMALL_KEPT:
                self._small_bytes -= len(self._small.popitem(last=False)[1])
        return data

    def _check(self, meta: Meta, data: bytes) -> None:
        if len(data) != meta.size:
            raise self.short(meta, len(data))
        if digest_text(hashlib.sha256(data)) != meta.digest:
            raise StoreError(f"{self._place}: {meta.name} does not have the digest that its description states")

    def short(self, meta: Meta, got: int) -> StoreError:
        text = f"{self._place}: {got} of {meta.size} bytes of {meta.name} arrived: replaced, deleted or cut short"
        return StoreError(text, retryable=True)

    async def _chunk(self, meta: Meta, **which: Any) -> Message:
        try:
            message = await self._link.message(self._stream, **which)
        except JetStreamError as error:
            if error.err_code == NO_MESSAGE:
                raise self.short(meta, 0) from error
            raise
        if message.subject != self._subject_of(meta.nuid):
            raise self.short(meta, 0)
        return message

    async def _map(self, meta: Meta) -> ChunkMap:
        with self._cache_lock:
            known = self._maps.get(meta.nuid)
            if known is not None:
                self._maps.move_to_end(meta.nuid)
                return known
        sequences, sizes = [], []
        subject = self._subject_of(meta.nuid)
        async for message in self._link.consume(self._stream, subject, policy="all", headers_only=True):
            sequences.append(message.sequence)
            sizes.append(int(message.headers.get("Nats-Msg-Size", 0)))
        if sum(sizes) != meta.size:
            raise self.short(meta, sum(sizes))
        made = ChunkMap(sequences, [0, *accumulate(sizes)])
        with self._cache_lock:
            self._maps[meta.nuid] = made
            while len(self._maps) > _MAPS_KEPT:
                self._maps.popitem(last=False)
        return made

    async def part(self, meta: Meta, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        places = await self._map(meta)
        first = bisect_right(places.offsets, start) - 1
        last = bisect_right(places.offsets, stop - 1) - 1
        wanted = places.sequences[first : last + 1]
        if len(wanted) <= _SINGLE_GETS:
            messages = await asyncio.gather(*(self._chunk(meta, seq=sequence) for sequence in wanted))
            parts = [message.data for message in messages]
        else:
            parts = [*await self._run_of_chunks(meta, wanted)]
        data = b"".join(parts)
        if len(data) != places.offsets[last + 1] - places.offsets[first]:
            raise self.short(meta, len(data))
        skip = start - places.offsets[first]
        return data[skip : skip + stop - start]

    async def _run_of_chunks(self, meta: Meta, wanted: Sequence[int]) -> Sequence[bytes]:
        parts = []
        subject = self._subject_of(meta.nuid)
        flow = self._link.consume(self._stream, subject, policy="by_start_sequence", start=wanted[0])
        try:
            async for message in flow:
                parts.append(message.data)
                if message.sequence >= wanted[-1]:
                    break
        finally:
            await flow.aclose()
        return parts
