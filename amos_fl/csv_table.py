"""Write CSV files, whole or not at all."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from amos_fl.escape.csv_cells import Writer
from amos_fl.files import whole_file


def write_table(path: Path | str, columns: Sequence[str], rows: Iterable[Any]) -> None:
    """Write a CSV file with a header and these columns of each row, a mapping or an object with such attributes.

    Missing values (None, NaN) are empty, booleans are yes or no, and numbers read back exactly.
    """
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow(cells_of(columns, row))


def cells_of(columns: Sequence[str], row: Any) -> list[Any]:
    """What `write_table` writes of a row."""
    told = row.get if isinstance(row, Mapping) else partial(getattr, row)
    return [_shown(told(column)) for column in columns]


def _shown(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
