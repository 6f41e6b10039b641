"""Merging LTX files into one: compaction.

A page frame does not depend on where it lies, so the frames that survive are copied as they are. Every page of
every input is decompressed all the same: the checksums of inputs and output are over the pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush

from vfsstream.errors import LtxError, UsageError
from vfsstream.ltx.decoder import Decoder
from vfsstream.ltx.encoder import Encoder
from vfsstream.ltx.frames import BLOCK, as_block_frame, encode_legacy_frame
from vfsstream.ltx.header import Header
from vfsstream.ltx.names import TXID

__all__ = ["merge", "merge_pages", "merged_header"]

_Frame = tuple[int, bytes, bytes]
_CHUNK = 1 << 20
_AHEAD = 16 << 20
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
    inputs: Sequence[Iterable[bytes]],
    names: Sequence[str | None] | None = None,
    *,
    min_txid: int | None = None,
    legacy: bool = False,
) -> Iterator[bytes]:
    """Merge whole LTX files into one, given as chunks of about 1 MiB.

    Of each page the version of the newest file that has it is kept; pages above the last commit are dropped.
    Holds one chunk of each input at a time, whatever the size of the files.

    Args:
        inputs: each file in chunks, oldest file first.
        names: keys or paths of the inputs, for messages.
        min_txid: state this first TXID instead of the first input's.
        legacy: write page frames for readers older than Litestream 0.5.16.

    Raises:
        LtxError: an input is damaged, or they do not follow one another; what was yielded before is no file.
    """
    decoders, header = _open(inputs, names)
    if min_txid is not None:
        header = replace(header, min_txid=TXID(min_txid))
    out: list[bytes] = []
    encoder = Encoder(header, out.append)
    for pgno, frame, page in _newest(decoders, header.commit):
        if legacy and frame[5] == BLOCK:
            frame = encode_legacy_frame(pgno, page)
        elif not legacy and frame[5] != BLOCK:
            frame = as_block_frame(frame, page)
        encoder.add_frame(pgno, frame, page)
        if out:
            yield from out
            out.clear()
    encoder.finish()
    yield from out


def merge_pages(
    inputs: Sequence[Iterable[bytes]], names: Sequence[str | None] | None = None
) -> tuple[Header, Iterator[tuple[int, bytes]]]:
    """The header and the pages of the merged file, nothing encoded; inputs and errors as for :func:`merge`."""
    decoders, header = _open(inputs, names)
    return header, ((pgno, page) for pgno, _, page in _newest(decoders, header.commit))


def _open(inputs: Sequence[Iterable[bytes]], names: Sequence[str | None] | None) -> tuple[list[Decoder], Header]:
    labels = names or [None] * len(inputs)
    decoders = [Decoder(chunks, name, strict=False) for chunks, name in zip(inputs, labels, strict=True)]
    return decoders, merged_header([decoder.header for decoder in decoders], labels)


def _newest(decoders: Sequence[Decoder], commit: int) -> Iterator[_Frame]:
    """The newest version of each page up to ``commit``. Every file is read to its end, and so verified."""
    batch_size = min(_CHUNK, _AHEAD // len(decoders))
    for item in _walk([decoder.frames(batch_size) for decoder in decoders]):
        if item[0] <= commit:
            yield item


def _walk(streams: Sequence[Iterator[_Frame]]) -> Iterator[_Frame]:
    """Walk all files by ascending page number; of each page yield the version of the last file that has it."""
    heap: list[tuple[int, int, _Frame]] = []
    for place, stream in enumerate(streams):
        item = next(stream, None)
        if item is not None:
            heap.append((item[0], -place, item))
    heapify(heap)
    last = 0
    while heap:
        _, place, item = heappop(heap)
        stream = streams[-place]
        bound = heap[0][0] if heap else 1 << 32
        if item[0] != last:
            last = item[0]
            yield item
        for following in stream:
            if following[0] >= bound:
                heappush(heap, (following[0], place, following))
                break
            last = following[0]
            yield following
