"""Read hand-written JSON and CSV, refusing duplicate names; `safe_yaml` does the same for YAML.

The standard readers silently take the last of two values with the same name: `rounds: 10` at the top of a settings file
and `rounds: 1000` further down, or a table with two columns `label`. Here that is an error.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError

_REMEDY = "keep the one that is meant"


def load_json(text: str, where: Path | str) -> Any:
    """The value of a JSON text.

    Raises:
        AmosError: a key that is set twice; the sentence begins with `where`.
        ValueError: it is not JSON.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := _twice(name for name, _ in pairs):
            raise AmosError(f"{where}: {twice!r} is set twice; {_REMEDY}")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def columns_of(header: Sequence[str] | None, where: Path | str, *, fold: bool = True) -> list[str]:
    """The names of a CSV file's columns, stripped and (with `fold`) without capitals.

    Raises:
        AmosError: two columns with the same name; the sentence begins with `where`.
    """
    names = [name.strip().casefold() if fold else name.strip() for name in header or ()]
    if twice := _twice(name for name in names if name):
        raise AmosError(f"{where}: has two columns {twice!r}; {_REMEDY}")
    return names


class _Rows(csv.DictReader):
    """A reader that refuses a row with more values than the header has, of which Python's takes the first ones."""

    def __init__(self, file: Iterable[str], where: Path | str, **how: Any) -> None:
        super().__init__(file, **how)
        self.where = where

    def __next__(self) -> dict[str, Any]:
        row = super().__next__()
        refuse_surplus(row.pop(None, ()), len(row), self.where, self.line_num)
        return row


def refuse_surplus(surplus: Sequence[str], columns: int, where: Path | str, line: int) -> None:
    """Refuse a row with values beyond its columns; empty ones, which spreadsheets append, do no harm.

    Raises:
        AmosError: it has any; the sentence begins with `where`.
    """
    if any(value.strip() for value in surplus):
        raise AmosError(
            f"{where}, line {line}: has {columns + len(surplus)} values, the header {columns}",
            'a value with a comma in it needs quotation marks, "like, this"',
        )


def csv_rows(
    file: Iterable[str], where: Path | str, *, by_program: bool = False, delimiter: str = ","
) -> "csv.DictReader[str]":
    """A reader of the rows of a CSV file by column (see `columns_of`).

    A file written `by_program` is read literally: spaces and capitals count.

    Raises:
        AmosError: two columns of one name; while it is read, a row with more values than columns.
    """
    reader = _Rows(file, where, skipinitialspace=not by_program, delimiter=delimiter)
    columns = columns_of(reader.fieldnames, where, fold=not by_program)
    if not by_program:
        reader.fieldnames = columns
    return reader


def _twice(names: Iterable[str]) -> str | None:
    return next((name for name, number in Counter(names).items() if number > 1), None)
