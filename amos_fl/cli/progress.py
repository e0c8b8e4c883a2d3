"""Progress of work on many cases: a bar on a terminal, an occasional line elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from amos_fl.escape.console import PLAIN_WIDTH, Console

PLAIN_EVERY_S = 15.0


def plain_console(width: int = PLAIN_WIDTH) -> Console:
    """A console that prints text as it is; without a terminal its tables are `width` columns wide."""
    return Console(highlight=False, plain_width=width)


class Progress:
    """One bar on stderr. Use it as a context manager, so that the terminal is restored.

    With a `verb` it is itself the callback (done, total, case) for work on cases.
    """

    def __init__(self, verb: str = "") -> None:
        self._verb = verb
        self._bar: Any = None
        self._task: Any = None
        self._said_at = time.monotonic()

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn()
            self._bar = Bars(*columns, console=Console(stderr=True, markup=False), transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, text: str, done: int, total: int) -> None:
        """Say that `done` of `total` pieces of what `text` names are finished."""
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(text, total=total)
            self._bar.update(self._task, description=text, completed=done, total=total)
        elif time.monotonic() - self._said_at > PLAIN_EVERY_S and done < total:
            self._said_at = time.monotonic()
            print(f"{text}: {done}/{total}", file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int, case: str) -> None:
        self.show(f"{self._verb} {case}", done, total)

    def of(self, verb: str) -> Callable[[int, int, str], None]:
        """A callback (done, total, case) for work on cases."""
        return lambda done, total, case: self.show(f"{verb} {case}", done, total)
