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
from vfsstream.ltx.known import Known
from vfsstream.ltx.names import TXID
from vfsstream.ltx.rows import Rows, newest, rows_of_known, rows_of_run
from vfsstream.ltx.wholefiles import WholeFile, rows_of_whole_files

__all__ = ["merge_in_bulk"]

_HeaderOf = Callable[[Sequence[Header], Sequence[str | None]], Header]
_Lots = Iterator[tuple[Rows, bytes | memoryview]]

_AHEAD = 8 << 20
"""Bytes of pages decoded ahead, over all streamed inputs."""

_SHARE = 1 << 20
"""Bytes of pages decoded ahead of one of them."""

_STEP, _STEP_ROWS = 1 << 20, 4096
"""Bytes and number of frames handed on at once, at most."""


class _Stream:
    """One input that is read in pieces: the rows that are known and not used yet, and their frames."""

    def __init__(self, lots: _Lots, rank: int) -> None:
        self.lots, self.rank = lots, rank
        self.rows: Rows | None = None
        self.used = 0
        self.frames = memoryview(b"")

    def refill(self) -> bool:
        """Have rows; ``False`` at the end of the file, which is verified then."""
        if self.rows is None or self.used == len(self.rows.pgnos):
            self.rows, frames = next(self.lots, (None, b""))
            self.used, self.frames = 0, memoryview(frames)
        return self.rows is not None

    def take(self, bound: int) -> Rows | None:
        """The rows up to a page number, if there are any."""
        assert self.rows is not None
        start, self.used = self.used, int(self.rows.pgnos.searchsorted(bound, "right"))
        return self.rows.part(start, self.used) if start < self.used else None


def merge_in_bulk(
    inputs: Sequence[bytes | Iterable[bytes] | Known],
    names: Sequence[str | None],
    merged_header: _HeaderOf,
    *,
    min_txid: int | None = None,
    legacy: bool = False,
    headers: Sequence[Header] | None = None,
    note: Callable[[bytes], object] | None = None,
) -> Iterator[bytes]:
    """What :func:`vfsstream.ltx.merging.merge` does, for much."""
    found: list[Header] = []
    lots: dict[int, _Lots] = {}
    whole: list[WholeFile] = []
    share = _share(inputs)
    for rank, (source, name) in enumerate(zip(inputs, names, strict=True)):
        if isinstance(source, Known) and legacy:
            source = source.chunks()
        if isinstance(source, Known):
            found.append(source.header)
            lots[rank] = rows_of_known(source, rank, name, share)
        elif isinstance(source, bytes):
            found.append(headers[rank] if headers else Header.unpack(source, name))
            whole.append(WholeFile(rank, found[rank], source, name))
        else:
            decoder = Decoder(source, name, strict=False)
            found.append(decoder.header)
            lots[rank] = _decoded(decoder, rank, share, legacy)
    header = merged_header(found, names)
    if min_txid is not None:
        header = replace(header, min_txid=TXID(min_txid))
    out: list[bytes] = []
    encoder = Encoder(header, out.append, legacy=legacy)
    buffers = [memoryview(b"")] * len(inputs)
    parts = rows_of_whole_files(whole, buffers, legacy)
    resident = Rows.join(parts) if parts else None
    parts.clear()
    if resident is not None:
        resident = newest(resident)
    streams = [_Stream(some, rank) for rank, some in lots.items()]
    for rows in _windows(resident, streams):
        for stream in streams:
            buffers[stream.rank] = stream.frames
        for some in _steps(rows.part(0, int(rows.pgnos.searchsorted(header.commit, "right")))):
            encoder.add_rows(some.pgnos, some.sizes, _frames(some, buffers), some.checksums)
            if note is not None:
                note(some.records())
            if out:
                yield from out
                out.clear()
    encoder.finish()
    yield from out


def _share(inputs: Sequence[bytes | Iterable[bytes] | Known]) -> int:
    """Bytes that each input that is not in memory may be ahead."""
    count = sum(not isinstance(source, bytes) for source in inputs)
    return min(_SHARE, _AHEAD // max(1, count))


def _decoded(decoder: Decoder, rank: int, share: int, legacy: bool) -> _Lots:
    for run in decoder.runs(lambda: share):
        yield rows_of_run(run, rank, legacy)


def _windows(resident: Rows | None, streams: Sequence[_Stream]) -> Iterator[Rows]:
    """The newest row of each page, ascending: as far at a time as every stream is known."""
    live = [stream for stream in streams if stream.refill()]
    used = 0
    while live:
        bound = min(int(stream.rows.pgnos[-1]) for stream in live if stream.rows is not None)
        parts = [part for stream in live if (part := stream.take(bound)) is not None]
        if resident is not None:
            start, used = used, int(resident.pgnos.searchsorted(bound, "right"))
            if start < used:
                parts.append(resident.part(start, used))
        yield parts[0] if len(parts) == 1 else newest(Rows.join(parts))
        live = [stream for stream in live if stream.refill()]
    if resident is not None:
        yield resident.part(used)


def _steps(rows: Rows) -> Iterator[Rows]:
    """The rows, as many at a time as make up a chunk of the output."""
    ends = np.cumsum(rows.sizes)
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, min(start + _STEP_ROWS, int(ends.searchsorted(before + _STEP, "right"))))
        yield rows.part(start, stop)
        start = stop


def _frames(rows: Rows, buffers: Sequence[memoryview]) -> list[memoryview]:
    """The frames, neighbours in a buffer as one piece."""
    ends = rows.starts + rows.sizes
    cut = np.ones(len(ends) + 1, np.bool_)
    np.not_equal(rows.starts[1:], ends[:-1], out=cut[1:-1])
    cut[1:-1] |= rows.ranks[1:] != rows.ranks[:-1]
    first, last = np.flatnonzero(cut[:-1]), np.flatnonzero(cut[1:])
    places = zip(rows.ranks[first].tolist(), rows.starts[first].tolist(), ends[last].tolist(), strict=True)
    return [buffers[rank][start:end] for rank, start, end in places]
