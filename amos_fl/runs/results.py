"""The scores of a run: per case, by site, by group of sites and by organ, as tables."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from amos_fl.cohort.table import Cohort
from amos_fl.escape.csv_cells import DictWriter
from amos_fl.files import whole_file
from amos_fl.metrics.scores import Scores, reported_organs
from amos_fl.metrics.table import CaseScores, scores_from_json, sums_of, write_scores
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.selection import Choice, choose_round


@dataclass(frozen=True)
class Row:
    """One line of a table of scores: over the cases of a site, a group of sites, or an organ.

    `dsc_present` is the mean DSC over organs that the reference has: what is hallucinated is counted in
    `hallucinated`, and not in it.
    """

    name: str
    group: str
    modality: str
    cases: int
    dsc: float
    nsd: float
    dsc_present: float
    missed: int
    hallucinated: int

    @classmethod
    def of(cls, name: str, group: str, modality: str, scores: Scores) -> "Row":
        outcomes = scores.outcomes()
        return cls(
            name=name,
            group=group,
            modality=modality,
            cases=scores.cases,
            dsc=scores.mean_dsc(),
            nsd=scores.mean_nsd(),
            dsc_present=scores.mean_dsc(present_only=True),
            missed=outcomes["missed"],
            hallucinated=outcomes["hallucinated"],
        )


@dataclass(frozen=True)
class SiteSums:
    """The scores of a site, or of one of its cases, added up; what a site sends that keeps its cases to itself."""

    site: str
    seen: bool
    modality: str
    scores: Scores


@dataclass(frozen=True)
class Results:
    """The test scores of a run: what failed first, then by site, by group and by organ."""

    chosen: Choice
    problems: list[str]
    cases: list[CaseScores]
    sites: list[Row]
    groups: list[Row]
    organs: list[Row]
    withheld: tuple[SiteSums, ...] = ()
    """Of the sites that kept the scores of single cases to themselves, which `cases` lacks."""


def withheld_sums(evaluation: dict[str, Any] | None) -> list[SiteSums]:
    """The sums of those sites of an evaluation that shared no scores of single cases.

    A site with both CT and MR sends one sum over both.
    """
    return [
        SiteSums(site, result["seen"], " and ".join(result["modalities"]), Scores.from_dict(result["scores"]))
        for site, result in (evaluation or {"sites": {}})["sites"].items()
        if not result["cases"] and result["scores"]["cases"]
    ]


def test_cases(evaluation: dict[str, Any] | None) -> list[CaseScores]:
    """The cases of an evaluation, as far as the sites shared them."""
    return [
        CaseScores(
            case["case"], site, case["modality"], result["seen"], result["split"], scores_from_json(case["scores"])
        )
        for site, result in (evaluation or {"sites": {}})["sites"].items()
        for case in result["cases"]
    ]


def problems_of(folder: RunFolder) -> list[str]:
    """Failed sites and rounds, and what was changed on the way, one sentence each."""
    ledger = folder.ledger()
    found = [
        f"before round {entry['round']} the run was changed: {change}"
        for entry in ledger
        for change in entry.get("changes", ())
    ]
    found += [
        f"round {entry['round']}: site {site} {about['restarted']}"
        for entry in ledger
        for site, about in entry["sites"].items()
        if "restarted" in about
    ]
    found += [
        f"round {entry['round']}: site {site} is missing: {reason}"
        for entry in ledger
        for site, reason in entry["missing"].items()
    ]
    for number, split in folder.evaluations():
        missing = (folder.read_evaluation(number, split) or {"missing": {}})["missing"]
        found += [f"{split} scores of round {number}: site {s} is missing: {why}" for s, why in missing.items()]
    return found


def results_of(folder: RunFolder, config: RunConfig, cohort: Cohort) -> Results:
    """The results of a run from the files in its folder."""
    chosen = choose_round(folder, config, config.rounds)
    evaluation = folder.read_evaluation(chosen.round, "test")
    cases, withheld = test_cases(evaluation), withheld_sums(evaluation)
    return tabulated(chosen, problems_of(folder), cases, cohort.organs, withheld)


def tabulated(
    chosen: Choice,
    problems: list[str],
    cases: list[CaseScores],
    organs: Mapping[int, str],
    withheld: Iterable[SiteSums] = (),
) -> Results:
    """The scores of cases, and those of sites that withhold their cases, as tables by site, by group and by organ."""
    withheld = tuple(withheld)
    parts = [*(SiteSums(c.site, c.seen, c.modality, sums_of([c], organs)) for c in cases), *withheld]

    def total(mine: Iterable[SiteSums]) -> Scores:
        return reduce(Scores.merge, (part.scores for part in mine), Scores())

    def rows(keys: Iterable[tuple[str, bool, str]], named: bool) -> list[Row]:
        table = []
        for site, seen, modality in keys:
            group = "seen" if seen else "unseen"
            mine = [p for p in parts if p.seen == seen and p.modality == modality and (not named or p.site == site)]
            table.append(Row.of(site if named else f"{group} {modality}", group, modality, total(mine)))
        return table

    by_site = sorted({(p.site, p.seen, p.modality) for p in parts}, key=lambda key: (not key[1], key[2], key[0]))
    by_group = sorted({("", p.seen, p.modality) for p in parts}, key=lambda key: (not key[1], key[2]))
    by_organ = []
    for _, seen, modality in by_group:
        mine = total(p for p in parts if p.seen == seen and p.modality == modality)
        for organ in reported_organs(organs, modality):
            if organ in mine.organs:
                group = "seen" if seen else "unseen"
                by_organ.append(Row.of(organs[organ], group, modality, mine.only([organ])))
    return Results(chosen, problems, cases, rows(by_site, True), rows(by_group, False), by_organ, withheld)


def write_tables(folder: Path, results: Results, organs: Mapping[int, str]) -> None:
    """Write scores.csv, scores_by_site.csv and scores_by_organ.csv."""
    write_scores(folder / "scores.csv", results.cases, organs)
    _write_rows(folder / "scores_by_site.csv", results.sites + results.groups)
    _write_rows(folder / "scores_by_organ.csv", results.organs)


def _write_rows(path: Any, rows: list[Row]) -> None:
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = DictWriter(file, list(Row.__dataclass_fields__))
        writer.writeheader()
        for row in rows:
            values = {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(row).items()}
            writer.writerow(values)
