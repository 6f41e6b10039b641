"""WebDAV: objects as files on an HTTP server.

A put goes to a temporary name and is moved over the final one, so nobody sees half an object; ranges are read as
ranges. The protocol has no place for an object's own time: listings give the server's modification time.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, NoReturn
from urllib.parse import quote, unquote, urlsplit

from vfsstream.errors import AccessDenied, AlreadyExists, NotFound, StoreError
from vfsstream.stores.base import Capabilities, Fetched, ObjectInfo, Source, Store, chunks_of
from vfsstream.stores.byterange import part_of, range_header, whole_size
from vfsstream.stores.extras import require
from vfsstream.stores.http import HttpPool, is_retryable_status, lowered, transport_error
from vfsstream.stores.leftovers import TEMP_SUFFIX, Leftovers, temporary_name
from vfsstream.stores.webdav_auth import Authenticator, parse_challenges
from vfsstream.stores.webdav_url import open_url
from vfsstream.stores.webdav_xml import PROPFIND, Entry, parse_multistatus

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = ["WebDavStore", "open_url"]


_SAFE = "/-_.~!$&'()*+,;=:@"
_CHUNK = 1 << 20
_SPOOL = 4 << 20
_NO_MOVE = frozenset({403, 405, 501})


class WebDavStore(Store):
    """Objects as files below a URL, which need not exist before the first put.

    Args:
        base: ``http://host[:port][/prefix]``, without credentials.
        root: path below it.
        user: for Basic or Digest, whichever the server asks for.
    """

    kind = "webdav"
    capabilities = Capabilities(cheap_miss=True, max_concurrency=16)

    def __init__(self, base: str, root: str = "", user: str | None = None, password: str | None = None) -> None:
        require("urllib3", "webdav", "webdav:// replicas")
        parts = urlsplit(base)
        self.server = f"{parts.scheme}://{parts.netloc}"
        path = posixpath.normpath(posixpath.join("/", unquote(parts.path), root.lstrip("/")))
        self.root = "/" + path.strip("/")
        self._auth = Authenticator(user, password)
        self._pool = HttpPool()
        self._can_move = True
        self._leftovers = Leftovers()

    def _path(self, key: str) -> str:
        if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
            raise StoreError(f"invalid key {key!r} for {self.describe()}")
        return posixpath.join(self.root, key)

    # Requests

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | IO[bytes] | None = None,
    ) -> Iterator[BaseHTTPResponse]:
        target = quote(path, safe=_SAFE)
        for attempt in range(3):
            sent = self._auth.header(method, target)
            fields = {"User-Agent": "vfsstream", **(headers or {})}
            if sent is not None:
                fields["Authorization"] = sent
            if body is not None and not isinstance(body, bytes):
                body.seek(0)
            with self._pool.open(method, self.server + target, headers=fields, body=body) as response:
                if response.status == 401 and attempt < 2:
                    challenges = parse_challenges(", ".join(response.headers.getlist("WWW-Authenticate")))
                    if self._auth.learn(challenges, sent):
                        _drain(response)
                        continue
                yield response
                return

    def _simple(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> int:
        """A request without bodies; its status."""
        with self._request(method, path, headers) as response:
            with transport_error(self.server):
                _drain(response)
            return response.status

    def _fail(self, status: int, key: str, action: str) -> NoReturn:
        where = f"{self.describe()}: cannot {action} {key or 'the root'}"
        if status == 401:
            hint = "check webdav-username and webdav-password"
            raise AccessDenied(f"{where}: the server refused the credentials (HTTP 401)", hint=hint)
        if status == 403:
            raise AccessDenied(f"{where}: forbidden (HTTP 403)", hint="check the user's permissions on the server")
        if status in (404, 410):
            raise NotFound(key)
        hint_ = {507: "free some space on the server", 423: "somebody holds a lock on it"}.get(status)
        if status in (301, 302, 307, 308):
            hint_ = "the server redirects: give the URL it redirects to"
        raise StoreError(
            f"{where}: HTTP {status}", retryable=is_retryable_status(status) or status == 423, hint=hint_
        )

    # Looking

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[ObjectInfo]:
        found = []
        for entry in self._entries(prefix):
            key = prefix + entry.name
            if entry.is_collection:
                continue
            if entry.name.endswith(TEMP_SUFFIX):
                self._leftovers.look(key, entry.modified)
                continue
            if start_after is None or key > start_after:
                found.append(ObjectInfo(key, entry.size, entry.modified, {}, entry.etag))
        return iter(sorted(found, key=lambda info: info.key))

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        return iter(sorted(entry.name for entry in self._entries(prefix) if entry.is_collection))

    def _entries(self, prefix: str) -> Iterator[Entry]:
        directory = posixpath.join(self.root, prefix).rstrip("/") + "/"
        try:
            yield from self._propfind(directory, "1", prefix, "list")
        except NotFound:
            return

    def _propfind(self, path: str, depth: str, key: str, action: str) -> Iterator[Entry]:
        headers = {"Depth": depth, "Content-Type": "application/xml; charset=utf-8"}
        with self._request("PROPFIND", path, headers, PROPFIND) as response:
            if response.status != 207:
                _drain(response)
                self._fail(response.status, key, action)
            for entry in parse_multistatus(self._pool.stream(response, self.server)):
                itself = entry.path.rstrip("/") == path.rstrip("/")
                if itself == (depth == "0") and 200 <= entry.status < 300:
                    yield entry

    def head(self, key: str) -> ObjectInfo:
        for entry in self._propfind(self._path(key), "0", key, "stat"):
            if not entry.is_collection:
                return ObjectInfo(key, entry.size, entry.modified, {}, entry.etag)
        raise NotFound(key)

    # Reading

    def fetch(self, key: str, offset: int = 0, size: int | None = None) -> Fetched:
        if offset < 0 and size is not None:
            raise ValueError("a range from the end reads to the end: size must be None")
        if size == 0:
            return Fetched(b"", self.head(key).size)
        with self._get(key, offset, size) as response:
            if response.status == 416:
                _drain(response)
                return self._outside(key, offset, whole_size(lowered(response.headers)))
            start, total = self._placed(response, key, offset, size)
            if start is None:  # the server ignores ranges
                if total is None and offset < 0:
                    raise StoreError(f"{self.describe()}: the server neither reads ranges nor tells sizes")
                start = max(0, (total or 0) + offset) if offset < 0 else offset
                self._skip(response, start)
            wanted = size if size is not None else None if total is None else max(0, total - start)
            data = self._read(response, wanted)
            if wanted is not None and total is not None and len(data) < min(wanted, max(0, total - start)):
                text = f"{self.describe()}: {key}: the answer ended after {len(data)} of {wanted} bytes"
                raise StoreError(text, retryable=True)
            return Fetched(data, total)

    def _outside(self, key: str, offset: int, total: int | None) -> Fetched:
        """The server says that there is nothing in the range."""
        known = self.head(key).size if total is None else total
        if offset < 0 and known > 0:  # it does not know ranges from the end, or not such long ones
            return self.fetch(key, max(0, known + offset))
        return Fetched(b"", known)

    @contextmanager
    def _get(self, key: str, offset: int, size: int | None) -> Iterator[BaseHTTPResponse]:
        headers = {"Accept-Encoding": "identity"}
        if offset or size is not None:
            headers["Range"] = range_header(offset, size)
        with self._request("GET", self._path(key), headers) as response:
            if response.status not in (200, 206, 416):
                _drain(response)
                self._fail(response.status, key, "read")
            yield response

    def _placed(
        self, response: BaseHTTPResponse, key: str, offset: int, size: int | None
    ) -> tuple[int | None, int | None]:
        """Where the body begins (``None``: at the object's start, ranges are ignored), and the object's size."""
        stated = lowered(response.headers)
        span = part_of(response.status, stated, offset, size, f"{self.describe()}/{key}")
        if span is not None:
            return span.first, span.total
        length = stated.get("content-length", "")
        return None, int(length) if length.isdigit() else None

    def _skip(self, response: BaseHTTPResponse, count: int) -> None:
        while count > 0:
            with transport_error(self.server):
                part = response.read(min(count, _CHUNK), decode_content=False)
            if not part:
                return
            count -= len(part)

    def _read(self, response: BaseHTTPResponse, size: int | None) -> bytes:
        with transport_error(self.server):
            if size is None:
                return response.read(decode_content=False)
            parts = []
            while size > 0 and (part := response.read(size, decode_content=False)):
                parts.append(part)
                size -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        chunks = self._chunks(key, offset)
        first = next(chunks, None)  # a missing object is an error now, not later
        return _following(first, chunks)

    def _chunks(self, key: str, offset: int) -> Iterator[bytes]:
        with self._get(key, offset, None) as response:
            if response.status == 416:
                return
            if self._placed(response, key, offset, None)[0] is None:
                self._skip(response, offset)
            yield from self._pool.stream(response, self.server)

    # Changing

    def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        path = self._path(key)
        with _sized(source) as (body, size):
            if not self._can_move:
                self._upload(path, key, body, size, if_absent)
                return ObjectInfo(key, size, datetime.now(UTC))
            temp = temporary_name(path)
            for left in self._leftovers.take():
                with suppress(StoreError):
                    self._simple("DELETE", self._path(left))
            try:
                self._upload(temp, key, body, size, False)
                moved = self._move(temp, path, key, if_absent)
            except BaseException:
                with suppress(Exception):
                    self._simple("DELETE", temp)
                raise
            if not moved:
                with suppress(Exception):
                    self._simple("DELETE", temp)
                self._upload(path, key, body, size, if_absent)
        return ObjectInfo(key, size, datetime.now(UTC))

    def _upload(self, path: str, key: str, body: bytes | IO[bytes], size: int, if_absent: bool) -> None:
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        if if_absent:
            headers["If-None-Match"] = "*"
        status = self._put_once(path, headers, body)
        if status in (404, 409, 500):  # the collection is missing; servers differ in how they say it
            if self._make_collections(posixpath.dirname(path), key) or status != 500:
                status = self._put_once(path, headers, body)
            if status in (404, 409):
                raise StoreError(f"{self.describe()}: cannot write {key}: its collection cannot be made")
        if status == 412 and if_absent:
            raise AlreadyExists(key)
        if not 200 <= status < 300:
            self._fail(status, key, "write")

    def _put_once(self, path: str, headers: Mapping[str, str], body: bytes | IO[bytes]) -> int:
        with self._request("PUT", path, headers, body) as response:
            with transport_error(self.server):
                _drain(response)
            return response.status

    def _make_collections(self, directory: str, key: str) -> bool:
        """Make a collection and those above it; ``True`` if anything was missing."""
        status = self._simple("MKCOL", directory.rstrip("/") + "/")
        if status in (404, 409) and directory.strip("/"):
            self._make_collections(posixpath.dirname(directory.rstrip("/")), key)
            status = self._simple("MKCOL", directory.rstrip("/") + "/")
        if status == 405:
            return False
        if not 200 <= status < 300 and not self._is_collection(directory):  # lost a race for it, or refused
            self._fail(status, key, "make the collection of")
        return True

    def _is_collection(self, directory: str) -> bool:
        with suppress(NotFound, AccessDenied):
            return any(entry.is_collection for entry in self._propfind(directory + "/", "0", directory, "stat"))
        return False

    def _move(self, temp: str, path: str, key: str, if_absent: bool) -> bool:
        """Move into place. ``False``: this server does not move, nothing happened."""
        headers = {
            "Destination": self.server + quote(path, safe=_SAFE),
            "Overwrite": "F" if if_absent else "T",
        }
        status = self._simple("MOVE", temp, headers)
        if status == 412 and if_absent:
            raise AlreadyExists(key)
        if status in _NO_MOVE:
            self._can_move = status == 403  # which may concern this one name only
            return False
        if status not in (200, 201, 204):
            if status == 404:
                raise StoreError(f"{self.describe()}: {key} vanished while it was stored", retryable=True)
            self._fail(status, key, "write")
        return True

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        workers = max(1, min(8, len(wanted)))
        with ThreadPoolExecutor(workers, thread_name_prefix="vfsstream-webdav-delete") as pool:
            denied = [error for error in pool.map(self._remove, wanted) if error is not None]
        if denied:
            raise denied[0]

    def _remove(self, key: str) -> AccessDenied | None:
        status = self._simple("DELETE", self._path(key))
        if status in (404, 410) or 200 <= status < 300:
            return None
        try:
            self._fail(status, key, "delete")
        except AccessDenied as error:
            return error

    def remove_directory(self, prefix: str) -> None:
        directory = self._path(prefix.rstrip("/")) + "/"
        try:
            if any(True for _ in self._propfind(directory, "1", prefix, "list")):
                return  # DELETE takes everything below with it
        except NotFound:
            return
        status = self._simple("DELETE", directory)
        if status not in (404, 410) and not 200 <= status < 300:
            self._fail(status, prefix, "remove the directory")

    def describe(self) -> str:
        scheme, _, host = self.server.partition("://")
        return f"{'webdavs' if scheme == 'https' else 'webdav'}://{host}{self.root.rstrip('/')}"

    def close(self) -> None:
        self._pool.close()


@contextmanager
def _sized(source: Source) -> Iterator[tuple[bytes | IO[bytes], int]]:
    """A source of known length: bodies without one are refused or lost by several servers."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        yield data, len(data)
        return
    with tempfile.SpooledTemporaryFile(_SPOOL) as spool:
        for chunk in chunks_of(source):
            spool.write(chunk)
        yield spool, spool.tell()


def _following(first: bytes | None, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first is not None:
        yield first
    yield from rest


def _drain(response: BaseHTTPResponse) -> None:
    with suppress(Exception):
        response.read(1 << 16, decode_content=False)
