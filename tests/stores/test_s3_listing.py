"""Listings of S3 as services write them."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsstream.errors import StoreError
from vfsstream.stores.base import ObjectInfo
from vfsstream.stores.s3_listing import listing_query, parse_listing

LISTING = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Name>bucket</Name><Prefix>db%2F0000%2F</Prefix><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys>
  <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
  <Contents>
    <Key>db/0000/a%2Bb+c.ltx</Key><LastModified>2026-11-24T10:11:12.500Z</LastModified>
    <ETag>&quot;abc&quot;</ETag><Size>1234</Size><StorageClass>STANDARD</StorageClass>
    <Owner><ID>someone</ID><DisplayName>db</DisplayName></Owner>
  </Contents>
  <Contents><Key>db/0000/b.ltx</Key><Size>0</Size></Contents>
  <CommonPrefixes><Prefix>db/0000/x%C3%A9/</Prefix></CommonPrefixes>
  <NextContinuationToken>a/token==</NextContinuationToken>
</ListBucketResult>"""


def test_a_page() -> None:
    page = parse_listing(LISTING)
    assert page.objects == [
        ObjectInfo("db/0000/a+b c.ltx", 1234, datetime(2026, 11, 24, 10, 11, 12, 500_000, UTC), {}, '"abc"'),
        ObjectInfo("db/0000/b.ltx", 0),
    ]
    assert page.prefixes == ["db/0000/xé/"]
    assert page.token == "a/token=="


def test_the_last_page_names_no_next_one_whatever_the_server_adds() -> None:
    assert parse_listing(LISTING.replace(b"true", b"false")).token is None


def test_keys_are_as_they_are_where_the_server_does_not_encode() -> None:
    page = parse_listing(LISTING.replace(b"<EncodingType>url</EncodingType>", b""))
    assert page.objects[0].key == "db/0000/a%2Bb+c.ltx"


def test_an_empty_bucket() -> None:
    page = parse_listing(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
    assert (page.objects, page.prefixes, page.token) == ([], [], None)


def test_a_time_that_cannot_be_read_is_no_time() -> None:
    page = parse_listing(LISTING.replace(b"2026-11-24T10:11:12.500Z", b"yesterday"))
    assert page.objects[0].modified is None


@pytest.mark.parametrize("length", [0, 1, 50, 300, 600, len(LISTING) - 1])
def test_a_cut_answer_may_be_asked_for_again(length: int) -> None:
    with pytest.raises(StoreError) as caught:
        parse_listing(LISTING[:length])
    assert caught.value.retryable


@pytest.mark.parametrize(
    "answer",
    [
        b"<html><body>Sign in to the network</body></html>",
        b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>much</Size></Contents></ListBucketResult>",
    ],
)
def test_what_is_no_listing_is_no_empty_listing(answer: bytes) -> None:
    with pytest.raises(StoreError) as caught:
        parse_listing(answer)
    assert caught.value.retryable


def test_entities_are_refused() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><ListBucketResult><Prefix>&a;</Prefix></ListBucketResult>'
    with pytest.raises(StoreError, match="document type"):
        parse_listing(bomb)


def test_the_query_has_its_parameters_in_the_order_that_is_signed() -> None:
    query = listing_query("db/a b&=é", start_after="db/~", delimiter="/", token="t+/=")
    assert query == (
        "continuation-token=t%2B%2F%3D&delimiter=%2F&encoding-type=url&list-type=2"
        "&prefix=db%2Fa%20b%26%3D%C3%A9&start-after=db%2F~"
    )


@given(st.binary(max_size=300))
def test_any_bytes_are_a_listing_or_one_error(body: bytes) -> None:
    with contextlib.suppress(StoreError):
        assert parse_listing(body)
