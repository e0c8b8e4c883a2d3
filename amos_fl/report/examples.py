"""The test cases of a run on its page: each site's best, median and worst, and a page of its own for every case."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.metrics.scores import reported_organs
from amos_fl.metrics.table import CaseScores
from amos_fl.pictures.kept import CasePicture, load_picture
from amos_fl.report.figures import score
from amos_fl.report.series import case_rows
from amos_fl.report.sortable import Column, SortableTable, number, table, text
from amos_fl.report.viewer import PageBudget, case_view
from amos_fl.runs.record import RunRecord
from amos_fl.wording import listed

CASES_FOLDER = "cases"
"""Beside the page: a page for every case with a picture, `SITE/CASE.html`."""
Address = tuple[str, str]
"""A site and a case."""


@dataclass(frozen=True)
class CasePage:
    """A case on a page of its own: its pictures, its scores, and the files that belong to it, with their words."""

    site: str
    case: str
    kind: str
    view: dict[str, Any]
    scores: SortableTable
    files: Sequence[tuple[Path, str]]

    @property
    def file(self) -> Path:
        return Path(CASES_FOLDER) / self.site / f"{self.case}.html"

    def context(self, beside: Path, **page: Any) -> dict[str, Any]:
        """The context of the template `case.html` for a page in the folder of the report `beside` it."""
        folder = (beside.parent / self.file).parent
        return {
            "title": self.case,
            "kind": self.kind,
            "problems": [],
            "all_well": "",
            "back": [(_address(beside, folder), "The report")],
            "contents": [],
            "view": self.view,
            "scores_table": self.scores,
            "files": [(_address(file, folder), words) for file, words in self.files if file.is_file()],
            **page,
        }


def _address(file: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix())


def addresses(pages: Iterable[CasePage]) -> dict[Address, str]:
    """The address of each case's page on the page of the report."""
    return {(page.site, page.case): quote(page.file.as_posix()) for page in pages}


def chosen_examples(means: Mapping[str, float]) -> list[tuple[str, str]]:
    """Best, median (the better of the middle two) and worst case by their means; fewer if there are fewer cases.

    >>> chosen_examples({"p1": 0.5, "p2": 0.9, "p3": 0.7})
    [('Best', 'p2'), ('Median', 'p3'), ('Worst', 'p1')]
    """
    ranked = sorted((case for case, mean in means.items() if not math.isnan(mean)), key=lambda c: (-means[c], c))
    if len(ranked) < 2:
        return [("Only case", case) for case in ranked]
    middle = [("Median", ranked[(len(ranked) - 1) // 2])] if len(ranked) > 2 else []
    return [("Best", ranked[0]), *middle, ("Worst", ranked[-1])]


def site_examples(record: RunRecord, pages: Mapping[Address, str]) -> list[dict[str, Any]]:
    """For every site its examples, for a template; a case without a picture has no view, without a page no address."""
    rows, budget = case_rows(record), PageBudget()
    scores = {case.case: case for case in record.results.cases}
    organs, sites = record.cohort.organs, []
    for place, (group, modality, site) in enumerate(dict.fromkeys((r.group, r.modality, r.site) for r in rows)):
        mine = {r.case: r for r in rows if (r.group, r.modality, r.site) == (group, modality, site)}
        cases = []
        for rank, case in chosen_examples({name: row.dsc for name, row in mine.items()}):
            row = mine[case]
            name = f"case-{place}-{rank.split()[0].lower()}"
            counted = {
                organs[o]: s.dsc
                for o, s in scores[row.case].scores.items()
                if o in reported_organs(organs, modality) and not math.isnan(s.dsc)
            }
            worst = sorted(counted.items(), key=lambda item: (item[1], item[0]))[:3]
            said = listed([f"{organ} {score(dsc)}" for organ, dsc in worst])
            picture = kept_picture(record, site, case)
            title = f"{rank} case {case} of site {site}"
            cases.append(
                {
                    "rank": rank,
                    "case": row.case,
                    "text": f"Mean DSC {score(row.dsc, 3)}, NSD {score(row.nsd, 3)}. Lowest DSC: {said}.",
                    "view": case_view(name, title, organs, [("", picture)], budget) if picture else None,
                    "href": pages.get((site, case), ""),
                }
            )
        sites.append({"heading": f"{site}, {modality}, {group}", "cases": cases})
    return sites


def kept_picture(record: RunRecord, site: str, case: str) -> CasePicture | None:
    """The picture that a run kept of a case; None if it kept none, or if it is damaged."""
    try:
        return load_picture(record.folder.site(site) / "pictures" / f"{case}.npz")
    except AmosError:
        return None


def run_case_pages(record: RunRecord) -> Iterator[CasePage]:
    """A page for every test case that the run kept a picture of."""
    for case in record.results.cases:
        if picture := kept_picture(record, case.site, case.case):
            seen = "seen" if case.seen else "unseen"
            yield case_page(
                case,
                record.cohort.organs,
                picture,
                f"Test case of site {case.site}, {case.modality}, {seen} scanner; {record.name}",
                [*case_files(record.cohort, case.site, case.case), *predictions_of(record, case.site, case.case)],
            )


def case_page(
    case: CaseScores, organs: Mapping[int, str], picture: CasePicture, kind: str, files: Sequence[tuple[Path, str]]
) -> CasePage:
    """The page of one model's case, with all its slices."""
    view = case_view("case", f"Case {case.case} of site {case.site}", organs, [("", picture)])
    return CasePage(case.site, case.case, kind, view, _scores_table(case, organs), files)


def case_files(cohort: Cohort, site: str, case: str) -> list[tuple[Path, str]]:
    """The scan and the label of a case, where they are on this machine."""
    found = next((one for one in cohort.of(site=site, split="test") if one.case == case), None)
    if found is None:
        return []
    return [(found.image, "the scan"), *([(found.label, "its label")] if found.label else [])]


def predictions_of(record: RunRecord, site: str, case: str) -> list[tuple[Path, str]]:
    """The prediction of a case, if the run kept its predictions."""
    return [(record.folder.path / "predictions" / site / f"{case}.nii.gz", f"the prediction of {record.name}")]


def _scores_table(case: CaseScores, organs: Mapping[int, str]) -> SortableTable:
    columns = [Column("organ", False), Column("DSC"), Column("NSD"), Column("outcome", False)]
    columns += [Column("label, ml"), Column("prediction, ml"), Column("difference, ml")]
    rows = [
        [
            text(organs.get(organ, organ)),
            number(s.dsc),
            number(s.nsd),
            text(s.outcome),
            *(number(value, 1) for value in (s.reference_ml, s.predicted_ml, s.volume_error_ml)),
        ]
        for organ, s in case.scores.items()
        if organ in reported_organs(organs, case.modality)
    ]
    return table("scores-table", "Scores of the case by organ", columns, rows)
