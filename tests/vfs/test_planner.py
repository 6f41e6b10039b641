"""The planner as a whole: its modes, and that what decides does no I/O."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import vfsstream.vfs
from vfsstream.vfs.planner import MODES, Planner

FORBIDDEN = {"os", "io", "socket", "time", "threading", "subprocess", "pathlib", "tempfile", "random"}
PURE = ("ranges", "readahead", "sqlitepage", "btree", "leads", "planner", "escalate", "bulk")


@pytest.mark.parametrize("name", PURE)
def test_what_decides_touches_neither_clock_nor_file(name: str) -> None:
    path = Path(vfsstream.vfs.__file__).with_name(f"{name}.py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN


def test_off_fetches_the_page_and_nothing_else() -> None:
    planner = Planner("off", 1000, 3000, 4 << 20)
    assert [list(planner.miss(pgno).pages) for pgno in range(1, 50)] == [[pgno] for pgno in range(1, 50)]


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"off"}))
def test_every_other_mode_reads_ahead_of_a_scan(mode: str) -> None:
    planner = Planner(mode, 10_000, 3000, 4 << 20)
    sizes, pgno = [], 1
    for _ in range(8):
        plan = planner.miss(pgno)
        sizes.append(len(plan.pages))
        pgno += len(plan.pages)
    assert sizes[0] == (64 << 10) // 3000
    assert sizes == sorted(sizes)
    assert sizes[-1] == (4 << 20) // 3000


def test_large_pages_still_begin_with_one() -> None:
    planner = Planner("auto", 1000, 60_000, 4 << 20)
    assert list(planner.miss(5).pages) == [5]
