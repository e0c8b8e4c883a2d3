"""The figures of a run's page: which belong to which section, and the CSV files with their numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from amos_fl.csv_table import write_table
from amos_fl.metrics.catalogue import IN_RUNS, METRICS, title_of
from amos_fl.metrics.scores import reported_organs
from amos_fl.report import expected_figure, figures, series
from amos_fl.runs.expected import read_measured
from amos_fl.runs.record import RunRecord

DATA_FOLDER = "report_data"
"""Beside the page: its numbers as CSV files."""
Section = Literal["learning", "scores", "organs", "gap", "expected", "cost"]


@dataclass(frozen=True)
class PageFigure:
    """A figure in a section of the page, in words, with the file of its numbers.

    With `folded` it is folded behind a line with these words.
    """

    section: Section
    svg: Markup
    title: str
    text: str
    csv: str
    folded: str = ""


def write_data(record: RunRecord, folder: Path) -> dict[str, str]:
    """Write the numbers of all figures below `folder` and return each file's address on the page."""
    scores = [{**vars(row), "organ": row.organ or "mean"} for row in record.results.at_sites]
    where, marks = ("site", "group", "modality"), (*IN_RUNS, "missed", "hallucinated")
    written: dict[str, tuple[Iterable[str], Iterable[Any]]] = {
        "learning_losses": (series.LossPoint.__dataclass_fields__, series.loss_points(record)),
        "learning_scores": (("round", "site", "seen", "split", "cases", *IN_RUNS), record.scores_by_round()),
        "rounds": (series.RoundTotals.__dataclass_fields__, series.round_totals(record)),
        "heat_map": ((*where, "organ", "cases", *marks), scores),
        "cases": (("case", *where, "organs", *marks), series.case_rows(record)),
        "gap": (series.GapRow.__dataclass_fields__, series.gap_rows(record)),
        "cost": (series.CostPoint.__dataclass_fields__, series.cost_points(record)),
    }
    if found := read_measured(record.folder):
        named = [{**one.model_dump(), "organ": record.cohort.organs.get(one.organ, one.organ)} for one in found.organs]
        written["expected"] = (expected_figure.COLUMNS, named)
    for name, (columns, rows) in written.items():
        write_table(folder / f"{name}.csv", tuple(columns), rows)
    return {name: f"{DATA_FOLDER}/{name}.csv" for name in written}


def page_figures(record: RunRecord, files: Mapping[str, str], gaps: Sequence[series.GapRow]) -> Iterator[PageFigure]:
    """All figures, in the order of the page; `files` is what `write_data` returned, `gaps` are the run's."""
    losses, scores, costs = series.loss_points(record), record.scores_by_round(), series.cost_points(record)
    yield PageFigure(
        "learning",
        figures.learning_curves("learning", losses, scores),
        "Learning curves",
        "Left: the mean loss of each site's steps in a round. Right: the mean DSC of the weights after a round, on the "
        "validation cases of seen scanners (solid) and the test cases of unseen ones (dashed; they choose nothing). "
        f"The losses are in {files['learning_losses']}.",
        files["learning_scores"],
    )
    if record.results.by_site:
        yield from _of_scores(record, files, gaps)
    if found := read_measured(record.folder):
        yield PageFigure(
            "expected",
            expected_figure.expected_against_true("expected-figure", found),
            "Expected and true DSC",
            "A mark is an organ that was found in a test case: to the right the DSC that was expected of it without "
            f"its label, upwards the true one. {expected_figure.told_of(found)}",
            files["expected"],
        )
    if costs:
        yield PageFigure(
            "cost",
            figures.cost_curves("cost", costs),
            "DSC against cost",
            "Mean over sites of their mean DSC, against what had been spent by then.",
            files["cost"],
        )


def _of_scores(record: RunRecord, files: Mapping[str, str], gaps: Sequence[series.GapRow]) -> Iterator[PageFigure]:
    results, organs = record.results, record.cohort.organs
    for metric in IN_RUNS:
        about = METRICS[metric].about.format(tolerance_mm=f"{record.config.evaluation.tolerance_mm:g}")
        yield PageFigure(
            "scores",
            figures.heat_map(f"heat-{metric}", results.at_sites, _reported(record), metric),
            f"{title_of(metric)} by site and organ",
            "Mean over the test cases of a site, from 0 (dark) to 1 (bright); 0.62 is written .62. A dash: the organ "
            "does not count in any case. The last column is the mean over organs."
            if metric == IN_RUNS[0]
            else f"The same for the {about}.",
            files["heat_map"],
        )
    for metric in IN_RUNS if results.cases else ():
        first = metric == IN_RUNS[0]
        yield PageFigure(
            "organs",
            figures.distributions(f"box-{metric}", results.cases, organs, metric),
            f"{title_of(metric)} of every test case",
            "A mark is a case. With five cases or more, a box holds the middle half of them, the dark line is the "
            "median, and whiskers reach the last case within one and a half box lengths."
            if first
            else "Drawn as above.",
            "scores.csv",
            folded="" if first else f"The same for {title_of(metric)}",
        )
    means = {f"{m} {row.group} {row.modality}": getattr(row, m) for row in results.by_group for m in IN_RUNS}
    yield PageFigure(
        "gap",
        figures.seen_and_unseen("gap-figure", results.by_site, gaps, means),
        "Seen and unseen scanners",
        "A mark is a site's mean over its test cases and organs; a bar is the mean over the cases of all sites in its "
        "row.",
        files["gap"],
    )


def _reported(record: RunRecord) -> list[str]:
    labels = {o for part in record.results.parts for o in reported_organs(record.cohort.organs, part.modality)}
    return [name for label, name in record.cohort.organs.items() if label in labels]
