"""The decisions: lists of file descriptions in, lists out. No I/O, no clock."""

from vfsstream.plan.files import FileInfo

__all__ = ["FileInfo"]
