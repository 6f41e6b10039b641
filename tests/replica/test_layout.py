"""Both families of keys."""

from __future__ import annotations

import pytest

from vfsstream.ltx.names import TXID
from vfsstream.replica.layout import layout_for

NAME = "0000000000000002-000000000000000a.ltx"


@pytest.mark.parametrize(
    ("kind", "level", "key"),
    [
        ("file", 0, f"ltx/0/{NAME}"),
        ("gs", 9, f"ltx/9/{NAME}"),
        ("nats", 1, f"ltx/1/{NAME}"),
        ("s3", 0, f"0000/{NAME}"),
        ("oss", 9, f"0009/{NAME}"),
    ],
)
def test_keys_of_both_families(kind: str, level: int, key: str) -> None:
    layout = layout_for(kind)
    assert layout.key(level, 2, 10) == key
    assert layout.parse(key) == (TXID(2), TXID(10))


@pytest.mark.parametrize(
    "name", ["x.ltx", NAME.upper(), NAME + ".tmp", NAME + "\n", "000000000000000a-0000000000000002.ltx"]
)
def test_foreign_names_are_not_files(name: str) -> None:
    assert layout_for("file").parse(f"ltx/0/{name}") is None


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_start_after_sorts_directly_before_the_wanted_files(kind: str) -> None:
    layout = layout_for(kind)
    start = layout.start_after(0, 5)
    assert start is not None
    assert layout.key(0, 4, (1 << 64) - 1) < start < layout.key(0, 5, 5)
    assert layout.start_after(0, 1) is None
