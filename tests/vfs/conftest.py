"""Acceptance tests of the reader run in many modes; see :mod:`tests.vfs.modes`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import vfsstream
from tests.vfs.modes import DEFAULT, MODES, Mode, on_the_copy, usual
from vfsstream.vfs.registry import registry


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test marked ``modes`` all of them: a few in every run, the rest in the soak."""
    node = metafunc.definition
    if node.get_closest_marker("modes") is None or node.get_closest_marker("default_mode") is not None:
        return
    remote = node.get_closest_marker("remote") is not None
    modes = [mode for mode in MODES if not (remote and (mode.disk or mode.copy))]
    if node.get_closest_marker("soak") is not None:
        modes = [DEFAULT]
    chosen = usual(metafunc.module, metafunc.function.__name__, modes) if len(modes) > 1 else modes
    metafunc.parametrize(
        "mode",
        [pytest.param(mode, id=str(mode), marks=[] if mode in chosen else pytest.mark.soak) for mode in modes],
        indirect=True,
    )


@pytest.fixture(autouse=True)
def mode(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mode]:
    """The mode that the test runs in."""
    chosen: Mode = getattr(request, "param", DEFAULT)
    if chosen == DEFAULT:
        yield chosen
        return
    home: Path = tmp_path_factory.mktemp("local")
    with monkeypatch.context() as patch:
        for name, value in chosen.environment(home).items():
            patch.setenv(name, value)
        if chosen.copy == "native":
            patch.setattr(vfsstream, "connect", on_the_copy(vfsstream.connect))
        yield chosen
        registry.close_idle()
