"""The LTX file format. Pure: bytes in, bytes out. No file, no socket, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfsstream.lazy import lazy_names

if TYPE_CHECKING:
    from vfsstream.ltx.checksum import FLAG, crc64, page_checksum, rolling_checksum
    from vfsstream.ltx.decoder import Batch, Decoder
    from vfsstream.ltx.encoder import Encoder, Trailer, encode
    from vfsstream.ltx.frames import decode_frame, encode_frame, encode_legacy_frame, max_frame_size
    from vfsstream.ltx.header import HEADER_SIZE, NO_CHECKSUM, Header
    from vfsstream.ltx.index import MIN_FILE_SIZE, TAIL_SIZE, TRAILER_SIZE, PageIndex, index_start
    from vfsstream.ltx.merging import merge, merge_pages, merged_header
    from vfsstream.ltx.names import LEVELS, PAGE_SIZES, SNAPSHOT_LEVEL, TXID, format_name, lock_pgno, parse_name

__all__ = [
    "FLAG",
    "HEADER_SIZE",
    "LEVELS",
    "MIN_FILE_SIZE",
    "NO_CHECKSUM",
    "PAGE_SIZES",
    "SNAPSHOT_LEVEL",
    "TAIL_SIZE",
    "TRAILER_SIZE",
    "TXID",
    "Batch",
    "Decoder",
    "Encoder",
    "Header",
    "PageIndex",
    "Trailer",
    "crc64",
    "decode_frame",
    "encode",
    "encode_frame",
    "encode_legacy_frame",
    "format_name",
    "index_start",
    "lock_pgno",
    "max_frame_size",
    "merge",
    "merge_pages",
    "merged_header",
    "page_checksum",
    "parse_name",
    "rolling_checksum",
]

_HOME = {
    "FLAG": "vfsstream.ltx.checksum",
    "crc64": "vfsstream.ltx.checksum",
    "page_checksum": "vfsstream.ltx.checksum",
    "rolling_checksum": "vfsstream.ltx.checksum",
    "Batch": "vfsstream.ltx.decoder",
    "Decoder": "vfsstream.ltx.decoder",
    "Encoder": "vfsstream.ltx.encoder",
    "Trailer": "vfsstream.ltx.encoder",
    "encode": "vfsstream.ltx.encoder",
    "decode_frame": "vfsstream.ltx.frames",
    "encode_frame": "vfsstream.ltx.frames",
    "encode_legacy_frame": "vfsstream.ltx.frames",
    "max_frame_size": "vfsstream.ltx.frames",
    "HEADER_SIZE": "vfsstream.ltx.header",
    "NO_CHECKSUM": "vfsstream.ltx.header",
    "Header": "vfsstream.ltx.header",
    "MIN_FILE_SIZE": "vfsstream.ltx.index",
    "TAIL_SIZE": "vfsstream.ltx.index",
    "TRAILER_SIZE": "vfsstream.ltx.index",
    "PageIndex": "vfsstream.ltx.index",
    "index_start": "vfsstream.ltx.index",
    "merge": "vfsstream.ltx.merging",
    "merge_pages": "vfsstream.ltx.merging",
    "merged_header": "vfsstream.ltx.merging",
    "LEVELS": "vfsstream.ltx.names",
    "PAGE_SIZES": "vfsstream.ltx.names",
    "SNAPSHOT_LEVEL": "vfsstream.ltx.names",
    "TXID": "vfsstream.ltx.names",
    "format_name": "vfsstream.ltx.names",
    "lock_pgno": "vfsstream.ltx.names",
    "parse_name": "vfsstream.ltx.names",
}

__getattr__ = lazy_names(__name__, _HOME)
