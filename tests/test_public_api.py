"""Public names are those in ``__all__``, in every module."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import vfsstream

# Modules without public names: programs.
PROGRAMS = {"vfsstream.__main__"}


def _modules() -> list[str]:
    found = ["vfsstream"]
    for module in pkgutil.walk_packages(vfsstream.__path__, "vfsstream."):
        found.append(module.name)
    return [name for name in found if name not in PROGRAMS]


@pytest.mark.parametrize("name", _modules())
def test_every_name_of_all_exists(name: str) -> None:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None)
    if names is None:
        assert name.count(".") == 1, f"{name} has no __all__"  # a package that only groups modules
        return
    assert len(set(names)) == len(names), f"{name}.__all__ names something twice"
    for public in names:
        assert hasattr(module, public), f"{name}.__all__ names {public}, which does not exist"


def test_the_top_level_shows_its_public_names_and_nothing_else() -> None:
    shown = {name for name in dir(vfsstream) if not name.startswith("_") or name == "__version__"}
    modules = {name.split(".")[1] for name in _modules() if name.count(".") == 1}
    assert shown - modules == set(vfsstream.__all__) - modules
