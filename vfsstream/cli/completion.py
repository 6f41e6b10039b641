"""``vfsstream completion``: the script that teaches a shell our commands and flags."""

from __future__ import annotations

import click

from vfsstream.cli.grammar import GoCommand, argument
from vfsstream.cli.sources import one_argument
from vfsstream.errors import UsageError

__all__ = ["completion"]


@click.command(cls=GoCommand)
@argument("words", "bash|zsh|fish", many=True)
def completion(words: tuple[str, ...]) -> None:
    """Print the completion script of a shell, as in: source <(vfsstream completion bash)."""
    from click.shell_completion import get_completion_class

    from vfsstream.cli.app import program

    shell = one_argument("completion", words, "shell", "bash")
    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(f"unknown shell {shell!r}", hint="one of: bash zsh fish")
    click.echo(kind(program, {}, "vfsstream", "_VFSSTREAM_COMPLETE").source())
