"""The page of a hospital's own test cases, from what its site keeps: it is made there and stays there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.errors import AmosError
from amos_fl.files import write_text
from amos_fl.metrics.catalogue import IN_RUNS, title_of
from amos_fl.metrics.rows import ScoreRow, organ_rows, rows_by, rows_by_case, sums_by_case
from amos_fl.metrics.table import CaseScores, organs_of_scores, read_scores
from amos_fl.pictures.kept import SCORED_FILE, SCORES_FILE, load_picture
from amos_fl.report.examples import Address, CasePage, case_files, case_page
from amos_fl.report.figures import score
from amos_fl.report.page import PAGE, render, write_case_pages
from amos_fl.report.sortable import Column, SortableTable, count, number, table, text
from amos_fl.report.words import OUTCOMES, words_of
from amos_fl.wording import counted


def write_site_report(site: str, pictures: Path, out: Path, cohort: Path, leaves: str = "") -> Path:
    """Write `report.html` and `cases/` into `out` from the pictures and scores that a site keeps; return the page.

    The page of a case leads to its scan and label if the site's `cohort` has them. `leaves` says what of it is sent.

    Raises:
        AmosError: no test case of the site has been scored yet, or its scores are damaged.
    """
    file = pictures / SCORES_FILE
    if not file.is_file():
        raise AmosError(f"{pictures}: no test case of site {site} has been scored yet; a run does that at its end")
    cases, organs, page = read_scores(file), organs_of_scores(file), out / PAGE
    scored = f"{datetime.fromtimestamp(file.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC"
    pages = write_case_pages(page, _case_pages(cases, organs, pictures, scored, cohort), synthetic=False)
    context = _context(site, cases, organs, pages, scored, _tolerance_mm(pictures / SCORED_FILE), leaves)
    write_text(page, render("site.html", context))
    return page


def _tolerance_mm(file: Path) -> float | None:
    """The tolerance of NSD, if the site has recorded it."""
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["tolerance_mm"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _case_pages(
    cases: Sequence[CaseScores], organs: Mapping[int, str], pictures: Path, scored: str, cohort: Path
) -> Iterator[CasePage]:
    try:
        scans = read_cohort(cohort)
    except AmosError:
        scans = Cohort((), dict(organs))
    for case in cases:
        try:
            picture = load_picture(pictures / f"{case.case}.npz")
        except AmosError:
            continue
        kind = f"Test case of site {case.site}, {case.modality}; scored {scored}"
        yield case_page(case, organs, picture, kind, case_files(scans, case.site, case.case))


def _context(
    site: str,
    cases: Sequence[CaseScores],
    organs: Mapping[int, str],
    pages: Mapping[Address, str],
    scored: str,
    tolerance_mm: float | None,
    leaves: str,
) -> dict[str, Any]:
    sums = sums_by_case(cases, organs)
    return {
        "title": f"Test cases of {site}",
        "kind": f"{counted(len(cases), 'case')}, with the network that was scored on them last ({scored})",
        "synthetic": False,
        "problems": [],
        "all_well": " ".join(("This page was made at this site from what the site keeps.", leaves)).strip(),
        "words": [*words_of(IN_RUNS, tolerance_mm, unseen=False), *OUTCOMES],
        "contents": [("cases", "Cases"), ("organs", "By organ")],
        "numbers": [
            {
                "name": f"DSC, {row.modality}",
                "value": score(row.dsc, 3),
                "more": f"NSD {score(row.nsd, 3)}, {counted(row.cases, 'case')}",
            }
            for row in rows_by(sums, organs, "modality")
            if not row.organ
        ],
        "case_table": _table("cases-table", "Means over the organs of each case", rows_by_case(sums), "case", pages),
        "organ_table": _table(
            "organs-table", "Means over cases", organ_rows(rows_by(sums, organs, "modality")), "organ", {}
        ),
    }


def _table(
    name: str, caption: str, rows: Iterator[ScoreRow] | Sequence[ScoreRow], first: str, pages: Mapping[Address, str]
) -> SortableTable:
    columns = [Column(first, False), Column("modality", False), Column("cases" if first == "organ" else "organs")]
    columns += [*(Column(title_of(metric)) for metric in IN_RUNS), Column("missed"), Column("hallucinated")]
    body = [
        [
            text(row.name, pages.get((row.site, row.case), "")),
            text(row.modality),
            count(row.cases if first == "organ" else row.organs),
            *(number(getattr(row, metric)) for metric in IN_RUNS),
            count(row.missed),
            count(row.hallucinated),
        ]
        for row in rows
    ]
    return table(name, caption, columns, body)
