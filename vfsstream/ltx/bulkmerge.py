"""Merging many pages at a time: which page is the newest is decided for thousands of them by sorting columns.

Needs numpy, which is worth its import for megabytes, not for the few pages of a quiet minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from vfsstream.ltx.decoder import Decoder
from vfsstream.ltx.encoder import Encoder
from vfsstream.ltx.header import Header
from vfsstream.ltx.names import TXID
from vfsstream.ltx.rows import Rows, newest, rows_of_run, rows_of_whole_files

__all__ = ["merge_in_bulk"]

_HeaderOf = Callable[[Sequence[Header], Sequence[str | None]], Header]

_AHEAD = 16 << 20
"""Bytes of pages decoded ahead, over all streamed inputs."""

_WINDOW = 2 << 20
"""Bytes of pages handed on at once."""


class _Stream:
    """One input that is read in pieces: the rows that are known and not used yet, and their frames."""

    def __init__(self, decoder: Decoder, rank: int, share: int, legacy: bool) -> None:
        self.runs = decoder.runs(lambda: share)
        self.rank, self.legacy = rank, legacy
        self.rows: Rows | None = None
        self.frames = memoryview(b"")

    def refill(self) -> bool:
        """Have rows; ``False`` at the end of the file, which is verified then."""
        if self.rows is None or not len(self.rows.pgnos):
            run = next(self.runs, None)
            if run is None:
                self.rows = None
                return False
            self.rows, self.frames = rows_of_run(run, self.rank, self.rank, self.legacy)
        return True


def merge_in_bulk(
    inputs: Sequence[bytes | Iterable[bytes]],
    names: Sequence[str | None],
    merged_header: _HeaderOf,
    min_txid: int | None = None,
    legacy: bool = False,
) -> Iterator[bytes]:
    """What :func:`vfsstream.ltx.merging.merge` does, for much."""
    headers, decoders = [], {}
    for rank, (source, name) in enumerate(zip(inputs, names, strict=True)):
        if isinstance(source, bytes):
            headers.append(Header.unpack(source, name))
        else:
            decoders[rank] = Decoder(source, name, strict=False)
            headers.append(decoders[rank].header)
    header = merged_header(headers, names)
    if min_txid is not None:
        header = replace(header, min_txid=TXID(min_txid))
    out: list[bytes] = []
    encoder = Encoder(header, out.append, legacy=legacy)
    whole = [(rank, headers[rank], source) for rank, source in enumerate(inputs) if isinstance(source, bytes)]
    buffers = [memoryview(b"")] * len(inputs)  # a stream's own frames under its rank, whole files behind
    found = rows_of_whole_files(whole, [names[rank] for rank, _, _ in whole], buffers, legacy)
    share = max(header.page_size, min(256 << 10, _AHEAD // max(1, len(decoders))))
    streams = [_Stream(decoder, rank, share, legacy) for rank, decoder in decoders.items()]
    for rows in _windows(newest(Rows.join(found)) if found else None, streams, _WINDOW // header.page_size):
        for stream in streams:
            buffers[stream.rank] = stream.frames
        _emit(rows.part(0, int(np.searchsorted(rows.pgnos, header.commit, "right"))), buffers, encoder)
        if out:
            yield from out
            out.clear()
    encoder.finish()
    yield from out


def _windows(resident: Rows | None, streams: Sequence[_Stream], step: int) -> Iterator[Rows]:
    """The newest row of each page, ascending: as far at a time as every stream is known."""
    live = [stream for stream in streams if stream.refill()]
    used = 0
    while live:
        bound = min(int(stream.rows.pgnos[-1]) for stream in live if stream.rows is not None)
        parts: list[Rows] = []
        if resident is not None:
            stop = int(np.searchsorted(resident.pgnos, bound, "right"))
            parts.append(resident.part(used, stop))
            used = stop
        for stream in live:
            assert stream.rows is not None
            stop = int(np.searchsorted(stream.rows.pgnos, bound, "right"))
            parts.append(stream.rows.part(0, stop))
            stream.rows = stream.rows.part(stop)
        yield newest(Rows.join(parts))
        live = [stream for stream in live if stream.refill()]
    if resident is not None:
        for at in range(used, len(resident.pgnos), step):
            yield resident.part(at, min(at + step, len(resident.pgnos)))


def _emit(rows: Rows, buffers: Sequence[memoryview], encoder: Encoder) -> None:
    """Hand on frames, neighbours in a buffer as one piece."""
    if not len(rows.pgnos):
        return
    ends = rows.starts + rows.sizes
    cuts = np.flatnonzero((rows.sources[1:] != rows.sources[:-1]) | (rows.starts[1:] != ends[:-1])) + 1
    first, last = np.append(0, cuts), np.append(cuts, len(ends)) - 1
    places = zip(rows.sources[first].tolist(), rows.starts[first].tolist(), ends[last].tolist(), strict=True)
    frames = [buffers[source][start:end] for source, start, end in places]
    encoder.add_rows(rows.pgnos, rows.sizes, frames, rows.checksums)
