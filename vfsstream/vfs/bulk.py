"""The ranges that cover a whole view, computed in one go over its columns. Pure."""

from __future__ import annotations

from vfsstream.vfs.ranges import MAX_GAP, ByteRange
from vfsstream.vfs.view import Columns, View

__all__ = ["covering_ranges", "merge_columns"]


def covering_ranges(view: View, most: int) -> list[ByteRange]:
    """Ranges of at most ``most`` bytes that hold every page of a view, without a list of their frames."""
    return merge_columns(view.columns(1, view.commit), most)


def merge_columns(columns: Columns, most: int) -> list[ByteRange]:
    """The same, out of columns."""
    import numpy

    present = columns.size > 0
    file, offset, size = (column[present].astype(numpy.int64) for column in columns[:3])
    order = numpy.lexsort((offset, file))
    file, offset, end = file[order], offset[order], (offset + size)[order]
    breaks = numpy.flatnonzero((file[1:] != file[:-1]) | (offset[1:] - end[:-1] > MAX_GAP)) + 1
    ranges: list[ByteRange] = []
    for first, last in zip([0, *breaks.tolist()], [*breaks.tolist(), len(file)], strict=True):
        while first < last:
            begin = int(offset[first])
            stop = max(first + 1, int(numpy.searchsorted(end[first:last], begin + most, "right")) + first)
            ranges.append(ByteRange(int(file[first]), begin, int(end[stop - 1]) - begin, ()))
            first = stop
    return ranges
