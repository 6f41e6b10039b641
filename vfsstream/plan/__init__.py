"""The decisions: lists of file descriptions in, lists out. No I/O, no clock."""

from vfsstream.plan.files import FileInfo
from vfsstream.plan.points import every_file, nearest, restorable
from vfsstream.plan.restore import restore_plan

__all__ = ["FileInfo", "every_file", "nearest", "restorable", "restore_plan"]
