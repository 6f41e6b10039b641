"""NATS for the object store: one connection on one private event loop, and JetStream's requests over it.

nats-py speaks the protocol. It is asyncio throughout and belongs to one loop; here that loop runs on a thread of its
own and everybody else waits for results with a time limit. A lost connection is not mended behind our back: what was
under way fails at once, and the next request connects again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, TypeVar

from vfsstream.errors import AccessDenied, StoreError, VfsstreamError
from vfsstream.stores.deadline import time_left
from vfsstream.stores.nats_login import NatsLogin

__all__ = ["JetStreamError", "Message", "NatsLink"]

T = TypeVar("T")

IDLE_HEARTBEAT = 2.0
"""A consumer that has nothing to say says so this often; three times silence means that it is gone."""

# TLS 1.3 tells a client that shows no certificate only after the handshake, or hangs up.
_WANTS_CERTIFICATE = re.compile("connection lost|bad.certificate|certificate.required", re.IGNORECASE)
STREAM_NOT_FOUND, NO_MESSAGE = 10059, 10037


class JetStreamError(Exception):
    """JetStream refused a request."""

    def __init__(self, code: int, err_code: int, text: str) -> None:
        super().__init__(f"{text} ({err_code})")
        self.code, self.err_code, self.text = code, err_code, text


@dataclass(frozen=True, slots=True)
class Message:
    """One stored message."""

    sequence: int
    subject: str
    data: bytes
    headers: Mapping[str, str]
    pending: int = 0
    time_ns: int = 0


class NatsLink:
    """The loop, its thread and the connection. Thread-safe; a forked child begins anew."""

    def __init__(self, login: NatsLogin) -> None:
        self.login = login
        self._lock = threading.Lock()  # guards the loop, its thread and its owner
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._owner = os.getpid()
        self._closed = False
        # The rest belongs to the loop's thread.
        self._connection: Any = None
        self._lost = asyncio.Event()
        self._connecting: asyncio.Lock | None = None
        self._complaint = ""
        self._failures = 0
        self._last_failure = 0.0

    # Between threads

    def run(self, work: Coroutine[Any, Any, T], limit: float) -> T:
        """Do ``work`` on the loop and wait for it, at most ``limit`` seconds."""
        try:
            limit = time_left(limit)
            future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, limit), self._running_loop())
        except BaseException:
            work.close()
            raise
        try:
            return future.result(limit + 5)
        except (FutureTimeout, TimeoutError, FutureCancelled) as error:
            if isinstance(error, VfsstreamError):
                raise
            raise self._silence(error) from error
        except (VfsstreamError, JetStreamError):
            raise
        except Exception as error:
            raise self.translate(error) from error
        finally:
            future.cancel()

    def start(self, work: Coroutine[Any, Any, None]) -> Any:
        """Begin ``work`` on the loop; gives a future."""
        return asyncio.run_coroutine_threadsafe(work, self._running_loop())

    def _silence(self, error: BaseException) -> StoreError:
        where = f"nats server {self.login.address}"
        if "permissions violation" in self._complaint.lower():
            return AccessDenied(f"{where}: {self._complaint}", hint="the account needs JetStream and the bucket")
        text = f"{where} did not answer in time" + (f": {self._complaint}" if self._complaint else "")
        return StoreError(text, retryable=True)

    def translate(self, error: Exception) -> Exception:
        """Whatever nats-py raised, as one of ours."""
        if isinstance(error, (VfsstreamError, JetStreamError)):
            return error
        text = str(error).removeprefix("nats: ").strip("'\" ") or type(error).__name__
        where = f"nats server {self.login.address}"
        low = text.lower()
        if "authorization" in low or "authentication" in low or "permissions violation" in low:
            return AccessDenied(f"{where}: {text}", hint="check the credentials of the replica")
        if "no responders" in low:
            return StoreError(
                f"{where}: nobody answers for JetStream", retryable=True, hint="is JetStream enabled?"
            )
        if isinstance(error, ssl.SSLCertVerificationError):
            return StoreError(f"{where}: {text}", hint="set root-cas to the certificate of your authority")
        return StoreError(f"{where}: {text}", retryable=True)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise StoreError(f"the store on nats server {self.login.address} is closed")
            if self._owner != os.getpid():
                self._owner = os.getpid()
                self._loop = self._thread = self._connection = self._connecting = None
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="vfsstream-nats", daemon=True)
                self._thread.start()
            return self._loop

    def close(self) -> None:
        """End the connection, the loop and the thread. Idempotent."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is None or thread is None or self._owner != os.getpid():
            return
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._hang_up(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()

    async def _hang_up(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(connection.close(), 3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # On the loop

    async def connection(self) -> Any:
        """The connection, made anew when it was lost."""
        if self._connection is not None and self._connection.is_connected:
            return self._connection
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if self._connection is not None and self._connection.is_connected:
                return self._connection
            await self._pause()
            self._connection = await self._connect()
            self._failures = 0
            return self._connection

    async def _pause(self) -> None:
        if self._failures and self.login.reconnect_wait:
            await asyncio.sleep(max(0.0, self._last_failure + self.login.reconnect_wait - time.monotonic()))

    async def _connect(self) -> Any:
        from nats.aio.client import Client

        self._complaint = ""
        options = self._options()
        broken: Exception | None = None
        for server in self.login.servers:
            lost = asyncio.Event()

            async def ended(lost: asyncio.Event = lost) -> None:
                lost.set()

            client = Client()
            try:
                opened = client.connect(server, disconnected_cb=ended, closed_cb=ended, **options)
                await asyncio.wait_for(opened, self.login.timeout)
            except Exception as error:
                broken = error
                await _abandon(client)
            else:
                self._lost = lost
                return client
        assert broken is not None, "no server"
        self._failures += 1
        self._last_failure = time.monotonic()
        raise self._refused(broken) from broken

    def _refused(self, error: Exception) -> Exception:
        where = f"cannot connect to nats server {self.login.address}"
        if isinstance(error, asyncio.TimeoutError):
            return StoreError(f"{where}: no answer within {self.login.timeout:g} s", retryable=True)
        if (
            self.login.secure
            and not self.login.client_cert
            and _WANTS_CERTIFICATE.search(f"{error} {self._complaint}")
        ):
            asks = "set client-cert and client-key if the server asks for a certificate"
            return StoreError(f"{where}: it refused us after TLS had begun", retryable=True, hint=asks)
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            reason = error.strerror or str(error)
            known = self.login.max_reconnects < 0 or self._failures <= self.login.max_reconnects
            return StoreError(f"{where}: {reason}", retryable=known)
        if type(error).__name__ == "NoServersError":
            known = self.login.max_reconnects < 0 or self._failures <= self.login.max_reconnects
            reason = "connection refused" if "Errno 111" in self._complaint else self._complaint or "no answer"
            return StoreError(f"{where}: {reason}", retryable=known)
        if self._complaint and "unexpected eof" in str(error).lower():
            return self.translate(RuntimeError(self._complaint))
        return self.translate(error)

    def _options(self) -> dict[str, Any]:
        login = self.login
        login.check_files()

        async def complain(error: Exception) -> None:
            self._complaint = str(error).removeprefix("nats: ").strip("'\" ")

        options: dict[str, Any] = {
            "error_cb": complain,
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0.05,
            "connect_timeout": login.timeout,
            "ping_interval": 20,
            "max_outstanding_pings": 2,
            "pending_size": 8 << 20,
            "name": "vfsstream",
        }
        if login.secure:
            options["tls"] = login.tls_context()
        options.update(login.credentials())
        return options

    async def unless_lost(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for an answer, but not for one that cannot come: nats-py lets requests of a dead connection time out."""
        lost = self._lost
        answer, end = asyncio.ensure_future(work), asyncio.ensure_future(lost.wait())
        try:
            await asyncio.wait({answer, end}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
        finally:
            answer.cancel()
            end.cancel()
        why = self._complaint or "the server closed it"
        raise StoreError(f"lost the connection to nats server {self.login.address}: {why}", retryable=True)

    async def ask(self, subject: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """A request to JetStream's API; the answer without its envelope."""
        connection = await self.connection()
        data = json.dumps(request).encode()
        answer = await self.unless_lost(connection.request(f"$JS.API.{subject}", data, timeout=self.login.timeout))
        return _opened(answer.data)

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Store a message; its sequence number."""
        connection = await self.connection()
        fields = dict(headers or {}) or None
        answer = await self.unless_lost(
            connection.request(subject, data, timeout=self.login.timeout, headers=fields)
        )
        return int(_opened(answer.data)["seq"])

    async def message(self, stream: str, **which: Any) -> Message:
        """One message, by ``seq`` or as ``last_by_subj``. Raises JetStreamError when there is none."""
        found = (await self.ask(f"STREAM.MSG.GET.{stream}", which))["message"]
        data = base64.b64decode(found.get("data") or "")
        return Message(int(found["seq"]), found["subject"], data, {})

    async def consume(
        self, stream: str, subject: str, *, policy: str, start: int = 0, headers_only: bool = False
    ) -> AsyncGenerator[Message, None]:
        """The messages of a subject in order. With any policy but ``new`` it ends with the last one there is.

        Raises:
            StoreError: the flow broke off or has a gap.
        """
        connection = await self.connection()
        subscription = await connection.subscribe(connection.new_inbox())
        name = ""
        try:
            config = _consumer(subscription.subject, subject, policy, start, headers_only)
            made = await self.ask(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
            name = made["name"]
            if policy != "new" and made.get("num_pending", 0) == 0 and made["delivered"]["consumer_seq"] == 0:
                return
            async for message in self._flow(connection, subscription):
                yield message
                if policy != "new" and message.pending == 0:
                    return
        finally:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()
                if name and connection.is_connected:
                    await connection.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}")

    async def _flow(self, connection: Any, subscription: Any) -> AsyncGenerator[Message, None]:
        expected, heard = 1, time.monotonic()
        while True:
            try:
                raw = await subscription.next_msg(timeout=1.0)
            except TimeoutError:
                if not connection.is_connected or time.monotonic() - heard > 3 * IDLE_HEARTBEAT:
                    raise StoreError(
                        f"nats server {self.login.address}: the flow of messages broke off", retryable=True
                    ) from None
                continue
            heard = time.monotonic()
            headers = raw.headers or {}
            if headers.get("Status"):
                if raw.reply:  # flow control asks whether we still follow
                    await connection.publish(raw.reply)
                continue
            fields = raw.reply.split(".")[-7:]  # … delivered, stream sequence, consumer sequence, time, pending
            sequence, position, stamp, pending = (int(field) for field in fields[-4:])
            if position != expected:
                raise StoreError(
                    f"nats server {self.login.address}: messages were lost on the way", retryable=True
                )
            expected += 1
            yield Message(sequence, raw.subject, raw.data, headers, pending, stamp)


async def _abandon(client: Any) -> None:
    """Close what a connection that came to nothing left open; nats-py forgets its socket."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(client.close(), 1)
    transport = getattr(client, "_transport", None)
    if transport is not None:
        with contextlib.suppress(Exception):
            transport.close()
            await asyncio.sleep(0)


def _consumer(inbox: str, subject: str, policy: str, start: int, headers_only: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "deliver_subject": inbox,
        "deliver_policy": policy,
        "filter_subject": subject,
        "ack_policy": "none",
        "max_deliver": 1,
        "replay_policy": "instant",
        "flow_control": True,
        "idle_heartbeat": int(IDLE_HEARTBEAT * 1e9),
        "inactive_threshold": int(30e9),
        "mem_storage": True,
        "num_replicas": 1,
    }
    if start:
        config["opt_start_seq"] = start
    if headers_only:
        config["headers_only"] = True
    return config


def _opened(data: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(data)
    error = answer.get("error")
    if error:
        raise JetStreamError(
            int(error.get("code", 0)), int(error.get("err_code", 0)), str(error.get("description", "refused"))
        )
    return answer
