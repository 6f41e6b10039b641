"""The program: finds the command and runs it."""

from __future__ import annotations

__all__ = ["run"]


def run() -> None:
    """Run the command line."""
    raise SystemExit("vfsstream: no commands yet")
