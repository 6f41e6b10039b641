"""The house: who may import whom, and what the pure parts may not touch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "vfsstream"
# A package may import from those named here, and from itself.
ALLOWED = {
    "errors": set(),
    "ltx": {"errors"},
    "plan": {"ltx", "errors"},
    "stores": {"errors"},
    "replica": {"plan", "stores", "ltx", "errors"},
    "vfs": {"replica", "plan", "stores", "ltx", "errors"},
    "replicate": {"replica", "plan", "stores", "ltx", "errors"},
    "sqlite3": {"vfs", "errors"},
    "config": {"replicate", "vfs", "replica", "plan", "stores", "ltx", "errors"},
    "daemon": {"config", "replicate", "vfs", "replica", "plan", "stores", "ltx", "errors"},
    "cli": {"daemon", "config", "replicate", "vfs", "replica", "plan", "stores", "ltx", "errors"},
}
# Modules that decide: no I/O, no clock, no threads. Whole packages, and single modules.
PURE = ("ltx", "plan")
FORBIDDEN_IN_PURE = {"os", "io", "socket", "time", "threading", "subprocess", "pathlib", "tempfile", "random"}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "vfsstream":
                found.update(f"vfsstream.{alias.name}" for alias in node.names)
    return found


def _modules(package: str) -> list[Path]:
    single = PACKAGE / f"{package}.py"
    return [single] if single.exists() else sorted((PACKAGE / package).rglob("*.py"))


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_down_only(package: str) -> None:
    for path in _modules(package):
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] != "vfsstream" or len(parts) == 1 or parts[1] not in ALLOWED:
                continue
            assert parts[1] == package or parts[1] in ALLOWED[package], f"{path.name} imports {name}"


@pytest.mark.parametrize("package", PURE)
def test_the_pure_parts_do_no_io(package: str) -> None:
    for path in _modules(package):
        touched = {name.split(".")[0] for name in _imports(path)} & FORBIDDEN_IN_PURE
        assert not touched, f"{path.name} imports {touched}"


def test_every_module_has_a_docstring_and_stays_small() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
        assert text.count("\n") <= 600, f"{path} has grown past 600 lines: split it"
