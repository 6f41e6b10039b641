"""Which pages a local copy lacks, and which of those found in one are proven. Pure: functions of their arguments."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator

from vfsstream.vfs.diskcache import identity
from vfsstream.vfs.ranges import MAX_GAP, ByteRange, Frame
from vfsstream.vfs.view import View

__all__ = ["RANGE", "missing_ranges", "proven", "still_current"]

RANGE = 4 << 20


def missing_ranges(view: View, have: array[int], most: int = RANGE) -> Iterator[ByteRange]:
    """The ranges that hold every page whose version in the view is not the one in ``have``."""
    import numpy

    columns = view.columns(1, view.commit)
    held = numpy.frombuffer(have, dtype=numpy.uint64)[1 : view.commit + 1]
    wanted = numpy.flatnonzero((columns.size > 0) & (columns.version != held))
    order = wanted[numpy.lexsort((columns.offset[wanted], columns.file[wanted]))]
    group: list[Frame] = []
    for start in range(0, len(order), 4096):
        part = order[start : start + 4096]
        rows = zip(*(column[part].tolist() for column in columns), strict=True)
        for pgno, row in zip((part + 1).tolist(), rows, strict=True):
            frame = Frame(pgno, *row)
            if group and not _joins(group, frame, most):
                yield _range(group)
                group = []
            group.append(frame)
    if group:
        yield _range(group)


def _joins(group: list[Frame], frame: Frame, most: int) -> bool:
    first, last = group[0], group[-1]
    near = frame.offset - last.offset - last.size <= MAX_GAP
    return frame.file == first.file and near and frame.offset + frame.size - first.offset <= most


def _range(group: list[Frame]) -> ByteRange:
    first, last = group[0], group[-1]
    return ByteRange(first.file, first.offset, last.offset + last.size - first.offset, tuple(group))


def still_current(view: View, have: array[int]) -> array[int]:
    """``have`` without the versions that are not the view's own: what is left did not change up to its TXID."""
    import numpy

    kept = numpy.frombuffer(have, dtype=numpy.uint64).copy()
    kept[0] = 0
    kept[view.commit + 1 :] = 0
    held = kept[1 : view.commit + 1]
    held[view.columns(1, view.commit).version[: len(held)] != held] = 0
    return array("Q", kept.tobytes())


def proven(view: View, have: array[int], txid: int, known: Collection[str]) -> array[int]:
    """The versions in a view of those pages of ``have`` that are certainly the view's; 0 for all others.

    A page that was current at ``txid`` with version ``v`` did not change between the two. Its file in the view holds
    the same content if that file is one of the same history, ends no later than ``txid``, and has ``v`` in its range.
    Versions alone prove nothing: a replica that was set back and went on gives the same numbers to other contents,
    and compaction gives other numbers to the same ones.

    Args:
        have: version of each page, 0 = not here, as :func:`still_current` left them.
        txid: of the view at which they were current.
        known: identities of the files that were read or applied by whoever fetched those pages.
    """
    import numpy

    files = list(view.files)  # the follower may append to the shared list meanwhile
    low = numpy.array([info.min_txid for info in files], numpy.uint64)
    high = numpy.array([info.max_txid for info in files], numpy.uint64)
    same = numpy.array([identity(info) in known and info.max_txid <= txid for info in files], bool)
    columns = view.columns(1, view.commit)
    held = numpy.zeros(view.commit, numpy.uint64)
    there = numpy.frombuffer(have, dtype=numpy.uint64)[1 : view.commit + 1]
    held[: len(there)] = there
    file = columns.file
    good = (columns.size > 0) & same[file] & (low[file] <= held) & (held <= high[file])
    result = numpy.zeros(max(len(have), view.commit + 1), numpy.uint64)
    result[1 : view.commit + 1][good] = columns.version[good]
    return array("Q", result.tobytes())
