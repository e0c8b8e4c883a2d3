"""YAML, JSON and CSV that people write, read so that nothing in them counts silently.

The formats' own readers take the last of two values that stand under one name, without a word: `rounds: 10` at the top
of a file of settings and `rounds: 1000` further down, or a table with two columns `label`. Here that is an error.
"""

import csv
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

from amos_fl.errors import AmosError

_REMEDY = "keep the one that is meant"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a mapping with one key twice; merged keys (`<<`) may be overridden."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line, first = key.start_mark.line + 1, lines.get(key.value)
                if first is not None:
                    raise AmosError(f"{key.value!r} is set on line {first} and again on line {line}; {_REMEDY}")
                lines[key.value] = line
        return super().construct_mapping(node, deep=deep)


def load_yaml(text: str, where: Path | str) -> Any:
    """What YAML text says.

    >>> load_yaml("rounds: 10\\nrounds: 1000", "run.yaml")
    Traceback (most recent call last):
    amos_fl.errors.AmosError: run.yaml: 'rounds' is set on line 1 and again on line 2; keep the one that is meant

    Raises:
        AmosError: a key that is set twice; the sentence begins with `where`.
        yaml.YAMLError: it is not YAML, or it is nested too deeply or holds a value that no Python object can be.
    """
    try:
        return yaml.load(text, _Loader)
    except AmosError as error:
        raise AmosError(f"{where}: {error}") from None
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        raise yaml.YAMLError(str(error) or type(error).__name__) from None


def load_json(text: str, where: Path | str) -> Any:
    """What JSON text says.

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
        AmosError: two columns of one name; the sentence begins with `where`.
    """
    names = [name.strip().casefold() if fold else name.strip() for name in header or ()]
    if twice := _twice(name for name in names if name):
        raise AmosError(f"{where}: has two columns {twice!r}; {_REMEDY}")
    return names


def csv_rows(file: TextIO, where: Path | str, *, fold: bool = True) -> "csv.DictReader[str]":
    """A reader of the rows of a CSV file by column (see `columns_of`).

    Raises:
        AmosError: two columns of one name.
    """
    reader = csv.DictReader(file, skipinitialspace=True)
    reader.fieldnames = columns_of(reader.fieldnames, where, fold=fold)
    return reader


def _twice(names: Iterable[str]) -> str | None:
    return next((name for name, number in Counter(names).items() if number > 1), None)
