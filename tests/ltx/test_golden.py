"""The golden replicas of the real Litestream: every file, read, written again and merged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GOLDEN
from vfsstream.ltx import (
    FLAG,
    Decoder,
    Header,
    PageIndex,
    decode_frame,
    encode,
    index_start,
    lock_pgno,
    merge,
    page_checksum,
    rolling_checksum,
)

FIXTURES = sorted(path.parent.name for path in GOLDEN.glob("*/manifest.json"))
Chunks = list[bytes]


def manifest(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GOLDEN / name / "manifest.json").read_text())
    return loaded


def path_of(name: str, entry: dict[str, Any]) -> Path:
    return GOLDEN / name / entry["path"]


def image(chunks: Iterator[bytes] | Chunks) -> bytes:
    """The database that a snapshot holds."""
    decoder = Decoder(chunks)
    header = decoder.header
    out = bytearray(header.commit * header.page_size)
    for pgno, page in decoder:
        out[(pgno - 1) * header.page_size : pgno * header.page_size] = page
    return bytes(out)


@pytest.mark.parametrize("name", FIXTURES)
def test_every_file_decodes_to_its_manifest(name: str) -> None:
    for entry in manifest(name)["files"]:
        data = path_of(name, entry).read_bytes()
        decoder = Decoder([data], name=entry["path"])
        pages = dict(decoder)
        check_header(decoder.header, entry)
        assert len(pages) == entry["pages"]
        assert decoder.trailer is not None
        total = FLAG
        for pgno, page in pages.items():
            total = rolling_checksum(total, page_checksum(pgno, page))
        assert f"{total:016x}" == entry["rolling_checksum_of_pages"]
        start = index_start(data[-24:], len(data))
        index = PageIndex.decode(data[start:], decoder.header, len(data))
        assert index == decoder.index
        assert index.encode() == data[start:-24]
        for pgno, offset, size in index:
            assert decode_frame(data[offset : offset + size], decoder.header.page_size, pgno) == pages[pgno]
        assert decoder.header.pack() == data[:100]


def check_header(header: Header, entry: dict[str, Any]) -> None:
    stated = entry["header"]
    assert header.page_size == stated["page_size"]
    assert header.commit == stated["commit"]
    assert (str(header.min_txid), str(header.max_txid)) == (stated["min_txid"], stated["max_txid"])
    assert header.timestamp == stated["timestamp_ms"]
    wal = (header.wal_offset, header.wal_size, header.wal_salt1, header.wal_salt2)
    assert wal == tuple(stated[key] for key in ("wal_offset", "wal_size", "wal_salt1", "wal_salt2"))
    assert (header.flags, header.node_id, header.pre_apply_checksum) == (stated["flags"], 0, 0)


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("legacy", [False, True])
def test_every_file_written_again_holds_the_same_pages(name: str, legacy: bool) -> None:
    for entry in manifest(name)["files"]:
        decoder = Decoder([path_of(name, entry).read_bytes()])
        pages = dict(decoder)
        again = Decoder(encode(decoder.header, pages.items(), legacy=legacy))
        assert dict(again) == pages
        assert again.header == decoder.header


@pytest.mark.parametrize("name", FIXTURES)
def test_merging_the_plans_of_the_real_program_gives_its_databases(name: str) -> None:
    done = set()
    restore = manifest(name)["restore"]
    for target in [restore["latest"], *restore["txid"].values(), *restore["timestamp"]]:
        if "error" in target or target["sha256"] in done:
            continue
        done.add(target["sha256"])
        files = [(GOLDEN / name / "ltx" / entry).read_bytes() for entry in target["plan"]]
        restored = image(merge([[data] for data in files]))
        assert hashlib.sha256(restored).hexdigest() == target["sha256"]


def test_the_lock_page_is_where_sqlite_keeps_its_lock_bytes() -> None:
    assert [lock_pgno(size) for size in (512, 4096, 65536)] == [2097153, 262145, 16385]
