"""The console that commands print on: text from elsewhere is shown as it is, and does nothing to the terminal."""

from typing import Any

from rich.console import Console as RichConsole
from rich.text import Text

from amos_fl.escape.terminal import visible


class Console(RichConsole):
    """Rich's console without markup and emoji codes in texts, and with control characters escaped."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """The text that is printed for a string, also for one in a table's cell."""
        return super().render_str(visible(text), **settings)
