"""The answer to a PROPFIND, read as it arrives; document types and entities are refused."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

from vfsstream.errors import StoreError

__all__ = ["PROPFIND", "Entry", "parse_multistatus"]

PROPFIND = (
    b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/>'
    b"<getlastmodified/><getetag/></prop></propfind>"
)
"""The request body: the four properties we use."""

_DAV = "{DAV:}"


@dataclass(slots=True)
class Entry:
    """One resource of a listing; ``path`` is decoded and absolute on its server."""

    path: str = ""
    is_collection: bool = False
    size: int = 0
    modified: datetime | None = None
    etag: str | None = None
    status: int = 200

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rstrip("/").rpartition("/")[2]


class _Target:
    """Receives the parser's events and keeps nothing but the entry that is open."""

    def __init__(self) -> None:
        self.done: list[Entry] = []
        self._entry: Entry | None = None
        self._found = Entry()
        self._text: list[str] = []
        self._status = 200
        self._inside: list[str] = []

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise StoreError("the WebDAV server sent a document type declaration, which no listing has")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._inside.append(tag)
        self._text.clear()
        if tag == f"{_DAV}response":
            self._entry = Entry()
        elif tag == f"{_DAV}propstat":
            self._found, self._status = Entry(), 200
        elif tag == f"{_DAV}collection" and f"{_DAV}resourcetype" in self._inside:
            self._found.is_collection = True

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        self._inside.pop()
        text = "".join(self._text).strip()
        self._text.clear()
        entry = self._entry
        if entry is None or not tag.startswith(_DAV):
            return
        name = tag[len(_DAV) :]
        if name == "href" and not entry.path:
            entry.path = unquote(urlsplit(text).path)
        elif name == "status":
            self._status = _status(text)
            if f"{_DAV}propstat" not in self._inside:
                entry.status = self._status
        elif name == "propstat" and 200 <= self._status < 300:
            self._take(entry)
        elif name == "response":
            self.done.append(entry)
            self._entry = None
        else:
            self._property(name, text)

    def _property(self, name: str, text: str) -> None:
        if name == "getcontentlength" and text.isascii() and text.isdigit():
            self._found.size = int(text)
        elif name == "getlastmodified":
            self._found.modified = _time(text)
        elif name == "getetag":
            self._found.etag = text or None

    def _take(self, entry: Entry) -> None:
        found = self._found
        entry.is_collection = entry.is_collection or found.is_collection
        entry.size = found.size or entry.size
        entry.modified = found.modified or entry.modified
        entry.etag = found.etag or entry.etag

    def close(self) -> None:
        """The document ended."""


def parse_multistatus(chunks: Iterable[bytes]) -> Iterator[Entry]:
    """The entries of a multistatus answer.

    Raises:
        StoreError: it is not well-formed; retryable, since a cut answer looks so too.
    """
    target = _Target()
    parser = ET.XMLParser(target=target)
    try:
        for chunk in chunks:
            parser.feed(chunk)
            ready, target.done = target.done, []
            yield from ready
        parser.close()
    except ET.ParseError as error:
        raise StoreError(f"the WebDAV server's listing is not well-formed: {error}", retryable=True) from error
    yield from target.done


def _status(text: str) -> int:
    parts = text.split()
    return int(parts[1]) if len(parts) > 1 and parts[1].isascii() and parts[1].isdigit() else 200


def _time(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except ValueError:
        return None
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
