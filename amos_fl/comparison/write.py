"""Write a comparison as files: every number as CSV, and the tables as Markdown and LaTeX."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from amos_fl.comparison.comparison import (
    Arm,
    Comparison,
    CurvePoint,
    Difference,
    Gap,
    MeanScore,
    PublishedScore,
    Spread,
    Worst,
)
from amos_fl.comparison.latex import latex_document, latex_table
from amos_fl.comparison.overview import overview_page
from amos_fl.comparison.paper import paper_page
from amos_fl.comparison.statistics import Estimate
from amos_fl.comparison.tables import all_tables, markdown_page
from amos_fl.csv_table import write_table
from amos_fl.errors import AmosError
from amos_fl.files import write_json, write_text
from amos_fl.locks import is_empty
from amos_fl.metrics.catalogue import IN_RUNS
from amos_fl.runs.config import has_strategy
from amos_fl.runs.record import RunCost

MARK_FILE = "comparison.json"
"""The file whose presence marks a folder as a comparison, which a later one may replace."""


def check_out(out: Path) -> None:
    """Refuse a folder that holds something other than a comparison.

    Raises:
        AmosError: it does, or it is a file.
    """
    if out.is_file() or (out.is_dir() and not is_empty(out) and not (out / MARK_FILE).is_file()):
        raise AmosError(f"{out}: holds something other than a comparison; choose another --out")


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write all files of a comparison except its report; those of an earlier one are replaced."""
    check_out(out)
    runs = [
        {
            "run": record.name,
            "arm": next((arm.name for arm in comparison.arms if not arm.view and record.name in arm.runs), ""),
            "seed": record.config.seed,
            "strategy": record.config.strategy if has_strategy(record.arm) else "",
            "model": record.config.model,
            "plan": record.config.plan.name,
            "seen_sites": " ".join(record.seen_sites),
            "chosen": record.results.chosen.sentence,
            "cohort_sha256": record.cohort_sha256,
            **{f"cost_{key}": value for key, value in asdict(record.cost).items()},
        }
        for record in comparison.records
    ]
    about = {
        "reference": comparison.reference,
        "metrics": comparison.metrics,
        "tolerance_mm": comparison.tolerance_mm,
        "synthetic": comparison.synthetic,
        "seed": comparison.seed,
        "resamples": comparison.resamples,
        "problems": comparison.problems,
        "findings": comparison.findings,
        "notes": comparison.notes,
        "runs": runs,
    }
    # First, so that a partly written folder can be written again.
    write_json(out / MARK_FILE, about)
    write_text(out / "comparison.md", markdown_page(comparison))
    write_text(out / "overview.md", overview_page(comparison))
    write_table(out / "runs.csv", list(runs[0]), runs)
    for name, (columns, rows) in _csv_files(comparison).items():
        write_table(out / f"{name}.csv", columns, rows)
    tables = all_tables(comparison)
    for table in tables:
        write_text(out / "latex" / f"{table.key}.tex", latex_table(table, synthetic=comparison.synthetic))
    write_text(out / "latex" / "paper.tex", paper_page(comparison))
    write_text(out / "latex" / "comparison.tex", latex_document(comparison, tables))


def _csv_files(c: Comparison) -> dict[str, tuple[Sequence[str], Iterable[Any]]]:
    """The columns and rows of each CSV file, by name."""
    own: dict[str, tuple[type, Sequence[Any]]] = {
        "arms": (Arm, c.arms),
        "scores": (MeanScore, c.cells),
        "differences": (Difference, c.differences),
        "gaps": (Gap, c.gaps),
        "seeds": (Spread, c.spreads),
        "worst": (Worst, c.worst),
        "curves": (CurvePoint, c.curves),
        "published": (PublishedScore, c.published),
    }
    return {
        **{name: (_columns(kind), map(_plain, parts)) for name, (kind, parts) in own.items()},
        "curves_by_site": (("arm", "run", "round", "share", "site", "seen", *IN_RUNS), c.site_curves),
        "cases": (("arm", "case", "site", "modality", "seen", "organ", *IN_RUNS), c.case_rows),
    }


_PARTS: dict[str, type] = {"estimate": Estimate, "cost": RunCost}


def _columns(kind: type) -> list[str]:
    """The columns of a part of a comparison: an estimate is value, low, high and cases, a cost its numbers."""
    columns: list[str] = []
    for field in fields(kind):
        part = _PARTS.get(field.name)
        columns += [inner.name for inner in fields(part)] if part else [field.name]
    return columns


def _plain(part: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in vars(part).items():
        if key in _PARTS:
            row |= vars(value)
        else:
            row[key] = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return row
