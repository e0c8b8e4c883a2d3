"""Commands that are loaded when they are called: click's lazy group, for typer.

`amos-fl --help` lists what a table says, and imports no command (click's documentation, "Lazily loading subcommands").
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


@dataclass(frozen=True)
class Command:
    """Where a command is, as `module:function`, and its line in the list of commands."""

    where: str
    help: str


@dataclass(frozen=True)
class Group:
    """Commands under one name, and the function, as `module:function`, that answers to the name alone, if one does."""

    help: str
    commands: Mapping[str, "Command | Group"]
    where: str = ""


def app_of(group: Group, callback: Callable[..., None] | None = None, **settings: Any) -> typer.Typer:
    """The typer app of a group; `callback` has the group's own options."""

    class Commands(LazyGroup):
        table = group.commands

    settings = {"no_args_is_help": not group.where, "invoke_without_command": bool(group.where), **settings}
    return typer.Typer(
        cls=Commands,
        help=group.help,
        callback=callback,
        add_completion=False,
        pretty_exceptions_enable=False,
        **settings,
    )


class LazyGroup(TyperGroup):
    """Its commands are names with a line of help until one of them is called."""

    table: ClassVar[Mapping[str, Command | Group]] = {}

    def __init__(self, **given: Any) -> None:
        listed = {name: TyperCommand(name, short_help=entry.help) for name, entry in self.table.items()}
        super().__init__(**{**given, "commands": listed})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called, with its module."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and _loaded(name or "", self.table[str(listed.name)]), rest


def _loaded(name: str, entry: Command | Group) -> click.Command:
    function = _attribute(entry.where) if entry.where else None
    if isinstance(entry, Group):
        group = typer.main.get_group(app_of(entry, function))
        group.name = name
        return group
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name, cls=WholeNames)(function)  # pyright: ignore[reportArgumentType] - a command has a function
    return typer.main.get_command(single)


def _attribute(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


class WholeNames(TyperCommand):
    """A command whose help never cuts an option's name: `--no-...` stands below its counterpart, not beside it."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = copy(self)
        shown.params = [_below_one_another(parameter) for parameter in self.params]
        super(WholeNames, shown).format_help(ctx, formatter)


def _below_one_another(parameter: click.Parameter) -> click.Parameter:
    if not parameter.secondary_opts:
        return parameter
    shown = copy(parameter)
    shown.opts = [*parameter.opts, *(f"\n{name}" for name in parameter.secondary_opts)]
    shown.secondary_opts = []
    return shown
