"""The console that commands print on: text from elsewhere is shown as it is, and does nothing to the terminal."""

import os
import sys
from typing import Any

from rich.console import Console as RichConsole
from rich.text import Text

from amos_fl.escape.terminal import visible

PLAIN_WIDTH = 120
"""Columns of a table where there is no terminal; Rich takes 80, which wraps most paths."""


class Console(RichConsole):
    """Rich's console without markup and emoji codes in texts, and with control characters escaped.

    Where its output is no terminal, a text is one line of a log, however long: a wrapped path can be neither found nor
    copied.
    """

    def __init__(self, *, plain_width: int = PLAIN_WIDTH, **settings: Any) -> None:
        known = sys.stdout.isatty() or os.environ.get("COLUMNS")
        super().__init__(**{"markup": False, "emoji": False, "width": None if known else plain_width, **settings})

    def print(self, *objects: Any, **settings: Any) -> None:
        """As Rich's `print`, with texts in one piece where there is no terminal."""
        if not self.is_terminal and all(isinstance(one, str) for one in objects):
            settings = {"soft_wrap": True, **settings}
        super().print(*objects, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """The text that is printed for a string, also for one in a table's cell."""
        return super().render_str(visible(text), **settings)
