"""ListObjectsV2 in our own words: the SDK takes ten times as long to ask and to read the answer."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn
from urllib.parse import quote, unquote_plus

from vfsstream.errors import StoreError
from vfsstream.stores.base import ObjectInfo

__all__ = ["Page", "listing_query", "parse_listing"]


def listing_query(
    prefix: str, *, start_after: str | None = None, delimiter: str | None = None, token: str | None = None
) -> str:
    """The query of one page, its parameters in the order in which they are signed."""
    parameters = {
        "continuation-token": token,
        "delimiter": delimiter,
        "encoding-type": "url",  # a key may hold characters that XML cannot
        "list-type": "2",
        "prefix": prefix,
        "start-after": start_after,
    }
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items() if value is not None)


@dataclass(slots=True)
class Page:
    """One answer.

    Attributes:
        objects: with their whole keys and no metadata.
        prefixes: what the delimiter rolled up, whole.
        token: asks for the next page; ``None`` on the last.
    """

    objects: list[ObjectInfo] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    token: str | None = None


class _Target:
    """Receives the parser's events; keeps the texts of the item that is open."""

    def __init__(self) -> None:
        self.page = Page()
        self.is_listing = self.truncated = self.encoded = False
        self._texts: dict[str, str] = {}
        self._depth = 0
        self._text: list[str] = []

    def doctype(self, name: str, public: str | None, system: str | None) -> NoReturn:
        raise StoreError("the listing has a document type declaration, which S3 never sends")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._text.clear()
        if self._depth == 1:
            self.is_listing = _local(tag) == "ListBucketResult"

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        name, text = _local(tag), "".join(self._text)
        self._text.clear()
        if self._depth == 3:
            self._texts[name] = text
        elif self._depth == 2:
            self._take(name, text)
            self._texts = {}
        self._depth -= 1

    def _take(self, name: str, text: str) -> None:
        texts = self._texts
        if name == "Contents":
            self.page.objects.append(
                ObjectInfo(
                    texts["Key"],
                    int(texts.get("Size", 0)),
                    _time(texts.get("LastModified")),
                    {},
                    texts.get("ETag"),
                )
            )
        elif name == "CommonPrefixes":
            self.page.prefixes.append(texts["Prefix"])
        elif name == "EncodingType":
            self.encoded = text == "url"
        elif name == "IsTruncated":
            self.truncated = text.strip().lower() == "true"
        elif name == "NextContinuationToken":
            self.page.token = text or None

    def close(self) -> None:
        """The document ended."""


def parse_listing(body: bytes) -> Page:
    """Read an answer.

    Raises:
        StoreError: it is no listing; retryable, since a cut answer looks so too.
    """
    target = _Target()
    parser = ET.XMLParser(target=target)
    try:
        parser.feed(body)
        parser.close()
    except (ET.ParseError, KeyError, ValueError) as error:
        raise StoreError(f"the listing cannot be read: {error}", retryable=True) from error
    if not target.is_listing:
        raise StoreError("the answer is no listing", retryable=True, hint="check endpoint and bucket")
    page = target.page
    if not target.truncated:
        page.token = None
    if target.encoded:
        page.objects = [
            ObjectInfo(unquote_plus(o.key), o.size, o.modified, o.metadata, o.etag) for o in page.objects
        ]
        page.prefixes = [unquote_plus(prefix) for prefix in page.prefixes]
    return page


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _time(text: str | None) -> datetime | None:
    try:
        parsed = datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
