"""What the benchmarks measure, as rows of the one table that `benchmarks/table.py` prints."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "AMOS_FL_BENCHMARK_ROWS"
"""The environment variable with the file that the rows go to; without it nothing is kept."""
OURS = "amos-fl"


@dataclass(frozen=True)
class Row:
    """One measured value: `value` in `unit`, less is better; `limit` is what ours should reach, in the same unit.

    `memory` is said beside the value. A value of None says that the tool was not there, or failed.
    """

    work: str
    tool: str
    value: float | None
    unit: str = "s"
    memory: str = ""
    limit: float | None = None


def note(
    work: str, tool: str, value: float | None, unit: str = "s", *, memory: str = "", limit: float | None = None
) -> None:
    """Keep a measured value for the table, if one is being made."""
    if FILE in os.environ:
        with Path(os.environ[FILE]).open("a", encoding="utf-8") as rows:
            rows.write(json.dumps(asdict(Row(work, tool, value, unit, memory, limit))) + "\n")


def read_rows(file: Path) -> list[Row]:
    """The rows in a file, in the order in which they were measured."""
    if not file.is_file():
        return []
    return [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
