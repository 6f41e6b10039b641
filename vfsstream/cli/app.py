"""The program: finds the command, loads only its module, runs it, and turns every error into one line.

Results go to stdout; logs, progress and errors to stderr. Exit statuses: :mod:`vfsstream.cli.exits`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from vfsstream.cli.exits import ExitStatus, code_of, describe
from vfsstream.cli.grammar import HELP_NAMES, nearest
from vfsstream.errors import UsageError, VfsstreamError

__all__ = ["COMMANDS", "Program", "program", "run"]

COMMANDS: dict[str, tuple[str, str]] = {
    # name: (module below vfsstream.cli, one line of help); the command is the module's attribute of the name
    "check": ("check", "try a place for replicas: what works there, and how fast"),
    "completion": ("completion", "print the completion script of a shell"),
    "config": ("config", "check a configuration file, or list its keys"),
    "copy": ("copy", "copy a replica to a second place"),
    "dashboard": ("dashboard", "serve a page that shows replicas, live"),
    "databases": ("databases", "list the databases of the configuration"),
    "info": ("control", "show the running daemon"),
    "list": ("control", "list the databases of the running daemon"),
    "ltx": ("ltx", "list the LTX files of a replica"),
    "mcp": ("mcp", "serve assistants over the Model Context Protocol"),
    "points": ("points", "list the moments that can be restored"),
    "query": ("query", "run SQL on a replica without restoring it"),
    "register": ("control", "add a database to the running daemon"),
    "replicate": ("replicate", "replicate databases until stopped"),
    "reset": ("reset", "remove the local state of a database"),
    "restore": ("restore", "recover a database from its replica"),
    "shell": ("shell", "open an SQL shell on a replica"),
    "start": ("control", "continue the replication of a database"),
    "status": ("status", "show the state of the databases of the configuration"),
    "stop": ("control", "pause the replication of a database"),
    "sync": ("control", "sync a database now"),
    "unregister": ("control", "remove a database from the running daemon"),
    "verify": ("verify", "read a whole replica and check everything"),
    "version": ("version", "print the version"),
}
ALIASES = {"wal": "ltx"}
GROUPS = {
    "Replicate": "replicate status databases reset config",
    "Read": "query shell points ltx dashboard mcp",
    "Recover": "restore verify copy check",
    "The running daemon": "info list sync start stop register unregister",
    "Other": "completion version",
}
_WIDTH = max(map(len, COMMANDS))


class Program(click.Group):
    """The group of all commands; each is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in ALIASES:
            click.echo(f"warning: '{name}' is deprecated, use '{ALIASES[name]}'", err=True)
            name = ALIASES[name]
        if name not in COMMANDS:
            return None
        module = import_module(f"vfsstream.cli.{COMMANDS[name][0]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{_WIDTH}}", COMMANDS[name][1]) for name in names.split()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Go's order: the command first, its flags after it."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        if not args:
            click.echo(ctx.get_help())
            raise ExitStatus(1)
        word = args[0]
        if word in (*HELP_NAMES, "help"):
            self._help(ctx, args[1:])
        if word in ("-version", "--version"):
            args = ["version"]
        elif word.startswith("-"):
            raise UsageError(
                f"flag {word.partition('=')[0]} before the command",
                hint=f"vfsstream COMMAND {word}: flags belong after the command",
            )
        elif word not in COMMANDS and word not in ALIASES:
            near = nearest(word, COMMANDS)
            hint = f"did you mean 'vfsstream {near}'?" if near else "vfsstream help"
            raise UsageError(f"unknown command {word!r}", hint=hint)
        return super().parse_args(ctx, args)

    def _help(self, ctx: click.Context, words: Sequence[str]) -> None:
        command = self.get_command(ctx, words[0]) if words else None
        if command is None:
            click.echo(ctx.get_help())
        else:
            with click.Context(command, info_name=words[0], parent=ctx) as child:
                click.echo(command.get_help(child))
        raise ExitStatus(0)


program = Program(
    name="vfsstream",
    help="Query SQLite databases live from object storage, and replicate them there.",
    epilog="'vfsstream COMMAND -h' shows the flags of a command.",
    context_settings={"help_option_names": HELP_NAMES, "max_content_width": 100},
    options_metavar="",
    subcommand_metavar="COMMAND [FLAGS] [ARGUMENTS]",
)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its status."""
    status = execute(list(sys.argv[1:] if arguments is None else arguments))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output went away; the interpreter's own flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or 1
    sys.exit(status)


def execute(arguments: list[str]) -> int:
    """Run one command line; returns the exit status. Never raises for anything that a user can cause."""
    try:
        program.main(arguments, prog_name="vfsstream", standalone_mode=False)
    except ExitStatus as status:
        return status.code
    except click.exceptions.Exit as end:
        return end.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted", err=True)
        return 130
    except click.UsageError as error:
        return _report(_usage(error))
    except BrokenPipeError:
        return 1
    except (VfsstreamError, OSError, click.ClickException) as error:
        return _report(error)
    except Exception as error:
        return _unexpected(error)
    return 0


def _usage(error: click.UsageError) -> UsageError:
    command = error.ctx.command_path if error.ctx else "vfsstream"
    return UsageError(error.format_message(), hint=f"{command} -h")


def _report(error: BaseException) -> int:
    for line in describe(error):
        click.echo(line, err=True)
    return code_of(error)


def _unexpected(error: Exception) -> int:
    """A defect of ours: one line, and where to find the rest."""
    if os.environ.get("VFSSTREAM_TRACEBACK"):
        raise error
    click.echo(f"Error: internal error: {type(error).__name__}: {describe(error)[0][7:]}", err=True)
    click.echo("Try: VFSSTREAM_TRACEBACK=1 shows where; please report it", err=True)
    return 1
