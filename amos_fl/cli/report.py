"""`amos-fl report`: rewrites the page of a finished run."""

from pathlib import Path
from typing import Annotated

import typer

from amos_fl.comparison.write import MARK_FILE
from amos_fl.errors import AmosError
from amos_fl.locks import at_work
from amos_fl.runs.record import read_runs


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of groups of runs.")],
) -> None:
    """Rewrite the report of each run: report.html and report_data/ in its folder."""
    from amos_fl.report.page import write_run_report

    for path in runs:
        if (path / MARK_FILE).is_file():
            raise AmosError(f"{path}: holds a comparison; rewrite it with: amos-fl compare RUN... --out {path}")
    records = read_runs(runs)
    for record in records:
        with at_work(record.folder.path, to="report"):
            page = write_run_report(record)
        typer.echo(f"{record.name}: {page}")
    if len(records) > 1:
        typer.echo(f"each run has its own report; one page for all: amos-fl compare {' '.join(map(str, runs))}")
