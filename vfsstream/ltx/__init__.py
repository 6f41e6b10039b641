"""The LTX file format. Pure: bytes in, bytes out. No file, no socket, no clock."""

from vfsstream.ltx.names import LEVELS, PAGE_SIZES, SNAPSHOT_LEVEL, TXID, format_name, lock_pgno, parse_name

__all__ = ["LEVELS", "PAGE_SIZES", "SNAPSHOT_LEVEL", "TXID", "format_name", "lock_pgno", "parse_name"]
