"""Write `report.html`: one page for a run, a comparison or a labelling project, which opens offline."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from amos_fl.files import write_text
from amos_fl.report.palette import LABEL_LINE, PREDICTION_LINE, css_variables
from amos_fl.report.run_figures import DATA_FOLDER, write_data
from amos_fl.report.run_page import run_context
from amos_fl.runs.record import RunRecord, read_run

if TYPE_CHECKING:
    from amos_fl.annotate.project import Project
    from amos_fl.comparison.comparison import Comparison

PAGE = "report.html"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("amos_fl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, context: dict[str, Any]) -> str:
    """Render a page from its template; everything in `context` that is not Markup is escaped."""
    colours = {"light": css_variables("light"), "dark": css_variables("dark")}
    lines = {"label_line": LABEL_LINE, "prediction_line": PREDICTION_LINE}
    return _environment().get_template(template).render(**colours, **lines, **context)


def write_run_report(run: RunRecord | Path) -> Path:
    """Write `report.html` and `report_data/` in the folder of a finished run; return the page.

    Raises:
        AmosError: the folder holds no run, or one that has not finished.
    """
    record = read_run(run) if isinstance(run, Path) else run
    folder = record.folder.path
    files = write_data(record, folder / DATA_FOLDER)
    write_text(folder / PAGE, render("run.html", run_context(record, files)))
    return folder / PAGE


def write_comparison_report(comparison: "Comparison", out: Path) -> Path:
    """Write a comparison's `report.html` into `out`, beside its CSV files; return the page."""
    from amos_fl.report.comparison_page import comparison_context

    write_text(out / PAGE, render("comparison.html", comparison_context(comparison)))
    return out / PAGE


def write_annotation_report(project: "Project") -> Path:
    """Write `report.html` and `report_data/` in the folder of a labelling project; return the page."""
    from amos_fl.annotate.progress import progress_of, write_progress
    from amos_fl.report.annotation_page import annotation_context

    progress = progress_of(project)
    files = write_progress(progress, project.path / DATA_FOLDER)
    write_text(project.path / PAGE, render("annotation.html", annotation_context(progress, files)))
    return project.path / PAGE
