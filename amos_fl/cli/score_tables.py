"""Scores of label maps on the terminal."""

import math
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from amos_fl.metrics.catalogue import METRICS, title_of
from amos_fl.metrics.pairs import Problem
from amos_fl.metrics.rows import ScoreRow
from amos_fl.metrics.summary import ScoreTables
from amos_fl.runs.summary import number

_LOWEST = 5


def problem_table(problems: Iterable[Problem]) -> Table:
    """Everything that keeps cases from being scored."""
    table = Table("case", "file", "problem")
    for problem in problems:
        table.add_row(problem.case, problem.side, problem.message)
    return table


def show_scores(console: Console, tables: ScoreTables, notes: list[str], tolerance_mm: str) -> None:
    """The lowest cases; then by organ, by site and group if sites are known, and overall; then the notes."""
    cases = sorted(tables.cases, key=lambda row: (math.isnan(row.dsc), row.dsc))
    if len(cases) > 1:
        lowest = cases if len(cases) <= 2 * _LOWEST else cases[:_LOWEST]
        title = "by case" if len(lowest) == len(cases) else f"the {_LOWEST} of {len(cases)} cases with the lowest DSC"
        console.print(_table(title, "case", lowest))
    console.print(_table("by organ", "organ", [row for row in tables.organs if row.over == "all"]))
    if tables.sites:
        console.print(_table("by site", "site", tables.sites))
    if tables.groups:
        console.print(_table("by scanner and modality", "", tables.groups))
    console.print(_table("overall", "", [tables.overall]))
    console.print(f"NSD within {tolerance_mm} mm; HD95 in mm, where both maps have the organ;", soft_wrap=True)
    console.print("ml: the mean error of the volume, |ml|: the mean of its absolute value.", soft_wrap=True)
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)


def _table(title: str, first: str, rows: list[ScoreRow]) -> Table:
    # Narrow enough for 80 columns.
    look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True, "header_style": "bold"}
    table = Table(title=title, title_justify="left", title_style="bold", **look)
    table.add_column(first, overflow="fold")
    for name in ("cases", *map(title_of, METRICS), "ml", "|ml|", "missed", "halluc."):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        marks = [number(getattr(row, metric), 3 if METRICS[metric].high == 1 else 2) for metric in METRICS]
        volumes = [number(row.volume_error_ml, 1), number(row.absolute_volume_error_ml, 1)]
        table.add_row(row.name, str(row.cases), *marks, *volumes, str(row.missed), str(row.hallucinated))
    return table
