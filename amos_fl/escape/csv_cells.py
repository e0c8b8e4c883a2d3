"""CSV files whose text stays text in a spreadsheet.

There a cell that begins with `=`, `+`, `-` or `@` is a formula. Such a cell gets an apostrophe in front, as OWASP
recommends (CSV injection). Numbers stay numbers, and what reads a file of ours takes the apostrophe away again.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from amos_fl.files import whole_file

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf)|-")


def cell(value: Any) -> Any:
    """A value as it is written into a cell.

    >>> [cell(value) for value in ("=1+2", "-0.5", -0.5, "-", "a-b", "@x", "'=x")]
    ["'=1+2", '-0.5', -0.5, '-', 'a-b', "'@x", "''=x"]
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def text_of(cell_: str) -> str:
    """The text that was written into a cell.

    >>> [text_of(value) for value in ("'=1+2", "-0.5", "'tis", "''=x")]
    ['=1+2', '-0.5', "'tis", "'=x"]
    """
    return cell_[1:] if cell_.startswith("'") and _FORMULA.match(cell_) else cell_


class Writer:
    """`csv.writer`, with cells that are no formulas."""

    def __init__(self, file: TextIO, *, lineterminator: str = "\r\n") -> None:
        self._writer = csv.writer(file, lineterminator=lineterminator)

    def writerow(self, row: Iterable[Any]) -> None:
        self._writer.writerow([cell(value) for value in row])

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        for row in rows:
            self.writerow(row)


class DictWriter:
    """`csv.DictWriter`, with cells that are no formulas."""

    def __init__(self, file: TextIO, columns: Sequence[str], *, lineterminator: str = "\r\n") -> None:
        self._columns = list(columns)
        self._writer = csv.DictWriter(file, self._columns, lineterminator=lineterminator)

    def writeheader(self) -> None:
        self.writerow({column: column for column in self._columns})

    def writerow(self, row: Mapping[str, Any]) -> None:
        self._writer.writerow({key: cell(value) for key, value in row.items()})

    def writerows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self.writerow(row)


def rows_as_written(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a `csv.DictReader` over a file of ours, with the text that was written."""
    for row in rows:
        yield {key: text_of(value) if isinstance(value, str) else value for key, value in row.items()}


def write_table(path: Path | str, columns: Sequence[str], rows: Iterable[Any]) -> None:
    """A CSV file with a header: of each row, a mapping or an object with such attributes, these columns.

    What does not exist (None, NaN) is empty, a truth is yes or no, and numbers read back as they were.
    """
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.writerow(columns)
        for row in rows:
            told = row.get if isinstance(row, Mapping) else partial(getattr, row)
            writer.writerow([_shown(told(column)) for column in columns])


def _shown(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
