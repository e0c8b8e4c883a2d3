"""Keeps the help of commands' arguments, which typer 0.20, the newest that Flower allows, loses with click 8.5.

Since 8.5 click's own constructor has a parameter `help`; it runs after typer's and sets it to None.
"""

from typing import Any

import typer.core
import typer.main


class _Argument(typer.core.TyperArgument):
    def __init__(self, *, help: str | None = None, **given: Any) -> None:
        super().__init__(help=help, **given)
        self.help = help


def keep_argument_help() -> None:
    """Make every command that typer builds from now on show the help of its arguments."""
    typer.main.TyperArgument = _Argument  # pyright: ignore[reportPrivateImportUsage]
