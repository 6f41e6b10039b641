"""Notes of the pages of merged files: never believed when anything is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.replicate.test_compactor import decoded
from vfsstream.errors import LtxError
from vfsstream.ltx import TXID, Header, encode
from vfsstream.plan import FileInfo
from vfsstream.plan.compaction import Merge
from vfsstream.replica import Replica
from vfsstream.replicate.compactor import Compactor
from vfsstream.replicate.pagesums import WORTH, NewNote, PageSums
from vfsstream.stores.file import FileStore
from vfsstream.stores.memory import MemoryStore

PAGE = 4096
INFO = FileInfo(TXID(2), TXID(9), 1, WORTH)


def noted(sums: PageSums, info: FileInfo = INFO, records: bytes = bytes(range(160))) -> None:
    note = NewNote(sums)
    note.add(records[:32])
    note.add(records[32:])
    note.finish(info, 77)


def test_a_note_is_found_again(tmp_path: Path) -> None:
    sums = PageSums(tmp_path / "sums")
    assert sums.find(INFO) is None
    noted(sums)
    found = sums.find(INFO)
    assert found is not None
    assert (found.size, found.checksum, b"".join(found.records)) == (WORTH, 77, bytes(range(160)))
    assert [path.name for path in sums.directory.iterdir()] == ["1-0000000000000002-0000000000000009"]


def test_a_note_is_of_one_file_only(tmp_path: Path) -> None:
    sums = PageSums(tmp_path / "sums")
    noted(sums)
    for other in (
        FileInfo(TXID(2), TXID(8), 1, WORTH),
        FileInfo(TXID(2), TXID(9), 2, WORTH),
        FileInfo(TXID(2), TXID(9), 1, WORTH + 1),
    ):
        assert sums.find(other) is None


def test_small_files_get_no_note(tmp_path: Path) -> None:
    sums = PageSums(tmp_path / "sums")
    noted(sums, FileInfo(TXID(2), TXID(9), 1, WORTH - 1))
    assert list(sums.directory.iterdir()) == []


def test_a_damaged_note_is_no_note_or_an_error(tmp_path: Path) -> None:
    sums = PageSums(tmp_path / "sums")
    noted(sums)
    (path,) = sums.directory.iterdir()
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
        found = sums.find(INFO)
        if found is None or (at in range(16, 24) and found.checksum != 77):
            continue  # the checksum of the file, which the file itself will not have
        with pytest.raises(LtxError, match="damaged"):
            b"".join(found.records)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        found = sums.find(INFO)
        if found is not None:
            with pytest.raises(LtxError, match="damaged"):
                b"".join(found.records)


def test_only_notes_of_what_is_there_are_kept(tmp_path: Path) -> None:
    sums = PageSums(tmp_path / "sums")
    sums.keep([INFO])  # no folder yet
    other = FileInfo(TXID(10), TXID(11), 1, WORTH)
    noted(sums)
    noted(sums, other)
    sums.keep([other])
    assert sums.find(INFO) is None
    assert sums.find(other) is not None


def test_nothing_unfinished_stays(tmp_path: Path) -> None:
    sums = PageSums(tmp_path / "sums")
    note = NewNote(sums)
    note.add(bytes(16))
    note.close()
    note.close()
    assert list(sums.directory.iterdir()) == []


def test_no_place_for_notes_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "sums").write_bytes(b"a file")
    sums = PageSums(tmp_path / "sums")
    noted(sums)
    sums.keep([])
    sums.forget(INFO)
    assert sums.find(INFO) is None


def test_a_full_disk_is_no_error() -> None:
    sums = PageSums(Path("/dev"))
    note = NewNote(sums)
    note.close()
    note._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - closed by the note
    note._temporary = Path("/nonexistent/new.tmp")
    note.add(bytes(16))
    note.add(bytes(16))
    note.finish(INFO, 1)
    assert sums.find(INFO) is None


def level_1(replica: Replica, first: int, fill: int, count: int = 100) -> FileInfo:
    """A file of pages that do not compress much, large enough for a note."""
    import random

    source = random.Random(fill)
    header = Header(PAGE, 400, TXID(first), TXID(first + 9), 1_700_000_000_000 + first)
    pages = [(pgno, source.randbytes(PAGE)) for pgno in range(first, first + count)]
    return replica.write(1, first, first + 9, encode(header, pages), timestamp=header.timestamp)


@pytest.fixture(params=["file", "memory"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> Replica:
    return Replica(FileStore(tmp_path / "replica") if request.param == "file" else MemoryStore())


@pytest.fixture
def sums(tmp_path: Path) -> PageSums:
    import numpy  # noqa: F401 - merges in bulk are the ones that note

    return PageSums(tmp_path / "sums")


def remerged(replica: Replica, sums: PageSums) -> tuple[list[FileInfo], FileInfo]:
    """Two files of level 2, noted when they were merged, and what a merge of them makes without notes."""
    compactor = Compactor(replica, sums=sums)
    made = [compactor.compact(Merge(2, (level_1(replica, first, first),)))[0] for first in (10, 20)]
    plain = Compactor(replica).compact(Merge(3, tuple(made)))[0]
    return made, plain


def test_a_merge_from_notes_gives_the_same_bytes(replica: Replica, sums: PageSums) -> None:
    made, plain = remerged(replica, sums)
    assert all(sums.find(info) is not None for info in made)
    expected = b"".join(replica.stream(plain))
    (again,) = Compactor(replica, sums=sums).compact(Merge(3, tuple(made)))
    assert b"".join(replica.stream(again)) == expected
    assert all(sums.find(info) is not None for info in [*made, again])


def test_damage_is_named_although_the_pages_are_known(replica: Replica, sums: PageSums) -> None:
    made, plain = remerged(replica, sums)
    replica.delete([plain])
    data = bytearray(b"".join(replica.stream(made[1])))
    data[len(data) // 2] ^= 1
    replica.store.put(replica.key(made[1]), bytes(data))
    with pytest.raises(LtxError, match=made[1].name):
        Compactor(replica, sums=sums).compact(Merge(3, tuple(made)))
    assert list(replica.files(3)) == []
    assert sums.find(made[1]) is None


def test_another_file_of_the_same_name_and_size_is_read_anew(replica: Replica, sums: PageSums) -> None:
    made, _ = remerged(replica, sums)
    other = level_1(replica, 20, 99)
    data = b"".join(replica.stream(other))
    assert len(data) == made[1].size  # neither compresses
    replica.store.put(replica.key(made[1]), data)
    (again,) = Compactor(replica, sums=sums).compact(Merge(3, tuple(made)))
    pages = dict(decoded(replica.stream(again))[1])
    assert pages[25] == dict(decoded(replica.stream(other))[1])[25]
    assert sums.find(made[1]) is None
