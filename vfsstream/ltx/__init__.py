"""The LTX file format. Pure: bytes in, bytes out. No file, no socket, no clock."""

from vfsstream.ltx.checksum import FLAG, crc64, page_checksum, rolling_checksum
from vfsstream.ltx.decoder import Batch, Decoder
from vfsstream.ltx.encoder import Encoder, Trailer, encode
from vfsstream.ltx.frames import decode_frame, encode_frame, encode_legacy_frame, max_frame_size
from vfsstream.ltx.header import HEADER_SIZE, NO_CHECKSUM, Header
from vfsstream.ltx.index import MIN_FILE_SIZE, TAIL_SIZE, TRAILER_SIZE, PageIndex, index_start
from vfsstream.ltx.merge import merge, merge_pages, merged_header
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
