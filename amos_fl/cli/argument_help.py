"""The help of commands' arguments, which typer 0.20, the newest that Flower allows, loses where click is 8.5 or newer.

Click's own constructor has a `help` since then, runs after typer's and sets it to None.
"""

from typing import Any

import typer.core
import typer.main


class _Argument(typer.core.TyperArgument):
    def __init__(self, *, help: str | None = None, **given: Any) -> None:
        super().__init__(help=help, **given)
        self.help = help


def keep_argument_help() -> None:
    """Have every command that typer makes from now on show what its arguments are."""
    typer.main.TyperArgument = _Argument  # pyright: ignore[reportPrivateImportUsage]
