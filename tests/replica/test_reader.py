"""Page indexes and frames read without reading the files."""

from __future__ import annotations

import random
import threading

import pytest

from tests.conftest import GOLDEN
from vfsstream.errors import LtxError, NotFound
from vfsstream.ltx import TXID, Decoder, Header, decode_frame, encode
from vfsstream.plan.files import FileInfo
from vfsstream.replica import Replica
from vfsstream.replica.reader import SMALL_FILE, read_frames, read_index, read_indexes
from vfsstream.stores import FileStore, MemoryStore


def large(store: MemoryStore, count: int = 3000, size: int = 512) -> tuple[Replica, FileInfo, dict[int, bytes]]:
    noise = random.Random(5)
    pages = {pgno: noise.randbytes(size) for pgno in range(1, count + 1)}
    replica = Replica(store)
    header = Header(size, count, TXID(1), TXID(1), 0)
    info = replica.write(0, 1, 1, encode(header, pages.items()), timestamp=0)
    store.calls.clear()
    return replica, info, pages


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_indexes_of_the_golden_replicas(name: str) -> None:
    replica = Replica(FileStore(GOLDEN / name))
    infos = [info for files in replica.all_files().values() for info in files]
    for file in read_indexes(replica, infos):
        decoder = Decoder(replica.stream(file.info))
        pages = dict(decoder)
        assert file.header == decoder.header
        assert file.index == decoder.index
        assert (file.body is not None) == (file.info.size <= SMALL_FILE)
        found = {
            pgno: decode_frame(frame, file.header.page_size, pgno)
            for pgno, _, frame in read_frames(replica, file, range(1, file.header.commit + 2))
        }
        assert found == pages


def test_a_small_file_is_one_request() -> None:
    store = MemoryStore()
    replica, info, _ = large(store, 10)
    file = read_index(replica, info)
    assert [operation for operation, _ in store.calls] == ["get"]
    list(read_frames(replica, file, [1, 5]))
    assert len(store.calls) == 1


def test_a_large_file_is_head_and_tail_at_once() -> None:
    store = MemoryStore()
    replica, info, pages = large(store)
    both = threading.Barrier(2)

    def wait_for_the_other(operation: str, key: str) -> None:
        both.wait(60)

    store.fault = wait_for_the_other
    file = read_index(replica, info)
    assert len(store.calls) == 2
    assert len(file.index) == len(pages)


def test_a_second_tail_only_when_the_guess_was_short() -> None:
    store = MemoryStore()
    pages = {pgno: bytes(512) for pgno in range(1, 20_001)}
    replica = Replica(store)
    info = replica.write(0, 1, 1, encode(Header(512, 20_000, TXID(1), TXID(1), 0), pages.items()), timestamp=0)
    store.calls.clear()
    file = read_index(replica, info)
    assert len(store.calls) == 3
    assert len(file.index) == 20_000


def test_frames_that_lie_close_come_in_one_request() -> None:
    store = MemoryStore()
    replica, info, pages = large(store)
    file = read_index(replica, info)
    store.calls.clear()
    wanted = [1, 2, 3, 50, 2900, 2901, 5000]
    found = {pgno: decode_frame(frame, 512, pgno) for pgno, _, frame in read_frames(replica, file, wanted)}
    assert found == {pgno: pages[pgno] for pgno in wanted[:-1]}
    assert len(store.calls) == 2


def test_what_does_not_fit_the_listing_is_refused() -> None:
    store = MemoryStore()
    replica, info, _ = large(store, 10)
    longer = FileInfo(info.min_txid, info.max_txid, 0, info.size + 1)
    with pytest.raises(LtxError, match="listed with"):
        read_index(replica, longer)
    data = store.get(replica.key(info))
    other = FileInfo(TXID(2), TXID(3), 0, len(data))
    store.put(replica.key(other), data)
    with pytest.raises(LtxError, match="header states TXIDs"):
        read_index(replica, other)
    with pytest.raises(NotFound):
        read_index(replica, FileInfo(TXID(7), TXID(7), 0, 1000))
    replica, info, _ = large(store)
    file = read_index(replica, info)
    store.put(replica.key(info), store.get(replica.key(info))[:500_000])
    with pytest.raises(LtxError, match="shorter than listed"):
        list(read_frames(replica, file, [2999]))
