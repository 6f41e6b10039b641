"""A NATS JetStream object store: one bucket holds one replica.

Objects are chunks under a subject of their own and one message that describes them, published last. A chunk's place
in the object is found from the sizes of those before it, so a range costs its own chunks and no more. Deletion
follows the object store's rules and then removes the marker it leaves, which every listing would read for ever.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from vfsstream.errors import AlreadyExists, NotFound, StoreError
from vfsstream.stores.base import Capabilities, Fetched, ObjectInfo, Source, Store, chunks_of
from vfsstream.stores.deadline import time_left
from vfsstream.stores.extras import require
from vfsstream.stores.memory import slice_range
from vfsstream.stores.nats_link import NO_MESSAGE, STREAM_NOT_FOUND, JetStreamError, NatsLink
from vfsstream.stores.nats_login import NatsLogin
from vfsstream.stores.nats_objects import NO_TIME, Meta, blocks, describing, digest_text, parse
from vfsstream.stores.nats_reader import SMALL, ChunkReader
from vfsstream.stores.nats_url import open_url

__all__ = ["NatsStore", "open_url"]

T = TypeVar("T")

_BATCH = 8
_WINDOW = 1 << 20
_LIMIT = 30.0
_WRONG_LAST_SEQUENCE = 10071


class NatsStore(Store):
    """The objects of a bucket, which must exist.

    Args:
        login: where and who.
        bucket: its name.
    """

    kind = "nats"
    capabilities = Capabilities(
        can_put_if_absent=True,
        cheap_miss=True,
        listing_has_timestamp=True,
        can_watch=True,
        max_concurrency=16,
    )

    def __init__(self, login: NatsLogin, bucket: str) -> None:
        require("nats", "nats", "nats:// replicas")
        if login.seed or login.nkey or login.creds:
            require("nkeys", "nats", "nats:// replicas with keys")
        self.bucket = bucket
        self._stream = f"OBJ_{bucket}"
        self._link = NatsLink(login)
        self._reader = ChunkReader(self._link, self._stream, self.describe(), self._chunk_subject)
        self._sweeps = threading.Condition()  # guards the four below
        self._sweep_started = self._sweep_finished = 0
        self._sweep_running = False
        self._sweep_result: dict[str, ObjectInfo] = {}

    def _run(self, work: Coroutine[Any, Any, T], key: str, action: str, limit: float = _LIMIT) -> T:
        try:
            return self._link.run(work, limit)
        except JetStreamError as error:
            self._fail(error, key, action)

    def _fail(self, error: JetStreamError, key: str, action: str) -> NoReturn:
        if error.err_code == STREAM_NOT_FOUND:
            raise StoreError(
                f"{self.describe()}: there is no object store bucket {self.bucket!r}",
                hint=f"create it: nats object add {self.bucket}",
            ) from error
        if error.err_code == NO_MESSAGE:
            raise NotFound(key) from error
        full = error.err_code in (10077, 10047, 10023)
        hint = "the bucket or the server's storage is full" if full else None
        final = 400 <= error.code < 500 and not full and error.code not in (408, 429)
        text = f"{self.describe()}: cannot {action} {key or 'the bucket'}: {error.text}"
        raise StoreError(text, retryable=not final, hint=hint) from error

    def _chunk_subject(self, nuid: str) -> str:
        return f"$O.{self.bucket}.C.{nuid}"

    def _meta_subject(self, key: str) -> str:
        return f"$O.{self.bucket}.M.{base64.urlsafe_b64encode(key.encode()).decode()}"

    # Looking

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        found = []
        for key, info in self._objects().items():
            if not key.startswith(prefix) or "/" in key[len(prefix) :]:
                continue
            if start_after is None or key > start_after:
                found.append(info)
        return iter(sorted(found, key=lambda info: info.key))

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        rest = (key[len(prefix) :] for key in self._objects() if key.startswith(prefix))
        return iter(sorted({name.partition("/")[0] for name in rest if "/" in name}))

    def _objects(self) -> dict[str, ObjectInfo]:
        """Every object of the bucket. Listings that begin while one runs share the next: ten levels cost two."""
        with self._sweeps:
            wanted = self._sweep_started + 1
            while self._sweep_running and self._sweep_finished < wanted:
                self._sweeps.wait(time_left(1.0))
            if self._sweep_finished >= wanted:
                return self._sweep_result
            self._sweep_running = True
            self._sweep_started += 1
            mine = self._sweep_started
        result: dict[str, ObjectInfo] | None = None
        try:
            result = self._run(self._sweep(), "", "list")
            return result
        finally:
            with self._sweeps:
                self._sweep_running = False
                if result is not None:
                    self._sweep_finished, self._sweep_result = mine, result
                self._sweeps.notify_all()

    async def _sweep(self) -> dict[str, ObjectInfo]:
        found = {}
        subject = f"$O.{self.bucket}.M.>"
        async for message in self._link.consume(self._stream, subject, policy="last_per_subject"):
            meta = parse(message.data, message.sequence, message.time_ns)
            if meta is not None and not meta.deleted:
                found[meta.name] = meta.info
        return found

    async def _meta(self, key: str) -> Meta:
        message = await self._link.message(self._stream, last_by_subj=self._meta_subject(key))
        meta = parse(message.data, message.sequence, 0)
        if meta is None:
            raise StoreError(f"{self.describe()}: the description of {key} cannot be read")
        return meta

    async def _living(self, key: str) -> Meta:
        meta = await self._meta(key)
        if meta.deleted:
            raise NotFound(key)
        return meta

    def head(self, key: str) -> ObjectInfo:
        return self._run(self._living(key), key, "stat").info

    # Reading

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        if offset < 0 and size is not None:
            raise ValueError("a range from the end reads to the end: size must be None")
        return self._run(self._fetch(key, offset, size), key, "read", 4 * _LIMIT)

    async def _fetch(self, key: str, offset: int, size: int | None) -> Fetched:
        meta = await self._living(key)
        start, stop = slice_range(meta.size, offset, size)
        if meta.size <= SMALL:
            return Fetched((await self._reader.whole(meta))[start:stop], meta.size)
        return Fetched(await self._reader.part(meta, start, stop), meta.size)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        meta = self._run(self._living(key), key, "read")
        return self._chunks(meta, offset)

    def _chunks(self, meta: Meta, offset: int) -> Iterator[bytes]:
        """Each window is a request of its own: nothing stays open on the server while the reader does other things."""
        digest = hashlib.sha256() if offset == 0 else None
        while offset < meta.size:
            stop = min(meta.size, offset + _WINDOW)
            work = self._reader.whole(meta) if meta.size <= SMALL else self._reader.part(meta, offset, stop)
            data = self._run(work, meta.name, "read", 4 * _LIMIT)
            data = data[offset:] if meta.size <= SMALL else data
            if digest is not None:
                digest.update(data)
            offset += len(data)
            if digest is not None and offset == meta.size and digest_text(digest) != meta.digest:
                raise StoreError(
                    f"{self.describe()}: {meta.name} does not have the digest that its description states"
                )
            yield data

    # Changing

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        old = self._previous(key)
        if if_absent and old is not None and not old.deleted:
            raise AlreadyExists(key)
        nuid = secrets.token_hex(11).upper()
        try:
            size, chunks, digest = self._store_chunks(key, nuid, source)
            meta = describing(key, self.bucket, nuid, size, chunks, digest, metadata)
        except BaseException:
            with suppress(Exception):
                self._run(self._purge(self._chunk_subject(nuid)), key, "clean up after")
            raise
        headers = {"Nats-Rollup": "sub"}
        if if_absent:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(old.sequence if old is not None else 0)
        try:
            self._run(self._link.publish(self._meta_subject(key), meta, headers), key, "write")
        except StoreError as error:
            # Only a refusal proves that it is not visible: after silence the chunks must stay.
            if isinstance(error.__cause__, JetStreamError):
                with suppress(Exception):
                    self._run(self._purge(self._chunk_subject(nuid)), key, "clean up after")
                if if_absent and error.__cause__.err_code == _WRONG_LAST_SEQUENCE:
                    raise AlreadyExists(key) from error
            raise
        if old is not None and old.nuid and not old.deleted:
            with suppress(StoreError):  # the new object stands; the old chunks are only space
                self._run(self._purge(self._chunk_subject(old.nuid)), key, "clean up after")
        return ObjectInfo(key, size, datetime.now(UTC), dict(metadata or {}), nuid)

    def _previous(self, key: str) -> Meta | None:
        try:
            return self._run(self._meta(key), key, "look up")
        except NotFound:
            return None

    def _store_chunks(self, key: str, nuid: str, source: Source) -> tuple[int, int, str]:
        digest, size, count = hashlib.sha256(), 0, 0
        subject = self._chunk_subject(nuid)
        batch: deque[bytes] = deque()
        for block in blocks(chunks_of(source)):
            digest.update(block)
            size, count = size + len(block), count + 1
            batch.append(block)
            if len(batch) == _BATCH:
                self._run(self._publish_all(subject, batch), key, "write")
                batch.clear()
        if batch:
            self._run(self._publish_all(subject, batch), key, "write")
        return size, count, digest_text(digest)

    async def _publish_all(self, subject: str, batch: Iterable[bytes]) -> None:
        """Send in order, then wait for every acknowledgement."""
        connection = await self._link.connection()
        inbox = connection.new_inbox()
        subscription = await connection.subscribe(inbox)
        try:
            count = 0
            for block in batch:
                await connection.publish(subject, block, reply=inbox)
                count += 1
            await self._link.unless_lost(connection.flush(self._link.login.timeout))
            for _ in range(count):
                answer = await self._link.unless_lost(subscription.next_msg(timeout=self._link.login.timeout))
                if (answer.headers or {}).get("Status") == "503":
                    raise JetStreamError(404, STREAM_NOT_FOUND, "stream not found")
                acknowledged = json.loads(answer.data)
                if error := acknowledged.get("error"):
                    raise JetStreamError(
                        error.get("code", 0), error.get("err_code", 0), error.get("description", "refused")
                    )
        finally:
            with suppress(Exception):
                await subscription.unsubscribe()

    async def _purge(self, subject: str, before: int | None = None) -> None:
        request: dict[str, Any] = {"filter": subject}
        if before is not None:
            request["seq"] = before
        await self._link.ask(f"STREAM.PURGE.{self._stream}", request)

    def delete(self, keys: Iterable[str]) -> None:
        self._run(self._delete_all([*keys]), "", "delete from", 10 * _LIMIT)

    async def _delete_all(self, keys: Iterable[str]) -> None:
        slots = asyncio.Semaphore(16)

        async def one(key: str) -> None:
            async with slots:
                await self._delete(key)

        results = await asyncio.gather(*(one(key) for key in keys), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _delete(self, key: str) -> None:
        subject = self._meta_subject(key)
        try:
            meta = await self._meta(key)
        except JetStreamError as error:
            if error.err_code == NO_MESSAGE:
                return
            raise
        marker = {
            "name": key,
            "bucket": self.bucket,
            "nuid": meta.nuid,
            "size": 0,
            "mtime": NO_TIME,  # Go cannot read an empty one, and then no listing of it ever ends
            "chunks": 0,
            "deleted": True,
        }
        expected = {"Nats-Rollup": "sub", "Nats-Expected-Last-Subject-Sequence": str(meta.sequence)}
        try:
            sequence = await self._link.publish(subject, json.dumps(marker).encode(), expected)
        except JetStreamError as error:
            if error.err_code == _WRONG_LAST_SEQUENCE:  # somebody stored it anew just now
                return
            raise
        if meta.nuid:
            await self._purge(self._chunk_subject(meta.nuid))
        await self._purge(subject, sequence + 1)

    # Watching

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None]:
        ready = threading.Event()
        future = self._link.start(self._watch(prefix, wake, ready))
        ready.wait(time_left(self._link.login.timeout))

        def stop() -> None:
            future.cancel()
            with suppress(BaseException):
                future.result(5)

        return stop

    async def _watch(self, prefix: str, wake: Callable[[], None], ready: threading.Event) -> None:
        while True:
            try:
                await self._link.connection()
                subject = f"$O.{self.bucket}.M.>"
                asyncio.get_running_loop().call_later(0.2, ready.set)
                async for message in self._link.consume(self._stream, subject, policy="new"):
                    meta = parse(message.data, message.sequence, message.time_ns)
                    if meta is None or meta.name.startswith(prefix):
                        wake()
            except Exception:
                ready.set()
                await asyncio.sleep(1.0)
                wake()  # what happened meanwhile was not seen

    def describe(self) -> str:
        return f"nats://{self._link.login.address}/{self.bucket}"

    def close(self) -> None:
        self._link.close()
