"""The test cases of a comparison on its page: every arm's prediction on the same slices, side by side."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from amos_fl.comparison.comparison import Arm, Comparison
from amos_fl.metrics.catalogue import MetricName, title_of
from amos_fl.pictures.kept import CasePicture
from amos_fl.report.examples import Address, CasePage, case_files, chosen_examples, kept_picture, predictions_of
from amos_fl.report.figures import score
from amos_fl.report.sortable import Column, SortableTable, number, table, text
from amos_fl.report.viewer import PageBudget, case_view
from amos_fl.runs.record import RunRecord
from amos_fl.wording import listed


def comparison_examples(comparison: Comparison, pages: Mapping[Address, str]) -> list[dict[str, Any]]:
    """For each site the reference's best, median and worst case, as every main arm with a picture has it."""
    metric, budget, sites = comparison.metrics[0], PageBudget(), []
    for place, scope in enumerate(comparison.scopes_of("site")):
        means, cases = _means(comparison, scope.name, metric), []
        for rank, case in chosen_examples(means[comparison.reference]):
            if shown := _pictures(comparison, scope.name, case):
                name, title = f"case-{place}-{rank.split()[0].lower()}", f"Case {case} of site {scope.name}"
                marks = [f"{arm.name} {score(means[arm.name].get(case, math.nan), 3)}" for arm, _, _ in shown]
                pictures = [(arm.name, picture) for arm, _, picture in shown]
                cases.append(
                    {
                        "case": case,
                        "rank": f"{rank.removesuffix(' case')} case",
                        "text": f"Mean {title_of(metric)} of the case: {listed(marks)}.",
                        "view": case_view(name, title, comparison.organs, pictures, budget),
                        "href": pages.get((scope.name, case), ""),
                    }
                )
        if cases:
            sites.append({"heading": f"{scope.name}, {scope.modality}", "cases": cases})
    return sites


def comparison_case_pages(comparison: Comparison) -> Iterator[CasePage]:
    """A page for every test case of which an arm kept a picture, with all arms."""
    for (site, case), rows in _organs(comparison).items():
        if shown := _pictures(comparison, site, case):
            pictures = [(arm.name, picture) for arm, _, picture in shown]
            yield CasePage(
                site,
                case,
                f"Test case of site {site}, {shown[0][2].modality}; {listed([arm.name for arm, _, _ in shown])}",
                case_view("case", f"Case {case} of site {site}", comparison.organs, pictures),
                _organs_table(comparison, rows),
                [
                    *case_files(shown[0][1].cohort, site, case),
                    *(file for _, record, _ in shown for file in predictions_of(record, site, case)),
                ],
            )


def all_cases_table(comparison: Comparison, pages: Mapping[Address, str]) -> SortableTable:
    """Every test case with its mean over organs in each main arm."""
    metric = comparison.metrics[0]
    rows = []
    for scope in comparison.scopes_of("site"):
        means = _means(comparison, scope.name, metric)
        for case in dict.fromkeys(case for of_arm in means.values() for case in of_arm):
            marks = [number(means[arm.name].get(case, math.nan)) for arm in comparison.main_arms]
            rows.append([text(case, pages.get((scope.name, case), "")), text(scope.name), text(scope.modality), *marks])
    columns = [Column(name, False) for name in ("case", "site", "modality")]
    columns += [Column(arm.name) for arm in comparison.main_arms]
    return table(
        "all-cases", f"{title_of(metric)} of every test case: means over its organs", columns, rows, "cases.csv"
    )


def _means(comparison: Comparison, site: str, metric: MetricName) -> dict[str, dict[str, float]]:
    """The mean over organs of a site's cases, by arm and case."""
    values: dict[str, dict[str, list[float]]] = {arm.name: {} for arm in comparison.main_arms}
    for row in comparison.case_rows:
        if row.arm in values and row.site == site and not math.isnan(getattr(row, metric)):
            values[row.arm].setdefault(row.case, []).append(getattr(row, metric))
    return {
        arm: {case: math.fsum(marks) / len(marks) for case, marks in cases.items()} for arm, cases in values.items()
    }


def _organs(comparison: Comparison) -> dict[Address, dict[str, dict[str, float]]]:
    """The first metric by site and case, organ and arm."""
    found: dict[Address, dict[str, dict[str, float]]] = {}
    for row in comparison.case_rows:
        organs = found.setdefault((row.site, row.case), {})
        organs.setdefault(row.organ, {})[row.arm] = getattr(row, comparison.metrics[0])
    return found


def _organs_table(comparison: Comparison, organs: Mapping[str, Mapping[str, float]]) -> SortableTable:
    arms = [arm.name for arm in comparison.main_arms if any(arm.name in values for values in organs.values())]
    rows = [[text(organ), *(number(values.get(arm, math.nan)) for arm in arms)] for organ, values in organs.items()]
    caption = f"{title_of(comparison.metrics[0])} of the case by organ, the mean over the seeds of an arm"
    return table("scores-table", caption, [Column("organ", False), *map(Column, arms)], rows)


def _pictures(comparison: Comparison, site: str, case: str) -> list[tuple[Arm, RunRecord, CasePicture]]:
    """Each main arm that has a picture of a case on the slices of the reference's, or of the first that has one."""
    found = []
    for arm in comparison.main_arms:
        record = _model_for(comparison, arm, site)
        if record is not None and (picture := kept_picture(record, site, case)) is not None:
            found.append((arm, record, picture))
    found.sort(key=lambda one: one[0].name != comparison.reference)
    return [one for one in found if one[2].shows_the_same_as(found[0][2])]


def _model_for(comparison: Comparison, arm: Arm, site: str) -> RunRecord | None:
    """The run whose pictures of a site represent an arm; none if many models are averaged."""
    records = [record for record in comparison.records if record.name in arm.runs]
    fits = {
        "at home": lambda record: site in record.seen_sites,
        "left out": lambda record: site in record.unseen_sites,
        "elsewhere": lambda record: False,
    }.get(arm.view, lambda record: True)
    return next((record for record in records if fits(record)), None)
