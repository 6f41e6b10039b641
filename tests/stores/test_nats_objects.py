"""What describes an object of a NATS object store, and its chunks."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vfsstream.stores.base import TIMESTAMP
from vfsstream.stores.nats_objects import CHUNK, blocks, describing, digest_text, parse

TIME = "2026-11-22T06:01:37.73Z"


def test_a_description_says_what_was_stored() -> None:
    digest = digest_text(hashlib.sha256(b"abc"))
    made = describing("ltx/0/k", "bucket", "NUID", 3, 1, digest, {TIMESTAMP: TIME, "other": "x"})
    fields = json.loads(made)
    assert fields["headers"] == {"Litestream-Timestamp": [TIME], "other": ["x"]}, "lists: Go reads nothing else"
    assert fields["options"] == {"max_chunk_size": CHUNK}
    meta = parse(made, 7, 0)
    assert meta is not None
    assert (meta.name, meta.nuid, meta.size, meta.chunks, meta.digest) == ("ltx/0/k", "NUID", 3, 1, digest)
    assert (meta.deleted, meta.sequence) == (False, 7)
    assert meta.info.metadata == {TIMESTAMP: TIME, "other": "x"}
    assert meta.info.etag == "NUID"
    assert meta.info.modified is not None
    assert abs((meta.info.modified - datetime.now(UTC)).total_seconds()) < 60


def test_what_go_writes() -> None:
    text = """{"name":"ltx/9/a","headers":{"Litestream-Timestamp":["2026-01-02T03:04:05Z"]},
      "options":{"max_chunk_size":131072},"bucket":"b","nuid":"N","size":602,"mtime":"0001-01-01T00:00:00Z",
      "chunks":21,"digest":"sha-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}"""
    meta = parse(text.encode(), 3, 1_700_000_000_000_000_000)
    assert meta is not None
    assert meta.info.metadata == {TIMESTAMP: "2026-01-02T03:04:05Z"}
    assert meta.info.modified == datetime.fromtimestamp(1_700_000_000, UTC)
    assert meta.digest == "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=", "padded, whatever wrote it"
    never = parse(text.encode(), 3, 0)
    assert never is not None
    assert never.info.modified is None, "year 1 is no time"


def test_a_marker_of_deletion() -> None:
    meta = parse(b'{"name":"k","bucket":"b","nuid":"N","size":0,"mtime":"","chunks":0,"deleted":true}', 1, 0)
    assert meta is not None
    assert meta.deleted


@pytest.mark.parametrize(
    "data",
    [b"", b"no json", b"[]", b"7", b"null", b'"text"', b"{}", b'{"name":"k","size":"many"}', b"\xff",
     b'{"name":"k","headers":[1]}', b'{"name":"k","chunks":"x"}', b'{"name":"k","size":[1]}'],
)  # fmt: skip
def test_what_is_no_description(data: bytes) -> None:
    assert parse(data, 1, 0) is None


FIELDS = ["name", "headers", "size", "chunks", "digest", "deleted", "nuid", "mtime"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_fields_are_a_description_or_none(fields: dict[str, object]) -> None:
    parse(json.dumps({"name": "k", **fields}).encode(), 1, 0)


@given(st.lists(st.integers(0, 300_000), max_size=6))
def test_blocks_are_full_but_the_last(sizes: list[int]) -> None:
    made = [*blocks(b"x" * size for size in sizes)]
    assert sum(map(len, made)) == sum(sizes)
    assert all(len(block) == CHUNK for block in made[:-1])
    assert all(made)
