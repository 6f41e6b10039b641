"""Reading what a SQLite b-tree page points to: children, keys, overflow chains, rowids. Pure.

Layout after "Database File Format", section 1.6. Everything here serves guesses about what will be read next:
a page that is not what it seems gives no answer, never an error.
"""

from __future__ import annotations

from array import array
from struct import Struct
from struct import error as StructError

__all__ = [
    "INDEX_INTERIOR",
    "INDEX_LEAF",
    "TABLE_INTERIOR",
    "TABLE_LEAF",
    "children",
    "index_rowids",
    "kind",
    "overflow_heads",
    "schema_roots",
    "separators",
    "usable_size",
]

INDEX_INTERIOR, TABLE_INTERIOR, INDEX_LEAF, TABLE_LEAF = 2, 5, 10, 13
Page = bytes | memoryview

_u16, _u32 = Struct(">H"), Struct(">I")
_INTEGER_SIZES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def _start(pgno: int) -> int:
    return 100 if pgno == 1 else 0


def kind(pgno: int, page: Page) -> int:
    """The type of a b-tree page, or 0 when the page cannot be one."""
    at = _start(pgno)
    found = page[at]
    if found not in (INDEX_INTERIOR, TABLE_INTERIOR, INDEX_LEAF, TABLE_LEAF):
        return 0
    cells = _u16.unpack_from(page, at + 3)[0]
    header = at + (12 if found < INDEX_LEAF else 8)
    return found if header + 2 * cells <= len(page) and page[at + 7] <= 60 else 0


def _pointers(pgno: int, page: Page) -> array[int]:
    at = _start(pgno)
    cells = _u16.unpack_from(page, at + 3)[0]
    header = at + (12 if page[at] < INDEX_LEAF else 8)
    pointers = array("H", bytes(page[header : header + 2 * cells]))
    pointers.byteswap()
    return pointers


def children(pgno: int, page: Page, commit: int) -> array[int]:
    """The children of an interior page in key order; empty when it is none."""
    if kind(pgno, page) not in (INDEX_INTERIOR, TABLE_INTERIOR):
        return array("I")
    limit, unpack = len(page) - 4, _u32.unpack_from
    pointers = _pointers(pgno, page)
    if any(pointer > limit for pointer in pointers):
        return array("I")
    found = array("I", [unpack(page, pointer)[0] for pointer in pointers])
    found.append(unpack(page, _start(pgno) + 8)[0])
    return found if all(0 < child <= commit for child in found) else array("I")


def varint(page: Page, at: int) -> tuple[int, int]:
    """SQLite's own varint: ``(value, position after it)``."""
    value = 0
    for _ in range(8):
        byte = page[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | page[at], at + 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def separators(pgno: int, page: Page) -> array[int]:
    """The rowids between the children of a table's interior page: child ``i`` holds rowids up to key ``i``."""
    if kind(pgno, page) != TABLE_INTERIOR:
        return array("q")
    try:
        return array("q", (_signed(varint(page, pointer + 4)[0]) for pointer in _pointers(pgno, page)))
    except IndexError:
        return array("q")


def usable_size(first_page: Page) -> int:
    """Bytes of a page that b-trees use: the page size less the reserved bytes that the header states."""
    return len(first_page) - first_page[20]


def _local(payload: int, usable: int, *, table: bool) -> int:
    """How much of a payload is in the page itself ("Cell Payload Overflow Pages")."""
    most = usable - 35 if table else (usable - 12) * 64 // 255 - 23
    if payload <= most:
        return payload
    least = (usable - 12) * 32 // 255 - 23
    wanted = least + (payload - least) % (usable - 4)
    return wanted if wanted <= most else least


def overflow_heads(pgno: int, page: Page, usable: int) -> list[int]:
    """The first overflow page of each cell that has one, in the order of the cells of a leaf."""
    found = kind(pgno, page)
    if found not in (TABLE_LEAF, INDEX_LEAF):
        return []
    heads = []
    try:
        for pointer in _pointers(pgno, page):
            payload, at = varint(page, pointer)
            local = _local(payload, usable, table=found == TABLE_LEAF)
            if local == payload:
                continue
            if found == TABLE_LEAF:
                _, at = varint(page, at)
            heads.append(_u32.unpack_from(page, at + local)[0])
    except (IndexError, StructError):
        return []
    return heads


def index_rowids(pgno: int, page: Page, usable: int) -> list[int]:
    """The rowids that the entries of an index page end with, in order; empty when they are not integers."""
    found = kind(pgno, page)
    if found not in (INDEX_LEAF, INDEX_INTERIOR):
        return []
    rowids = []
    try:
        for pointer in _pointers(pgno, page):
            payload, at = varint(page, pointer if found == INDEX_LEAF else pointer + 4)
            if _local(payload, usable, table=False) != payload:
                return []
            types = _serial_types(page, at)
            rowids.append(_last_integer(page, at + payload, types[-1]))
    except (IndexError, KeyError):
        return []
    return rowids


def _serial_types(page: Page, at: int) -> list[int]:
    size, here = varint(page, at)
    types = []
    while here < at + size:
        serial, here = varint(page, here)
        types.append(serial)
    return types


def _last_integer(page: Page, end: int, serial: int) -> int:
    if serial in (8, 9):
        return serial - 8
    return int.from_bytes(page[end - _INTEGER_SIZES[serial] : end], "big", signed=True)


def schema_roots(pgno: int, page: Page) -> list[int]:
    """The root pages named by the rows of a leaf of sqlite_schema."""
    if kind(pgno, page) != TABLE_LEAF:
        return []
    roots = []
    for pointer in _pointers(pgno, page):
        try:
            root = _column(page, varint(page, varint(page, pointer)[1])[1], 3)
        except (IndexError, KeyError):
            continue
        if root:
            roots.append(root)
    return roots


def _column(page: Page, at: int, number: int) -> int:
    """An integer column of the record at ``at``."""
    types = _serial_types(page, at)
    here = at + varint(page, at)[0]
    for serial in types[:number]:
        here += (serial - 12) // 2 if serial >= 12 else _INTEGER_SIZES.get(serial, 8 if serial == 7 else 0)
    serial = types[number]
    return 0 if serial == 0 else _last_integer(page, here + _INTEGER_SIZES.get(serial, 0), serial)
