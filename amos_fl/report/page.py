"""Write `report.html`: one page for a run, a comparison or a labelling project, which opens offline."""

from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from amos_fl.files import write_text
from amos_fl.report.examples import CASES_FOLDER, CasePage, addresses, run_case_pages
from amos_fl.report.palette import css_variables
from amos_fl.report.run_figures import DATA_FOLDER, write_data
from amos_fl.report.run_page import run_context
from amos_fl.report.svg import figures_as_files
from amos_fl.runs.record import RunRecord, read_run
from amos_fl.runs.summary import PHANTOM_NOTE

if TYPE_CHECKING:
    from amos_fl.annotate.project import Project
    from amos_fl.comparison.comparison import Comparison

PAGE = "report.html"
FIGURES_FOLDER = "figures"
"""Beside the page: its figures as SVG and PDF."""


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
    everywhere = {"version": version("amos-fl"), "words": (), "back": (), **colours}
    return _environment().get_template(template).render(**everywhere | context)


def write_case_pages(page: Path, cases: Iterable[CasePage], **about: Any) -> dict[tuple[str, str], str]:
    """Write the pages of cases beside a page, `about` what all of them say; return their addresses by site and case.

    Those that an earlier report left there are removed.
    """
    for old in (page.parent / CASES_FOLDER).glob("*/*.html"):
        old.unlink()
    found: dict[tuple[str, str], str] = {}
    for case in cases:
        write_text(page.parent / case.file, render("case.html", case.context(page, **about)))
        found |= addresses([case])
    return found


def write_run_report(run: RunRecord | Path) -> Path:
    """Write `report.html`, `report_data/`, `figures/` and `cases/` in the folder of a finished run; return the page.

    Raises:
        AmosError: the folder holds no run, or one that has not finished.
    """
    record = read_run(run) if isinstance(run, Path) else run
    folder = record.folder.path
    files, page = write_data(record, folder / DATA_FOLDER), folder / PAGE
    cases = write_case_pages(page, run_case_pages(record), synthetic=record.synthetic, phantom_note=PHANTOM_NOTE)
    with figures_as_files(page, FIGURES_FOLDER):
        write_text(page, render("run.html", run_context(record, files, cases)))
    return page


def write_comparison_report(comparison: "Comparison", out: Path) -> Path:
    """Write a comparison's `report.html`, `figures/` and `cases/` beside its CSV files in `out`; return the page."""
    from amos_fl.report.comparison_cases import comparison_case_pages
    from amos_fl.report.comparison_page import comparison_context

    page, synthetic = out / PAGE, comparison.synthetic
    cases = write_case_pages(page, comparison_case_pages(comparison), synthetic=synthetic, phantom_note=PHANTOM_NOTE)
    with figures_as_files(page, FIGURES_FOLDER):
        write_text(page, render("comparison.html", comparison_context(comparison, cases)))
    return page


def write_annotation_report(project: "Project") -> Path:
    """Write `report.html` and `report_data/` in the folder of a labelling project; return the page."""
    from amos_fl.annotate.progress import progress_of, write_progress
    from amos_fl.report.annotation_page import annotation_context

    progress = progress_of(project)
    files = write_progress(progress, project.path / DATA_FOLDER)
    page = project.path / PAGE
    with figures_as_files(page, FIGURES_FOLDER):
        write_text(page, render("annotation.html", annotation_context(progress, files)))
    return page
