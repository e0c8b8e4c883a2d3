"""Sortable tables of the page: what a cell shows, and what it sorts by."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from amos_fl.wording import MISSING

MOST_LETTERS = 12
"""Of a header's words that are never broken."""


@dataclass(frozen=True)
class Cell:
    """A cell: `text` is shown, with `small` below it, as a link to `href` if there is one.

    `value` is what a number sorts by, None if it is text or missing.
    """

    text: str
    value: float | None = None
    href: str = ""
    small: str = ""


@dataclass(frozen=True)
class Column:
    """A column's header; `number` says how its cells are aligned and sorted, `what` explains it below the table."""

    head: str
    number: bool = True
    what: str = ""

    @property
    def long(self) -> bool:
        """Whether a word of the header is so long that it must be broken.

        >>> Column("trained on").long, Column("hallucinated").long, Column("fedavg_with_momentum").long
        (False, False, True)
        """
        return max(map(len, re.split(r"[\s-]", self.head))) > MOST_LETTERS


@dataclass(frozen=True)
class SortableTable:
    """A table that sorts on a click on a header. `csv` is the file beside the page that holds its numbers.

    On a narrow screen it scrolls sideways or, if it `stacks`, each of its rows is a card with the headers as labels.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    csv: str = ""
    stacks: bool = False

    @property
    def explained(self) -> list[Column]:
        """The columns whose header needs words."""
        return [column for column in self.columns if column.what]


def number(value: float, digits: int = 3) -> Cell:
    """A number, or a dash if there is none.

    >>> number(0.71284), number(math.nan)
    (Cell(text='0.713', value=0.71284, href='', small=''), Cell(text='-', value=None, href='', small=''))
    """
    return Cell(MISSING) if math.isnan(value) else Cell(f"{value:.{digits}f}", float(value))


def count(value: float) -> Cell:
    """A whole number with thin spaces between thousands.

    >>> count(124800).text
    '124\u202f800'
    """
    return Cell(f"{value:,.0f}".replace(",", "\u202f"), float(value))


def text(value: object, href: str = "") -> Cell:
    return Cell(str(value), href=href)


def table(
    name: str,
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell]],
    csv: str = "",
    *,
    stacks: bool = False,
) -> SortableTable:
    """A table; `name` is unique on the page."""
    return SortableTable(name, caption, tuple(columns), tuple(map(tuple, rows)), csv, stacks)
