"""CSV files whose text stays text in a spreadsheet.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula. Such a cell gets a leading apostrophe,
as OWASP recommends (CSV injection). Numbers stay numbers, and our own readers remove the apostrophe.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

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
    """`csv.writer`, with formulas escaped."""

    def __init__(self, file: TextIO, *, lineterminator: str = "\r\n") -> None:
        self._writer = csv.writer(file, lineterminator=lineterminator)

    def writerow(self, row: Iterable[Any]) -> None:
        self._writer.writerow([cell(value) for value in row])

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        for row in rows:
            self.writerow(row)


class DictWriter:
    """`csv.DictWriter`, with formulas escaped."""

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
    """The rows of a `csv.DictReader` over one of our files, unescaped."""
    for row in rows:
        yield {key: text_of(value) if isinstance(value, str) else value for key, value in row.items()}
