"""`amos-fl data stats`: a cohort's cases, slices, intensities and organ volumes, as the AMOS paper reports its own."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from amos_fl.cli.options import WorkersOption
from amos_fl.cli.progress import Progress, plain_console
from amos_fl.cli.settings import phantom
from amos_fl.cohort.statistics import groups_of, statistics_of
from amos_fl.cohort.table import read_cohort
from amos_fl.comparison.paper_statistics import paper_beside
from amos_fl.errors import AmosError
from amos_fl.report.sortable import SortableTable
from amos_fl.wording import counted


def stats(
    cohort: Annotated[Path | None, typer.Argument(help="cohort.csv or its folder; none: the phantom.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for tables, figures and the page.")] = Path(
        "stats"
    ),
    workers: WorkersOption = min(4, os.cpu_count() or 1),
) -> None:
    """Measure a cohort as the paper measures AMOS: Tables 1, 2, 8 and 9, Figures 3 and 4."""
    from amos_fl.report import cohort_page as page

    found = phantom() if cohort is None else read_cohort(cohort)
    with Progress() as progress:
        cases, failed = statistics_of(found, workers=workers, on_case=progress.of("measuring"))
    for error in failed:
        typer.echo(f"amos-fl: {error}", err=True)
    if not cases:
        raise AmosError(f"none of {counted(len(failed), 'case')} can be read; nothing is measured")
    written = page.write_cohort_page(found, cases, out, [str(error) for error in failed])
    groups, paper = groups_of(cases), paper_beside(found)
    console = plain_console()
    if found.synthetic():
        console.print(f"{page.STATS_NOTE}\n")
    for table in (
        page.overview_table(found, groups, paper),
        page.splits_table(found, paper),
        page.spatial_table(groups, paper),
        page.intensity_table(groups, paper),
    ):
        console.print(_on_the_terminal(table))
    console.print(f"wrote {written}, with cases.csv, groups.csv, volumes.csv and its figures beside it", soft_wrap=True)
    if failed:
        left_out = f"{len(failed)} of {counted(len(found.cases), 'case')} left out"
        raise AmosError(f"{left_out}, named above; repair them, or take them out of the cohort, and measure again")


def _on_the_terminal(table: SortableTable) -> Table:
    shown = Table(title=table.caption, title_justify="left")
    for column in table.columns:
        shown.add_column(column.head, justify="right" if column.number else "left")
    for row in table.rows:
        shown.add_row(*(cell.text for cell in row))
    return shown
