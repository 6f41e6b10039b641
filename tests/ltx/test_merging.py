"""Merging: the newest version of each page, whatever the number and shape of the inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ltx.helpers import header, make, page
from vfsstream.errors import LtxError, UsageError
from vfsstream.ltx import FLAG, TXID, Decoder, Encoder, Header, encode, merge, merge_pages, merged_header
from vfsstream.ltx.checksum import crc64
from vfsstream.ltx.frames import FRAME_HEAD, encode_frame
from vfsstream.ltx.index import encode_entries
from vfsstream.ltx.known import Known

Contents = dict[int, bytes]


def records(data: bytes) -> bytes:
    """What a merge notes of a file's pages."""
    from vfsstream.ltx.rows import rows_of_run

    return b"".join(rows_of_run(run, 0)[0].records() for run in Decoder([data], strict=False).runs())


def known(data: bytes, cut: int = 1000) -> Known | list[bytes]:
    """A file as one that was verified before, so many records at a time; a damaged or old one as it is."""
    try:
        legacy = any(run.head != FRAME_HEAD.size for run in Decoder([data], strict=False).runs())
    except LtxError:
        legacy = True
    if legacy:
        return [data]
    noted = records(data)
    pieces = [noted[at : at + 16 * cut] for at in range(0, len(noted), 16 * cut)]
    return Known(Header.unpack(data), len(data), crc64(data), BytesIO(data).read, pieces)


def every_way(files: Sequence[bytes], names: list[str] | None = None, **options: bool) -> bytes:
    """The merged file, after all the ways to give the inputs have led to the same bytes or the same error."""
    results: list[bytes | LtxError] = []
    for bulk in (False, True):
        mixed = [data if place % 2 else iter([data[:300], data[300:]]) for place, data in enumerate(files)]
        remembered = [known(data, 3) if place % 3 else data for place, data in enumerate(files)]
        for inputs in (
            [[data] for data in files],
            list(files),
            mixed,
            [known(data) for data in files],
            remembered,
        ):
            try:
                results.append(b"".join(merge(inputs, names, bulk=bulk, **options)))
            except LtxError as error:
                results.append(error)
    first = results[0]
    if isinstance(first, LtxError):
        assert {type(result) for result in results} == {LtxError}
        assert len({result.name for result in results if isinstance(result, LtxError)}) == 1
        raise first
    assert set(results) == {first}
    return first


def delta(txid: int, pages: list[int], commit: int = 100, *, last: int | None = None, **options: bool) -> bytes:
    span = {"min_txid": TXID(txid), "max_txid": TXID(last or txid)}
    return make(pages, seed=txid * 1000, commit=commit, timestamp=txid, **span, **options)


def merged(*files: bytes, legacy: bool = False) -> tuple[Header, Contents]:
    decoder = Decoder([every_way(files, legacy=legacy)])
    return decoder.header, dict(decoder)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(1, 60), max_size=30), st.integers(1, 60)), min_size=1, max_size=8))
def test_equals_the_plain_meaning(inputs: list[tuple[set[int], int]]) -> None:
    files, expected = [], {}
    for place, (pgnos, commit) in enumerate(inputs):
        kept = sorted(pgno for pgno in pgnos if pgno <= commit)
        files.append(delta(place + 2, kept, commit, legacy=place % 3 == 2))
        expected.update({pgno: page(pgno + (place + 2) * 1000) for pgno in kept})
    commit = inputs[-1][1]
    expected = {pgno: content for pgno, content in sorted(expected.items()) if pgno <= commit}
    head, pages = merged(*files)
    assert pages == expected
    assert list(pages) == list(expected)
    assert head == Header(512, commit, TXID(2), TXID(len(files) + 1), len(files) + 1)
    assert merged(*files, legacy=True)[1] == expected
    stated, streamed = merge_pages([[data] for data in files])
    assert stated == head
    assert dict(streamed) == expected


def test_frames_are_copied_as_they_are() -> None:
    import lz4.block

    content = page(1)
    dense = lz4.block.compress(content, mode="high_compression", compression=12, store_size=False)
    frame = (1).to_bytes(4, "big") + b"\0\1" + len(dense).to_bytes(4, "big") + dense
    out: list[bytes] = []
    encoder = Encoder(header(min_txid=TXID(2), max_txid=TXID(2)), out.append)
    encoder.add_frame(1, frame, content)
    encoder.finish()
    assert b"".join(merge([out]))[100:].startswith(frame)


def test_legacy_frames_become_blocks_and_the_other_way() -> None:
    old = delta(2, [1, 2], legacy=True)
    assert b"".join(merge([[old]]))[104:106] == b"\0\1"
    assert b"".join(merge([[delta(2, [1, 2])]], legacy=True))[104:106] == b"\0\0"
    assert b"".join(merge([[old]], legacy=True))[104:106] == b"\0\0"


def test_pages_above_the_last_commit_vanish_but_are_verified() -> None:
    shrunk = delta(3, [1], commit=5)
    assert set(merged(delta(2, [1, 50]), shrunk)[1]) == {1}
    damaged = bytearray(delta(2, [1, 50]))
    damaged[-30] ^= 1
    with pytest.raises(LtxError, match=r"file|index|checksum"):
        merged(bytes(damaged), shrunk)


def test_a_file_with_pages_above_its_own_commit_is_accepted_here() -> None:
    assert set(merged(delta(2, [1, 9]), delta(3, [1], commit=4))[1]) == {1}


def test_overlap_is_fine() -> None:
    _, pages = merged(delta(2, [1, 2], last=5), delta(4, [2], last=8))
    assert pages == {1: page(2001), 2: page(4002)}


def test_a_snapshot_and_what_follows() -> None:
    head, pages = merged(make(), delta(2, [2, 4], commit=4))
    assert head.is_snapshot
    assert list(pages) == [1, 2, 3, 4]
    assert pages[2] == page(2002)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([delta(2, [1]), delta(4, [1])], "gap: the file before ends at TXID 0000000000000002"),
        ([delta(2, [1], last=5), delta(3, [1], last=5)], "the file before already at 0000000000000005"),
        ([delta(2, [1]), delta(2, [1])], "the file before already at"),
        ([delta(2, [1]), make([1], page_size=1024, min_txid=TXID(3), max_txid=TXID(3))], "page size 1024"),
    ],
)
def test_files_that_do_not_follow_one_another(files: list[bytes], message: str) -> None:
    with pytest.raises(LtxError, match=message) as caught:
        every_way(files, ["a", "b"])
    assert caught.value.name == "b"


def test_nothing_to_merge() -> None:
    with pytest.raises(UsageError, match="nothing to merge"):
        merged_header([])


def test_an_incomplete_snapshot_is_not_made() -> None:
    with pytest.raises(LtxError, match="snapshot"):
        merged(make(), delta(2, [1], commit=9))


def test_a_stated_first_txid() -> None:
    data = b"".join(merge([[delta(5, [1, 2, 3], commit=3)]], min_txid=1))
    assert Header.unpack(data).min_txid == 1
    assert len(dict(Decoder([data]))) == 3


def test_damage_in_any_input_spoils_the_output() -> None:
    files = [make(), delta(2, [1, 2], commit=3), delta(3, [3], commit=3)]
    whole = b"".join(merge([[data] for data in files]))
    for place, data in enumerate(files):
        for at in (len(data) - 1, len(data) // 2, 120):
            damaged = [bytearray(file) for file in files]
            damaged[place][at] ^= 0x40
            with pytest.raises(LtxError) as caught:
                every_way([bytes(file) for file in damaged], ["a", "b", "c"])
            assert caught.value.name == "abc"[place]
            for bulk in (False, True):
                out: list[bytes] = []
                with pytest.raises(LtxError):
                    out.extend(merge([[bytes(file)] for file in damaged], bulk=bulk))
                assert len(b"".join(out)) < len(whole)


def test_no_flipped_bit_of_a_small_file_is_missed() -> None:
    files = [delta(2, [1, 7]), delta(3, [2, 7]), delta(4, [3])]
    wanted = dict(Decoder([every_way(files)]))
    refused: list[tuple[int, str | None]] = []
    for at in range(len(files[1])):
        damaged = bytearray(files[1])
        damaged[at] ^= 4
        try:
            found = every_way([files[0], bytes(damaged), files[2]], ["a", "b", "c"])
        except LtxError as error:
            refused.append((at, error.name))
        else:  # another way to compress the same page
            assert dict(Decoder([found])) == wanted
    assert len(refused) > len(files[1]) * 0.9
    assert all(name == "b" or 16 <= at < 32 for at, name in refused)  # its TXIDs: seen at the neighbour


def forged(frames: list[tuple[int, int]]) -> bytes:
    """A file of frames whose page numbers differ from those in the index as stated, all checksums right."""
    head = header(min_txid=TXID(2), max_txid=TXID(2), commit=9).pack()
    stored = [encode_frame(real, page(real)) for real, _ in frames]
    sizes = [len(frame) for frame in stored]
    offsets = [100 + sum(sizes[:place]) for place in range(len(sizes))]
    index = encode_entries([stated for _, stated in frames], offsets, sizes) + b"\0"
    end = bytes(6) + index + len(index).to_bytes(8, "big") + bytes(8)
    content = b"".join(frame[:10] + page(real) for frame, (real, _) in zip(stored, frames, strict=True))
    return head + b"".join(stored) + end + (FLAG | crc64(head + content + end)).to_bytes(8, "big")


def test_whole_files_are_held_to_every_rule() -> None:
    assert dict(Decoder([every_way([forged([(3, 3), (5, 5)])])])) == {3: page(3), 5: page(5)}
    with pytest.raises(LtxError, match="page 3 after page 5"):
        every_way([forged([(5, 5), (3, 3)])], ["a"])
    with pytest.raises(LtxError, match="page 5 after page 5"):
        every_way([forged([(5, 5), (5, 5)])], ["a"])
    with pytest.raises(LtxError, match="page index differs"):
        every_way([forged([(3, 3), (5, 6)])], ["a"])
    with pytest.raises(LtxError, match="a snapshot must hold page 4"):
        every_way([make(), delta(2, [7, 8, 9], commit=9)])


def test_many_pages_at_a_time() -> None:
    import random

    source = random.Random(5)
    base = make(range(1, 3001), commit=3000, page_size=1024)
    files = [base]
    for txid in range(2, 40):
        pgnos = sorted(source.sample(range(1, 3001), 40 if txid % 7 else 900))
        span = {"min_txid": TXID(txid), "max_txid": TXID(txid), "page_size": 1024, "commit": 3000 - txid}
        files.append(make([pgno for pgno in pgnos if pgno <= 3000 - txid], seed=txid, **span))
    for some in (files, files[1:]):
        every_way(some)


def test_inputs_that_track_checksums_are_accepted() -> None:
    out: list[bytes] = []
    encoder = Encoder(header(min_txid=TXID(2), max_txid=TXID(2), flags=0, pre_apply_checksum=FLAG | 1), out.append)
    encoder.add_page(2, page(9))
    encoder.finish(FLAG | 2)
    head, pages = merged(make(), b"".join(out))
    assert not head.tracks_checksums
    assert pages[2] == page(9)


@pytest.mark.parametrize("bulk", [False, True])
def test_memory_is_one_chunk_of_each_input(bulk: bool) -> None:
    consumed = [0, 0]

    def chunks(place: int, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), 4096):
            consumed[place] += 1
            yield data[at : at + 4096]

    import random

    noise = random.Random(3)
    pages = [(pgno, noise.randbytes(65536)) for pgno in range(1, 101)]
    files = [
        b"".join(encode(header(page_size=65536, commit=100, min_txid=TXID(n), max_txid=TXID(n)), pages))
        for n in (2, 3)
    ]
    output = merge([chunks(place, data) for place, data in enumerate(files)], bulk=bulk)
    next(output)
    assert all(count * 4096 < len(files[0]) // 2 for count in consumed)
    assert sum(map(len, output)) > 1_000_000


def remembering(pristine: bytes, data: bytes) -> Iterator[bytes]:
    """A merge of two files, the second of which was verified before as ``pristine``."""
    read = BytesIO(data).read
    second = Known(Header.unpack(pristine), len(pristine), crc64(pristine), read, [records(pristine)])
    return merge([[delta(2, [1, 5])], second], ["a", "b"], bulk=True)


def test_what_a_merge_notes_is_what_the_next_one_remembers() -> None:
    files = [delta(2, [1, 7]), delta(3, [2, 7]), delta(4, [3])]
    noted: list[bytes] = []
    result = b"".join(merge(files, bulk=True, note=noted.append))
    assert b"".join(noted) == records(result)


def test_a_changed_bit_of_a_file_verified_before_is_not_missed() -> None:
    pristine = delta(3, [2, 7, 9])
    assert len(dict(Decoder([b"".join(remembering(pristine, pristine))]))) == 5
    for at in range(len(pristine)):
        damaged = bytearray(pristine)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(LtxError, match="verified earlier") as caught:
            list(remembering(pristine, bytes(damaged)))
        assert caught.value.name == "b"


@pytest.mark.parametrize("change", [-1, -30, -200, -1000, 1])
def test_a_file_verified_before_that_became_shorter_or_longer(change: int) -> None:
    pristine = delta(3, [2, 7, 9])
    data = pristine + bytes(change) if change > 0 else pristine[:change]
    with pytest.raises(LtxError, match="verified earlier"):
        list(remembering(pristine, data))


def test_damaged_memory_is_an_error_before_the_end_of_the_output() -> None:
    def broken() -> Iterator[bytes]:
        yield records(pristine)
        raise LtxError("what was noted is damaged")

    pristine = delta(3, [2, 7, 9])
    second = Known(Header.unpack(pristine), len(pristine), crc64(pristine), BytesIO(pristine).read, broken())
    with pytest.raises(LtxError, match="noted"):
        list(merge([[delta(2, [1, 5])], second], bulk=True))
