"""A replica: LTX files in a store. Key layout, catalogue, reading and writing."""

from vfsstream.replica.layout import Layout, layout_for
from vfsstream.replica.replica import Replica, format_time, parse_time

__all__ = ["Layout", "Replica", "format_time", "layout_for", "parse_time"]
