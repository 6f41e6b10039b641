"""Merging LTX files into one: compaction.

A page frame does not depend on where it lies, so the frames that survive are copied as they are. Every page of
every input is decompressed all the same: the checksums of inputs and output are over the pages.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush

from vfsstream.errors import LtxError, UsageError
from vfsstream.ltx.decoder import Decoder, Run
from vfsstream.ltx.encoder import Encoder
from vfsstream.ltx.frames import BLOCK, FRAME_HEAD, as_block_frame, encode_legacy_frame
from vfsstream.ltx.header import Header
from vfsstream.ltx.known import Known
from vfsstream.ltx.names import TXID

__all__ = ["merge", "merge_pages", "merged_header"]

_Stretch = tuple[Run, int, int]
"""Some pages of a run: from this place to before that one."""

_BATCH = 256 << 10
_AHEAD = 32 << 20
"""Bytes of pages decoded ahead, over all inputs."""


def merged_header(headers: Sequence[Header], names: Sequence[str | None] | None = None) -> Header:
    """The header of the file that these files, oldest first, merge into.

    Raises:
        UsageError: no input.
        LtxError: different page sizes, a gap between neighbours, or a file that adds nothing.
    """
    if not headers:
        raise UsageError("nothing to merge")
    labels = names or [None] * len(headers)
    first, last = headers[0], headers[-1]
    for previous, following, name in zip(headers, headers[1:], labels[1:], strict=False):
        if following.page_size != first.page_size:
            message = f"page size {following.page_size}, but the files before have {first.page_size}"
            raise LtxError(message, name=name, offset=8)
        if following.min_txid > previous.max_txid + 1:
            message = f"gap: the file before ends at TXID {previous.max_txid}, this begins at {following.min_txid}"
            raise LtxError(message, name=name, offset=16)
        if following.max_txid <= previous.max_txid:
            message = f"ends at TXID {following.max_txid}, the file before already at {previous.max_txid}"
            raise LtxError(message, name=name, offset=24)
    return Header(first.page_size, last.commit, first.min_txid, last.max_txid, last.timestamp)


def merge(
    inputs: Sequence[bytes | Iterable[bytes] | Known],
    names: Sequence[str | None] | None = None,
    *,
    min_txid: int | None = None,
    legacy: bool = False,
    bulk: bool = False,
    headers: Sequence[Header] | None = None,
    note: Callable[[bytes], object] | None = None,
) -> Iterator[bytes]:
    """Merge whole LTX files into one, given as chunks of about 1 MiB.

    Of each page the version of the newest file that has it is kept; pages above the last commit are dropped.
    Holds one chunk of each input at a time, whatever the size of the files.

    Args:
        inputs: each file as a whole or in chunks, oldest file first; of those verified before
            what is remembered is used in bulk, in today's encoding.
        names: keys or paths of the inputs, for messages.
        min_txid: state this first TXID instead of the first input's.
        legacy: write page frames for readers older than Litestream 0.5.16.
        bulk: decide for many pages at a time, with numpy: faster for megabytes.
        headers: of the inputs, when they were read already; used in bulk.
        note: told in bulk what is worth remembering of the pages (see :class:`vfsstream.ltx.known.Known`), in order.

    Raises:
        LtxError: an input is damaged, or they do not follow one another; what was yielded before is no file.
    """
    if bulk:
        from vfsstream.ltx.bulkmerge import merge_in_bulk

        labels = names or [None] * len(inputs)
        yield from merge_in_bulk(
            inputs, labels, merged_header, min_txid=min_txid, legacy=legacy, headers=headers, note=note
        )
        return
    decoders, header = _open([_chunks(source) for source in inputs], names)
    if min_txid is not None:
        header = replace(header, min_txid=TXID(min_txid))
    out: list[bytes] = []
    encoder = Encoder(header, out.append)
    for stretch in _newest(decoders, header.commit):
        _copy(stretch, encoder, legacy)
        if out:
            yield from out
            out.clear()
    encoder.finish()
    yield from out


def _chunks(source: bytes | Iterable[bytes] | Known) -> Iterable[bytes]:
    if isinstance(source, bytes):
        return [source]
    return source.chunks() if isinstance(source, Known) else source


def _copy(stretch: _Stretch, encoder: Encoder, legacy: bool) -> None:
    run, start, stop = stretch
    if not legacy and run.head == FRAME_HEAD.size:
        stride = len(run.data) // len(run.pgnos)
        before = sum(run.sizes[:start])
        sizes = run.sizes[start:stop]
        frames = memoryview(run.raw)[before : before + sum(sizes)]
        content = memoryview(run.data)[start * stride : stop * stride]
        encoder.add_frames(run.pgnos[start:stop], sizes, frames, content)
        return
    pages, stored = run.pages(), run.frames()
    for place in range(start, stop):
        frame, page = stored[place], bytes(pages[place])
        if legacy and frame[5] == BLOCK:
            frame = encode_legacy_frame(run.pgnos[place], page)
        elif not legacy:
            frame = as_block_frame(frame, page)
        encoder.add_frame(run.pgnos[place], frame, page)


def merge_pages(
    inputs: Sequence[Iterable[bytes]], names: Sequence[str | None] | None = None
) -> tuple[Header, Iterator[tuple[int, bytes]]]:
    """The header and the pages of the merged file, nothing encoded; inputs and errors as for :func:`merge`."""
    decoders, header = _open(inputs, names)
    return header, _pages(_newest(decoders, header.commit))


def _pages(stretches: Iterator[_Stretch]) -> Iterator[tuple[int, bytes]]:
    for run, start, stop in stretches:
        yield from zip(run.pgnos[start:stop], map(bytes, run.pages()[start:stop]), strict=True)


def _open(inputs: Sequence[Iterable[bytes]], names: Sequence[str | None] | None) -> tuple[list[Decoder], Header]:
    labels = names or [None] * len(inputs)
    decoders = [Decoder(chunks, name, strict=False) for chunks, name in zip(inputs, labels, strict=True)]
    return decoders, merged_header([decoder.header for decoder in decoders], labels)


class _Ahead:
    """Shares what may be decoded ahead among the inputs: small files as a whole, large ones in pieces."""

    def __init__(self, inputs: int) -> None:
        self.held = 0
        self._least = _AHEAD // 2 // inputs

    def next_size(self) -> int:
        """Bytes of pages that an input may decode next."""
        return min(_BATCH, max(self._least, (_AHEAD - self.held) // 2))


class _Cursor:
    """One input and how far it has been used."""

    __slots__ = ("ahead", "place", "rank", "run", "runs")

    def __init__(self, decoder: Decoder, rank: int, ahead: _Ahead) -> None:
        self.rank, self.ahead = rank, ahead
        self.runs = decoder.runs(ahead.next_size)
        self.run: Run | None = None
        self.next_run()

    def next_run(self) -> None:
        """Decode on; ``run`` is ``None`` at the end of the file, which is verified then."""
        if self.run is not None:
            self.ahead.held -= len(self.run.data)
        self.place = 0
        self.run = next(self.runs, None)
        if self.run is not None:
            self.ahead.held += len(self.run.data)


def _newest(decoders: Sequence[Decoder], commit: int) -> Iterator[_Stretch]:
    """The newest version of each page up to ``commit``, ascending. Every file is read to its end, and so verified."""
    ahead = _Ahead(len(decoders))
    heap: list[tuple[int, int, _Cursor]] = []
    for rank, decoder in enumerate(decoders):
        cursor = _Cursor(decoder, -rank, ahead)
        if cursor.run is not None:
            heap.append((cursor.run.pgnos[0], cursor.rank, cursor))
    heapify(heap)
    last = 0
    while heap:
        pgno, _, cursor = heappop(heap)
        if pgno == last:  # a newer file has given this page
            cursor.place += 1
        bound = max(heap[0][0], pgno + 1) if heap else 1 << 32
        while (run := cursor.run) is not None:
            pgnos, start = run.pgnos, cursor.place
            # Who gives the page at the bound, if another file has it too, is for the heap to say.
            stop = bisect_left(pgnos, bound, start)
            if start < stop:
                last = pgnos[stop - 1]
                kept = bisect_right(pgnos, commit, start, stop)
                if start < kept:
                    yield run, start, kept
            cursor.place = stop
            if stop < len(pgnos):
                heappush(heap, (pgnos[stop], cursor.rank, cursor))
                break
            cursor.next_run()
