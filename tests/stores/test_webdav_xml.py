"""Listings as WebDAV servers write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vfsstream.errors import StoreError
from vfsstream.stores.webdav_xml import Entry, parse_multistatus

APACHE = b"""<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:"><D:href>/db%201/ltx/0/</D:href><D:propstat><D:prop>
<lp1:resourcetype><D:collection/></lp1:resourcetype>
<lp1:getlastmodified>Sun, 22 Nov 2026 06:01:37 GMT</lp1:getlastmodified>
</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
<D:propstat><D:prop><D:getcontentlength/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat></D:response>
<D:response xmlns:lp1="DAV:"><D:href>http://h/db%201/ltx/0/a%25b.ltx</D:href><D:propstat><D:prop>
<lp1:resourcetype/><lp1:getcontentlength>602</lp1:getcontentlength><lp1:getetag>"25a-1"</lp1:getetag>
<lp1:getlastmodified>Sun, 22 Nov 2026 06:01:38 GMT</lp1:getlastmodified></D:prop>
<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<D:response><D:href>/gone</D:href><D:status>HTTP/1.1 403 Forbidden</D:status></D:response>
</D:multistatus>"""

FOUND = [
    Entry("/db 1/ltx/0/", True, 0, datetime(2026, 11, 22, 6, 1, 37, tzinfo=UTC), None, 200),
    Entry("/db 1/ltx/0/a%b.ltx", False, 602, datetime(2026, 11, 22, 6, 1, 38, tzinfo=UTC), '"25a-1"', 200),
    Entry("/gone", status=403),
]


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_listing_in_pieces_of_any_size(step: int) -> None:
    pieces = (APACHE[at : at + step] for at in range(0, len(APACHE), step))
    found = [*parse_multistatus(pieces)]
    assert found == FOUND
    assert [entry.name for entry in found] == ["0", "a%b.ltx", "gone"]


def test_a_default_namespace_and_senseless_values() -> None:
    text = b"""<multistatus xmlns="DAV:"><response><href>/x</href><propstat>
      <prop><getcontentlength>-5</getcontentlength>
      <getlastmodified>yesterday</getlastmodified><getetag></getetag></prop></propstat></response></multistatus>"""
    assert [*parse_multistatus([text])] == [Entry("/x")]


def test_entries_come_before_the_document_ends() -> None:
    end = APACHE.index(b"</D:response>") + len(b"</D:response>")
    entries = parse_multistatus(iter([APACHE[:end], b"<<<"]))
    assert next(entries) == FOUND[0]
    with pytest.raises(StoreError, match="not well-formed") as caught:
        list(entries)
    assert caught.value.retryable, "a cut answer looks so too"


@pytest.mark.parametrize("cut", [0, 50, 500, len(APACHE) - 5])
def test_a_cut_listing_is_an_error(cut: int) -> None:
    with pytest.raises(StoreError, match="not well-formed"):
        list(parse_multistatus([APACHE[:cut]]))


def test_a_document_type_is_refused() -> None:
    bomb = b'<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><multistatus xmlns="DAV:">&b;</multistatus>'
    with pytest.raises(StoreError, match="document type"):
        list(parse_multistatus([bomb]))
