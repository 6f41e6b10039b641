"""``vfsstream version``."""

from __future__ import annotations

import click

from vfsstream import __version__
from vfsstream.cli.grammar import GoCommand, argument, flag
from vfsstream.cli.output import print_json

__all__ = ["version"]


@click.command(cls=GoCommand)
@flag("verbose", "also the versions of Python, SQLite and the libraries")
@flag("json", "print JSON")
@argument("words", "", many=True)
def version(verbose: bool, json: bool, words: tuple[str, ...]) -> None:
    """Print the version."""
    details = _details() if verbose else {"version": __version__}
    if json:
        print_json(details)
    elif not verbose:
        click.echo(__version__)
    else:
        for name, value in details.items():
            click.echo(f"{_TITLES.get(name, name) + ':':<16}{value}")


_TITLES = {"version": "Version", "python": "Python", "sqlite": "SQLite", "apsw": "APSW", "platform": "Platform"}


def _details() -> dict[str, str]:
    import platform
    from importlib.metadata import version as installed

    import apsw

    names = ("apsw", "lz4", "fastcrc", "click")
    return {
        "version": __version__,
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        **{name: installed(name) for name in names},
        "platform": f"{platform.system().lower()}/{platform.machine()}",
    }
