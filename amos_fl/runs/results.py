"""The scores of a run: per case, by site, by group of sites and by organ, as tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from amos_fl.cohort.table import Cohort
from amos_fl.csv_table import write_table
from amos_fl.metrics.catalogue import IN_RUNS
from amos_fl.metrics.rows import SCORES, ScoreRow, SiteSums, mean_rows, organ_rows, rows_by, score_rows, sums_by_case
from amos_fl.metrics.table import CaseScores
from amos_fl.runs.config import RunConfig
from amos_fl.runs.evaluation import SiteEvaluation
from amos_fl.runs.folder import OWN, RunFolder
from amos_fl.runs.selection import ChosenRound, choose_round, own_rounds

SUMMED = ("name", "group", "modality", "cases", *IN_RUNS, "dsc_present", "missed", "hallucinated")
"""The columns of scores_by_site.csv and scores_by_organ.csv."""


@dataclass(frozen=True)
class Results:
    """The test scores of a run, and its failures; its tables are made from these."""

    chosen: ChosenRound
    problems: list[str]
    cases: list[CaseScores]
    organs: Mapping[int, str]
    withheld: tuple[SiteSums, ...] = ()
    """The sums of sites that withheld the scores of single cases, which `cases` lacks."""
    personal: "Results | None" = None
    """The scores of the sites' own models, each on its own test cases; None where the method leaves them none."""

    @cached_property
    def parts(self) -> list[SiteSums]:
        """The parts of the scores: each case, and the sums of each site that withheld its cases."""
        return [*sums_by_case(self.cases, self.organs), *self.withheld]

    @cached_property
    def at_sites(self) -> list[ScoreRow]:
        """Each site and modality, seen ones first: its organs, then their mean."""
        return list(rows_by(self.parts, self.organs, "group", "modality", "site"))

    @cached_property
    def in_groups(self) -> list[ScoreRow]:
        """Seen and unseen scanners of each modality: their organs, then their mean."""
        return list(rows_by(self.parts, self.organs, "group", "modality"))

    @property
    def little_learned(self) -> str:
        """A sentence if the network drew hardly an organ that is there, on the scanners that it trained on, or ""."""
        rows = [row for row in self.by_group if row.group == "seen"]
        drawn, missed = sum(row.scored for row in rows), sum(row.missed for row in rows)
        if missed < 9 * max(drawn, 1):
            return ""
        return (
            f"The network drew {drawn} of the {drawn + missed} organs in its seen scanners' test cases: it has learned "
            "too little to say anything about how it was trained."
        )

    @property
    def by_site(self) -> list[ScoreRow]:
        return mean_rows(self.at_sites)

    @property
    def by_group(self) -> list[ScoreRow]:
        return mean_rows(self.in_groups)

    @property
    def by_organ(self) -> list[ScoreRow]:
        """Each organ over seen and over unseen scanners of each modality."""
        return organ_rows(self.in_groups)


def withheld_sums(evaluated: Mapping[str, SiteEvaluation]) -> list[SiteSums]:
    """The sums of those sites that shared no scores of single cases.

    A site with both CT and MR sends one sum over both.
    """
    return [
        SiteSums(site, result.seen, " and ".join(result.modalities), result.scores.to_scores())
        for site, result in evaluated.items()
        if not result.cases and result.scores.cases
    ]


def test_cases(evaluated: Mapping[str, SiteEvaluation]) -> list[CaseScores]:
    """The cases that the sites shared."""
    return [
        CaseScores(case.case, site, case.modality, result.seen, result.split, case.by_organ())
        for site, result in evaluated.items()
        for case in result.cases
    ]


def problems_of(folder: RunFolder) -> list[str]:
    """Failed sites and rounds, and changes during the run, one sentence each."""
    changed, restarted, missing = list[str](), list[str](), list[str]()
    for entry in folder.entries():
        when = f"round {entry['round']}"
        changed += [f"before {when} the run was changed: {change}" for change in entry.get("changes", ())]
        for site, about in entry["sites"].items():
            if "restarted" in about:
                restarted.append(f"{when}: site {site} {about['restarted']}")
        missing += [f"{when}: site {site} is missing: {reason}" for site, reason in entry["missing"].items()]
    found = [*changed, *restarted, *missing]
    for number, split in folder.evaluations():
        failed = evaluation.missing if (evaluation := folder.read_evaluation(number, split)) is not None else {}
        found += [f"{split} scores of round {number}: site {s} is missing: {why}" for s, why in failed.items()]
    return found


def results_of(folder: RunFolder, config: RunConfig, cohort: Cohort) -> Results:
    """The results of a run from the files in its folder."""
    chosen = choose_round(folder, config, config.rounds)
    found = results_at(folder, chosen, cohort.organs)
    return replace(found, problems=problems_of(folder), personal=_personal(folder, config, cohort))


def results_at(folder: RunFolder, chosen: ChosenRound, organs: Mapping[int, str]) -> Results:
    """The test scores of a round, without the run's failures and the sites' own models."""
    evaluated = folder.scores_of_sites(chosen.round, "test")
    return Results(chosen, [], test_cases(evaluated), organs, tuple(withheld_sums(evaluated)))


def _personal(folder: RunFolder, config: RunConfig, cohort: Cohort) -> Results | None:
    """The test scores of each site's own model, of the round that the site chose."""
    rounds = [number for number, kind in folder.evaluations() if kind == OWN["test"]]
    if not rounds:
        return None
    chosen_rounds = own_rounds(folder, config)
    found = {
        site: scores
        for number in rounds
        for site, scores in folder.scores_of_sites(number, OWN["test"]).items()
        if chosen_rounds.get(site, config.rounds) == number
    }
    if not found:
        return None
    evaluated = {site: found[site] for site in sorted(found)}
    chosen = ChosenRound(max(rounds), "each site's own model, of the round that is best on its own validation cases")
    return Results(chosen, [], test_cases(evaluated), cohort.organs, tuple(withheld_sums(evaluated)))


def write_tables(folder: Path, results: Results) -> None:
    """Write scores.csv, scores_by_site.csv and scores_by_organ.csv, and the first two of the sites' own models."""
    for name, (columns, rows) in tables_of(results).items():
        write_table(folder / name, columns, rows)


def tables_of(results: Results) -> dict[str, tuple[Sequence[str], Iterable[Any]]]:
    """Columns and rows of the tables that `write_tables` writes, by file name."""
    tables: dict[str, tuple[Sequence[str], Iterable[Any]]] = {
        "scores.csv": (SCORES, score_rows(results.cases, results.organs)),
        "scores_by_site.csv": (SUMMED, results.by_site + results.by_group),
        "scores_by_organ.csv": (SUMMED, results.by_organ),
    }
    if results.personal is not None:
        tables["scores_personal.csv"] = (SCORES, score_rows(results.personal.cases, results.organs))
        tables["scores_by_site_personal.csv"] = (SUMMED, results.personal.by_site)
    return tables
