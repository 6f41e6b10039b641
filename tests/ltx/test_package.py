"""The package hands its names out when they are asked for."""

from __future__ import annotations

import pytest

import vfsstream.ltx


def test_every_name_comes_from_its_module_and_no_other_exists() -> None:
    for name in vfsstream.ltx.__all__:
        assert getattr(vfsstream.ltx, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vfsstream.ltx.__getattr__("nothing")
