"""The command line: one module per command, each thin."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point of the ``vfsstream`` program."""
    from vfsstream.cli.app import run

    run()
