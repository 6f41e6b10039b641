"""One store of each kind for the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.targets import NAMES, Place, new_place
from vfsstream.stores import MemoryStore, Store


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames and "store" not in metafunc.fixturenames:
        names = [name for name in NAMES if name != "memory"]
    elif "store" in metafunc.fixturenames:
        names = list(NAMES)
    else:
        return
    parameters = []
    for name in names:
        marks = [pytest.mark.xdist_group(name)]
        if name not in ("memory", "file"):
            marks.append(pytest.mark.server)
        parameters.append(pytest.param(name, marks=marks, id=name))
    metafunc.parametrize("kind", parameters)


@pytest.fixture
def place(kind: str, tmp_path: Path, server: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Place:
    """A fresh place on a real store."""
    found = new_place(kind, tmp_path, server)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def store(kind: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store with nothing in it."""
    if kind == "memory":
        yield MemoryStore()
        return
    found: Place = request.getfixturevalue("place")
    with found.open() as opened:
        if found.traits.clear:
            for prefix in ("ltx/0/", "ltx/1/", "ltx/9/"):
                opened.delete([info.key for info in opened.list(prefix)])
        yield opened
