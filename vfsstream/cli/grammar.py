"""Command lines in the grammar of Go's ``flag`` package, on Click.

One dash or two are the same; ``-name value`` and ``-name=value``; a boolean takes a value only after ``=``; the
word after a value flag is its value even when it starts with a dash; no abbreviations and no clusters. Beyond
Go, flags may follow positional arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import click

from vfsstream.config.values import parse_bool

__all__ = ["HELP_NAMES", "GoCommand", "argument", "flag", "nearest", "option", "rewrite"]

HELP_NAMES = ["-h", "-help", "--help", "--h"]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a misspelling most likely means, or ``None``."""
    import difflib

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def option(name: str, kind: click.ParamType[Any] | type | None = None, **settings: Any) -> Decorator:
    """A flag with a value, spelled ``-name`` and ``--name``."""
    settings.setdefault("metavar", name.rpartition("-")[2].upper())
    return click.option(f"-{name}", f"--{name}", name.replace("-", "_"), type=kind, cls=_Valued, **settings)


def flag(name: str, help: str, **settings: Any) -> Decorator:
    """A boolean flag; the pair lets a later ``-name=false`` undo an earlier one."""
    names = (f"-{name}/-no-{name}", f"--{name}/--no-{name}", name.replace("-", "_"))
    return click.option(*names, help=help, default=False, cls=_Flag, **settings)


class _Valued(click.Option):
    """Help shows the spelling with one dash; the last line of the help says that two are the same."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return f"{self.opts[0]} {self.make_metavar(ctx)}", self.help or ""


class _Flag(click.Option):
    """Help and completion show the positive spelling only; ``-name=false`` is how it is undone."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return self.opts[0], self.help or ""


def argument(name: str, metavar: str, *, many: bool = False, required: bool = False) -> Decorator:
    """A positional argument."""
    return click.argument(name, metavar=metavar, nargs=-1 if many else 1, required=required)


class GoCommand(click.Command):
    """A command whose flags follow Go's grammar."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings.setdefault("context_settings", {"help_option_names": HELP_NAMES, "max_content_width": 100})
        settings.setdefault("options_metavar", "[FLAGS]")
        super().__init__(*arguments, **settings)
        if any(isinstance(param, (_Flag, _Valued)) for param in self.params):
            self.epilog = "One dash or two are the same, and so are -name VALUE and -name=VALUE."

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The flag of the help, shown by its shortest spelling."""
        found = super().get_help_option(ctx)
        if found is not None:
            found.get_help_record = lambda ctx: ("-h, -help", "show this and exit")  # type: ignore[method-assign]
        return found

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """All flags under the word that they go by here."""
        options = [param for param in self.get_params(ctx) if _is_option(param)]
        records = [record for param in options if (record := param.get_help_record(ctx)) is not None]
        with formatter.section("Flags"):
            formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite the words to what Click understands, then let it parse."""
        table = {
            name.lstrip("-"): param for param in self.get_params(ctx) for name in param.opts if _is_option(param)
        }
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        try:
            return super().parse_args(ctx, rewrite(args, table))
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


def _is_option(param: click.Parameter) -> bool:
    return isinstance(param, click.Option)


def rewrite(words: list[str], table: Mapping[str, click.Parameter]) -> list[str]:
    """Go's spelling to Click's.

    Raises:
        click.UsageError: a flag that does not exist, lacks its value or has one it does not take.
    """
    result: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*result, word, *rest]
        if len(word) < 2 or not word.startswith("-"):
            result.append(word)
            continue
        result.append(_one_flag(word, rest, table))
    return result


def _one_flag(word: str, rest: Iterator[str], table: Mapping[str, click.Parameter]) -> str:
    body = word[2:] if word.startswith("--") else word[1:]
    name, equals, value = body.partition("=")
    if not name or name.startswith("-"):
        raise click.UsageError(f"bad flag syntax: {word}")
    param = table.get(name)
    if param is None:
        raise click.UsageError(_unknown(word.partition("=")[0], name, table))
    long = f"--{name}"
    assert isinstance(param, click.Option)
    if param.is_flag:
        return _boolean(param, name, long, value if equals else None)
    if not equals:
        following = next(rest, None)
        if following is None:
            raise click.UsageError(f"flag -{name} needs a value")
        value = following
    return f"{long}={value}"


def _boolean(param: click.Option, name: str, long: str, value: str | None) -> str:
    if value is None:
        return long
    if not param.secondary_opts:  # help: any value asks for it
        return long
    try:
        return long if parse_bool(value) else f"--no-{name}"
    except ValueError as error:
        raise click.UsageError(f"flag -{name}: {error}") from None


def _unknown(word: str, name: str, table: Mapping[str, click.Parameter]) -> str:
    near = nearest(name, table)
    suggestion = f"; did you mean -{near}?" if near else ""
    return f"unknown flag {word}{suggestion}"
