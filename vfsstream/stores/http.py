"""One pool of kept-alive HTTP connections, for the stores that speak HTTP.

The pool sends what it is given: it never follows a redirect, never retries and never rewrites a path (a key may
hold ``.`` and empty components). What goes wrong on the way becomes a retryable StoreError that names the host.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vfsstream.errors import StoreError
from vfsstream.stores.deadline import time_left

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager
    from urllib3.connectionpool import HTTPConnectionPool

__all__ = [
    "CONNECT_TIMEOUT",
    "PROXY_VARIABLES",
    "READ_TIMEOUT",
    "Answer",
    "HttpPool",
    "is_retryable_status",
    "lowered",
    "transport_error",
]

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 30.0
"""Seconds that one connect and one socket read may take, unless the operation's own deadline is nearer."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def lowered(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by their names in lower case."""
    return {name.lower(): value for name, value in headers.items()}


def is_retryable_status(status: int) -> bool:
    """Whether the same request may succeed later: timeouts, throttling, and faults of the server."""
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))


class HttpPool:
    """Pooled connections to any number of hosts. Thread-safe; a forked child starts with an empty pool.

    Args:
        verify: check TLS certificates.
        ca_bundle: file of certificates to trust instead of the usual ones.
        size: connections kept open per host; more may be open for a moment.
    """

    def __init__(self, *, verify: bool = True, ca_bundle: str | None = None, size: int = 64) -> None:
        self._verify, self._ca_bundle, self._size = verify, ca_bundle, size
        self._lock = threading.Lock()  # guards _managers and _owner
        self._managers: dict[str | None, PoolManager] = {}
        self._owner = os.getpid()
        self._proxies: dict[tuple[str, str], str | None] = {}

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | IO[bytes] | None = None,
        read_timeout: float = READ_TIMEOUT,
    ) -> Answer:
        """Send a request and read the whole answer, whatever its status.

        Raises:
            StoreError: no complete answer came; retryable.
        """
        with self.open(method, url, headers=headers, body=body, read_timeout=read_timeout) as response:
            with transport_error(url):
                data = response.read(decode_content=False)
            return Answer(response.status, lowered(response.headers), data)

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | IO[bytes] | None = None,
        read_timeout: float = READ_TIMEOUT,
    ) -> Iterator[BaseHTTPResponse]:
        """The answer with its body unread. Left early, the connection is closed; read to its end, it is kept."""
        import urllib3

        parts = urlsplit(url)
        target = url[len(parts.scheme) + 3 + len(parts.netloc) :] or "/"
        timeout = urllib3.Timeout(connect=time_left(CONNECT_TIMEOUT), read=time_left(read_timeout))
        with transport_error(url):
            response = self._pool(parts.scheme, parts.hostname or "", parts.port).urlopen(
                method,
                url if parts.scheme == "http" and self._proxy("http", parts.netloc) else target,
                body=body,
                headers=headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=timeout,
                preload_content=False,
                decode_content=False,
            )
        try:
            yield response
        finally:
            if not response.closed:  # not read to its end: what is left would be taken for the next answer
                response.close()
            response.release_conn()

    def stream(self, response: BaseHTTPResponse, url: str) -> Iterator[bytes]:
        """The body of an open answer in chunks of at most 1 MiB; a body cut short is an error."""
        while True:
            with transport_error(url):
                chunk = response.read(_CHUNK, decode_content=False)
            if not chunk:
                return
            yield chunk

    def close(self) -> None:
        """Close the idle connections; the pool may be used again."""
        with self._lock:
            managers, self._managers = list(self._managers.values()), {}
        for manager in managers:
            manager.clear()

    def _pool(self, scheme: str, host: str, port: int | None) -> HTTPConnectionPool:
        proxy = self._proxy(scheme, host if port is None else f"{host}:{port}")
        with self._lock:
            if self._owner != os.getpid():  # sockets shared with the parent would mix two conversations
                self._managers, self._owner = {}, os.getpid()
            manager = self._managers.get(proxy)
            if manager is None:
                manager = self._managers[proxy] = self._manager(proxy)
        return manager.connection_from_host(host, port=port, scheme=scheme)

    def _manager(self, proxy: str | None) -> PoolManager:
        import urllib3

        settings: dict[str, Any] = {"maxsize": self._size, "num_pools": 32, "retries": False}
        if not self._verify:
            settings.update(cert_reqs="CERT_NONE", assert_hostname=False)
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        else:
            settings.update(cert_reqs="CERT_REQUIRED", ca_certs=self._ca_bundle)
        return urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)

    def _proxy(self, scheme: str, netloc: str) -> str | None:
        try:
            return self._proxies[scheme, netloc]
        except KeyError:
            proxy = self._proxies[scheme, netloc] = _proxy_for(scheme, netloc)
            return proxy


PROXY_VARIABLES = tuple(
    name for word in ("http", "https", "all", "no") for name in (f"{word}_proxy", f"{word.upper()}_PROXY")
)
"""What in the environment decides between proxies: connections made under other values are not the same."""


def _proxy_for(scheme: str, netloc: str) -> str | None:
    from urllib.request import getproxies, proxy_bypass

    proxy = getproxies().get(scheme)
    if not proxy or proxy_bypass(netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


@contextlib.contextmanager
def transport_error(url: str) -> Iterator[None]:
    """Turn what urllib3 raises inside into a retryable StoreError that names the host and the cause."""
    import urllib3.exceptions as broken

    try:
        yield
    except (broken.HTTPError, OSError) as error:
        if isinstance(error, StoreError):
            raise
        host = urlsplit(url).netloc
        raise StoreError(f"{host}: {_reason(error)}", retryable=_may_pass(error), hint=_advice(error)) from error


def _reason(error: BaseException) -> str:
    import urllib3.exceptions as broken

    if isinstance(error, broken.NameResolutionError):
        return "host name not found"
    if isinstance(error, broken.ConnectTimeoutError) and not isinstance(error, broken.NewConnectionError):
        return "no connection in time"
    if isinstance(error, broken.ReadTimeoutError):
        return "no answer in time"
    if isinstance(error, broken.IncompleteRead):
        return "the connection ended before the answer did"
    if isinstance(error, broken.SSLError):
        return f"TLS failed: {error}"
    text = str(error)
    for sign, meaning in (
        ("Connection refused", "connection refused"),
        ("Connection reset", "connection reset"),
        ("IncompleteRead", "the connection ended before the answer did"),
        ("Remote end closed", "the server closed the connection without an answer"),
        ("Broken pipe", "the server closed the connection"),
        ("timed out", "no answer in time"),
    ):
        if sign in text:
            return meaning
    return text or type(error).__name__


def _may_pass(error: BaseException) -> bool:
    import urllib3.exceptions as broken

    return not (isinstance(error, broken.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error))


def _advice(error: BaseException) -> str | None:
    import urllib3.exceptions as broken

    if isinstance(error, broken.NameResolutionError):
        return "check the host name of the URL or endpoint"
    if isinstance(error, broken.SSLError):
        if "WRONG_VERSION_NUMBER" in str(error) or "wrong version number" in str(error):
            return "the server speaks plain HTTP: write http:// in the endpoint"
        return "set AWS_CA_BUNDLE or SSL_CERT_FILE to the certificate of your authority"
    return None
