"""A comparison as files: every number as CSV, the tables as Markdown and LaTeX, and the report."""

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.files import whole_file, write_json, write_text
from amos_fl.report.comparison import Comparison
from amos_fl.report.latex import latex_document, latex_table
from amos_fl.report.tables import all_tables, markdown_page

MARK_FILE = "comparison.json"
"""Its presence says that a folder holds a comparison, which a later one may replace."""


def check_out(out: Path) -> None:
    """Refuse a folder that holds something other than a comparison.

    Raises:
        AmosError: it does, or it is a file.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MARK_FILE).is_file()):
        raise AmosError(f"{out}: holds something other than a comparison; choose another --out")


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write all files of a comparison but its report; those of an earlier one are replaced."""
    check_out(out)
    runs = [
        {
            "run": record.name,
            "arm": next((arm.name for arm in comparison.arms if not arm.view and record.name in arm.runs), ""),
            "seed": record.config.seed,
            "strategy": record.config.strategy,
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
    # First, so that a folder that was written in part can be written again.
    write_json(out / MARK_FILE, about)
    write_text(out / "comparison.md", markdown_page(comparison))
    named: dict[str, Iterable[dict[str, Any]]] = {
        "arms": [{**_plain(arm), **{f"cost_{k}": v for k, v in asdict(arm.cost).items()}} for arm in comparison.arms],
        "runs": runs,
        "scores": map(_plain, comparison.cells),
        "differences": map(_plain, comparison.differences),
        "gaps": map(_plain, comparison.gaps),
        "seeds": (
            {**{k: v for k, v in _plain(s).items() if k not in ("seeds", "values")}, "seed": seed, "value": value}
            for s in comparison.spreads
            for seed, value in zip(s.seeds, s.values, strict=True)
        ),
        "worst": map(_plain, comparison.worst),
        "curves": map(_plain, comparison.curves),
        "cases": map(_plain, comparison.case_rows),
        "published": map(_plain, comparison.published),
    }
    for name, rows in named.items():
        write_rows(out / f"{name}.csv", rows)
    tables = all_tables(comparison)
    for table in tables:
        write_text(out / "latex" / f"{table.key}.tex", latex_table(table, synthetic=comparison.synthetic))
    write_text(out / "latex" / "comparison.tex", latex_document(comparison, tables))


def _plain(part: Any) -> dict[str, Any]:
    """A dataclass as columns: an estimate as value, low, high and cases, tuples in words, no cost."""
    columns: dict[str, Any] = {}
    for key, value in vars(part).items():
        if key == "estimate":
            columns |= vars(value)
        elif key != "cost":
            columns[key] = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return columns


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A CSV file with a header; what does not exist (NaN) is empty, and numbers read back as they were."""
    rows = list(rows)
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        if rows:
            writer.writeheader()
        for row in rows:
            writer.writerow({key: _text(value) for key, value in row.items()})


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if isinstance(value, float) and math.isnan(value) else value
