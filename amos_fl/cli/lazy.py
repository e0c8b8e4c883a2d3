"""Commands that are loaded when they are called: click's lazy group, for typer.

`amos-fl --help` is printed from a table and imports no command (click's documentation, "Lazily loading subcommands").
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import click
import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from amos_fl.cli.usage import value_in_words


@dataclass(frozen=True)
class CommandGroup:
    """Commands under one name: for each its function, as `module:function`, and a line of help, or another group.

    `alone` is the function that is called when no command follows the name, if there is one.
    """

    help: str
    commands: "Mapping[str, tuple[str, str] | CommandGroup]"
    alone: str = ""


def app_of(group: CommandGroup, callback: Callable[..., None] | None = None, **settings: Any) -> typer.Typer:
    """The typer app of a group; `callback` has the group's own options."""

    class Commands(LazyGroup):
        table = group.commands

    settings |= {"no_args_is_help": not group.alone, "invoke_without_command": bool(group.alone)}
    settings = {"add_completion": False, "pretty_exceptions_enable": False, **settings}
    return typer.Typer(cls=Commands, help=group.help, callback=callback, **settings)


class LazyGroup(TyperGroup):
    """A group whose commands are names with a line of help until one is called."""

    table: ClassVar[Mapping[str, tuple[str, str] | CommandGroup]] = {}

    def __init__(self, **given: Any) -> None:
        lines = {
            name: entry.help if isinstance(entry, CommandGroup) else entry[1] for name, entry in self.table.items()
        }
        listed = {name: TyperCommand(name, short_help=line) for name, line in lines.items()}
        super().__init__(**{**given, "commands": listed})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called, with its module."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and _loaded(str(listed.name), self.table[str(listed.name)]), rest


def _loaded(name: str, entry: tuple[str, str] | CommandGroup) -> click.Command:
    if isinstance(entry, CommandGroup):
        return typer.main.get_group(app_of(entry, _function(entry.alone) if entry.alone else None, name=name))
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name, cls=WholeNames)(_function(entry[0]))
    return typer.main.get_command(single)


def _function(where: str) -> Callable[..., None]:
    module, _, name = where.partition(":")
    return getattr(import_module(f"amos_fl.cli.{module}"), name)


class WholeNames(TyperCommand):
    """A command whose help truncates no option's name in 80 columns.

    `--no-mirror` is printed below `--mirror`, not beside it, and the values allowed are in the text.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments by option; an error knows its command, so that it can name its help."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = copy(self)
        shown.params = [_narrow(parameter) for parameter in self.params]
        super(WholeNames, shown).format_help(ctx, formatter)


def _narrow(parameter: click.Parameter) -> click.Parameter:
    if not isinstance(parameter, click.Option):
        return parameter
    shown = copy(parameter)
    shown.opts = [*parameter.opts, *(f"\n{name}" for name in parameter.secondary_opts)]
    shown.secondary_opts = []
    if found := value_in_words(parameter.type):
        shown.metavar, said = found
        shown.type = click.STRING
        shown.help = f"{parameter.help} ({said})" if said else parameter.help
    return shown
