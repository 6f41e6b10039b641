"""Merging LTX files into one: the newest version of each page, its compressed frame copied verbatim."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from vfsstream.errors import LtxError, UsageError
from vfsstream.ltx.decoder import Decoder
from vfsstream.ltx.encoder import Encoder
from vfsstream.ltx.frames import BLOCK, PAGE_HEAD, as_block_frame
from vfsstream.ltx.header import NO_CHECKSUM, Header

__all__ = ["merge", "merge_pages", "merged_header"]

_Ranked = tuple[int, int, memoryview, bytes]


def merged_header(headers: Sequence[Header], names: Sequence[str | None] | None = None) -> Header:
    """The header of the file that these files, oldest first, merge into.

    Raises:
        LtxError: page sizes differ, or TXIDs leave a gap or do not advance.
    """
    if not headers:
        raise UsageError("nothing to merge")
    names = names or [None] * len(headers)
    first, last = headers[0], headers[-1]
    for before, after, name in zip(headers, headers[1:], names[1:], strict=False):
        if after.page_size != first.page_size:
            raise LtxError(f"page size {after.page_size} where {first.page_size} was expected", name=name)
        if after.min_txid > before.max_txid + 1 or after.max_txid <= before.max_txid:
            span = f"{after.min_txid} to {after.max_txid}"
            raise LtxError(f"TXIDs {span} do not continue those up to {before.max_txid}", name=name)
    return Header(
        page_size=first.page_size,
        commit=last.commit,
        min_txid=first.min_txid,
        max_txid=last.max_txid,
        timestamp=last.timestamp,
        flags=NO_CHECKSUM,
    )


def merge(
    inputs: Sequence[Iterable[bytes]],
    names: Sequence[str | None] | None = None,
    *,
    min_txid: int | None = None,
) -> Iterator[bytes]:
    """Merge files, oldest first, into the chunks of one.

    Every input is read to its end and its checksum verified before the output's trailer is given, so a damaged
    input never yields a complete output. Memory holds one chunk of each input.

    Args:
        inputs: the chunks of each file.
        names: of the files, for messages.
        min_txid: state this first TXID instead of the first input's.

    Raises:
        LtxError: an input is damaged, or they do not continue each other.
    """
    decoders = _open(inputs, names)
    header = merged_header([decoder.header for decoder in decoders], names)
    if min_txid is not None:
        header = replace(header, min_txid=type(header.min_txid)(min_txid))
    chunks: list[bytes] = []
    encoder = Encoder(header, chunks.append)
    for pgno, frame, page in _newest(decoders, header.commit):
        if PAGE_HEAD.unpack_from(frame)[1] == BLOCK:
            encoder.add_frame(pgno, frame, page)
        else:
            encoder.add_frame(pgno, as_block_frame(frame, page), page)
        if chunks:
            yield from chunks
            chunks.clear()
    encoder.finish()
    yield from chunks


def merge_pages(
    inputs: Sequence[Iterable[bytes]], names: Sequence[str | None] | None = None
) -> tuple[Header, Iterator[tuple[int, bytes]]]:
    """The header and the newest pages of several files, without encoding them again."""
    decoders = _open(inputs, names)
    header = merged_header([decoder.header for decoder in decoders], names)
    return header, ((pgno, page) for pgno, _, page in _newest(decoders, header.commit))


def _open(inputs: Sequence[Iterable[bytes]], names: Sequence[str | None] | None) -> list[Decoder]:
    labels = names or [None] * len(inputs)
    return [Decoder(chunks, name, strict=False) for chunks, name in zip(inputs, labels, strict=True)]


def _newest(decoders: Sequence[Decoder], commit: int) -> Iterator[tuple[int, memoryview, bytes]]:
    """The frames of the newest version of each page up to ``commit``; all inputs are read to their ends."""
    if len(decoders) == 1:
        yield from (item for item in decoders[0].frames() if item[0] <= commit)
        return
    last = 0
    for pgno, _, frame, page in heapq.merge(*(_ranked(rank, item) for rank, item in enumerate(decoders))):
        if pgno != last and pgno <= commit:
            last = pgno
            yield pgno, frame, page


def _ranked(rank: int, decoder: Decoder) -> Iterator[_Ranked]:
    for pgno, frame, page in decoder.frames():
        yield pgno, -rank, frame, page
