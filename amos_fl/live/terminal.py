"""A view on a terminal: once, or kept up to date until there is nothing more to come."""

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as RichTable
from rich.text import Text

from amos_fl.escape.terminal import one_line
from amos_fl.live.view import View


def show(look: Callable[[], View], console: Console, every_s: float) -> None:
    """Show a view until it is over or Ctrl-C; where the output is no terminal, once."""
    view = look()
    if not console.is_terminal or view.over:
        # A path that is torn at the end of a line can be neither found nor copied.
        console.print(rendered(view, console.width), soft_wrap=True)
        return
    with Live(rendered(view, console.width), console=console, auto_refresh=False, transient=False) as live:
        try:
            while not view.over:
                time.sleep(every_s)
                view = look()
                live.update(rendered(view, console.width), refresh=True)
        except KeyboardInterrupt:
            pass


def rendered(view: View, width: int = 120) -> RenderableType:
    """A view as text, bars and tables; its charts are on the page alone."""
    parts: list[RenderableType] = [Text(one_line(f"{view.title}: {view.state}"), style="bold")]
    parts += [Text(one_line(note)) for note in view.notes]
    parts += [Text(one_line(alarm), style="bold red") for alarm in view.alarms]
    if view.bars:
        grid = RichTable.grid(padding=(0, 1))
        for bar in view.bars:
            share = ProgressBar(total=max(bar.total, 1), completed=bar.done, width=min(24, max(8, width // 5)))
            grid.add_row(one_line(bar.label), share, f"{bar.done}/{bar.total}", one_line(bar.text))
        parts.append(grid)
    for table in view.tables:
        shown = RichTable(title=table.title, title_justify="left", title_style="bold")
        for number, name in enumerate(table.head):
            shown.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*(Text(one_line(cell)) for cell in row))
        parts.append(shown)
    parts += [Text(one_line(line), style="dim") for line in view.lines[-8:]]
    return Group(*parts)
