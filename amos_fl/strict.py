"""Read hand-written JSON and CSV, refusing duplicate names; `safe_yaml` does the same for YAML.

The standard readers silently take the last of two values with the same name: `rounds: 10` at the top of a settings file
and `rounds: 1000` further down, or a table with two columns `label`. Here that is an error.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

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


def csv_rows(file: TextIO, where: Path | str, *, by_program: bool = False) -> "csv.DictReader[str]":
    """A reader of the rows of a CSV file by column (see `columns_of`).

    A file written `by_program` is read literally: spaces and capitals count.

    Raises:
        AmosError: two columns of one name.
    """
    reader = csv.DictReader(file, skipinitialspace=not by_program)
    columns = columns_of(reader.fieldnames, where, fold=not by_program)
    if not by_program:
        reader.fieldnames = columns
    return reader


def _twice(names: Iterable[str]) -> str | None:
    return next((name for name, number in Counter(names).items() if number > 1), None)
