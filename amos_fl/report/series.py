"""What the figures of a run show, as rows that also become CSV files."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from amos_fl.comparison.statistics import Marks, draws_within, estimates, means, strata_of
from amos_fl.escape.csv_cells import DictWriter
from amos_fl.files import whole_file
from amos_fl.metrics.scores import Scores, reported_organs
from amos_fl.metrics.table import CaseScores, sums_of
from amos_fl.randomness import generator
from amos_fl.runs.record import RunRecord
from amos_fl.runs.results import Row, SiteSums
from amos_fl.runs.selection import seen_and_unseen_dsc


@dataclass(frozen=True)
class LossPoint:
    """The mean training loss of a site in a round."""

    round: int
    site: str
    loss: float
    steps: int
    seconds: float


@dataclass(frozen=True)
class ScorePoint:
    """A site's scores after a round, on validation cases where its scanner is seen and on test cases otherwise."""

    round: int
    site: str
    seen: bool
    split: str
    cases: int
    dsc: float
    nsd: float


@dataclass(frozen=True)
class CostPoint:
    """What had been spent after a round, and the mean DSC over seen sites (validation) and over unseen ones."""

    round: int
    steps: int
    bytes: int
    seconds: float
    seen_dsc: float
    unseen_dsc: float


@dataclass(frozen=True)
class RoundRow:
    """A round: the mean loss of its sites, what it exchanged, scores where it was scored, and who was missing."""

    round: int
    loss: float
    seen_dsc: float
    unseen_dsc: float
    bytes_down: int
    bytes_up: int
    seconds: float
    missing: str


@dataclass(frozen=True)
class Cell:
    """The test scores of one organ (or of `mean`) at one site, or over the sites of a `group`."""

    site: str
    group: str
    modality: str
    organ: str
    cases: int
    dsc: float
    nsd: float
    missed: int
    hallucinated: int


@dataclass(frozen=True)
class CaseRow:
    """A test case by the mean over the organs that count in it."""

    case: str
    site: str
    group: str
    modality: str
    organs: int
    dsc: float
    nsd: float
    missed: int
    hallucinated: int


@dataclass(frozen=True)
class GapRow:
    """Seen minus unseen scanners of one modality, over their test cases; `low` and `high` are a 95 % interval.

    The interval is a bootstrap over cases within sites, as in a comparison; NaN below six cases on either side, and
    where a site kept the scores of its cases to itself.
    """

    modality: str
    metric: str
    seen_cases: int
    unseen_cases: int
    seen: float
    unseen: float
    gap: float
    low: float
    high: float


def loss_points(record: RunRecord) -> list[LossPoint]:
    """The losses of all rounds, from the ledger."""
    return [
        LossPoint(entry["round"], site, about["loss"], about["steps"], about["seconds"])
        for entry in record.ledger
        for site, about in entry["sites"].items()
    ]


def _evaluations(record: RunRecord) -> list[dict[str, Any]]:
    found = (record.folder.read_evaluation(entry["round"], "val") for entry in record.ledger)
    return [evaluation for evaluation in found if evaluation is not None]


def score_points(record: RunRecord) -> list[ScorePoint]:
    """The scores of all sites after the rounds that were scored."""
    points = []
    for evaluation in _evaluations(record):
        for site, result in evaluation["sites"].items():
            scores = Scores.from_dict(result["scores"])
            points.append(
                ScorePoint(
                    round=evaluation["round"],
                    site=site,
                    seen=result["seen"],
                    split=result["split"],
                    cases=scores.cases,
                    dsc=scores.mean_dsc(),
                    nsd=scores.mean_nsd(),
                )
            )
    return points


def cost_points(record: RunRecord) -> list[CostPoint]:
    """Scores beside what had been spent, for the rounds that were scored."""
    spent = {"steps": 0, "bytes": 0, "seconds": 0.0}
    evaluations = {evaluation["round"]: evaluation for evaluation in _evaluations(record)}
    points = []
    for entry in record.ledger:
        spent["steps"] += sum(site["steps"] for site in entry["sites"].values())
        spent["bytes"] += entry["bytes_down"] + entry["bytes_up"]
        spent["seconds"] += entry["seconds"]
        if entry["round"] in evaluations:
            means = seen_and_unseen_dsc(evaluations[entry["round"]])
            seen, unseen = (math.nan if mean is None else mean for mean in means)
            points.append(CostPoint(entry["round"], **spent, seen_dsc=seen, unseen_dsc=unseen))
    return points


def round_rows(record: RunRecord) -> list[RoundRow]:
    """Every round of the ledger."""
    scored = {point.round: (point.seen_dsc, point.unseen_dsc) for point in cost_points(record)}
    rows = []
    for entry in record.ledger:
        seen, unseen = scored.get(entry["round"], (math.nan, math.nan))
        rows.append(
            RoundRow(
                round=entry["round"],
                loss=entry["loss"],
                seen_dsc=seen,
                unseen_dsc=unseen,
                bytes_down=entry["bytes_down"],
                bytes_up=entry["bytes_up"],
                seconds=entry["seconds"],
                missing=" ".join(entry["missing"]),
            )
        )
    return rows


def group_of(case: CaseScores | SiteSums) -> str:
    return "seen" if case.seen else "unseen"


def site_order(cases: Iterable[CaseScores | SiteSums]) -> list[tuple[str, str, str]]:
    """(site, group, modality) of all cases: seen before unseen, CT before MR, then by name."""
    found = {(case.site, group_of(case), case.modality) for case in cases}
    return sorted(found, key=lambda key: (key[1], key[2], key[0]))


def cells(record: RunRecord) -> list[Cell]:
    """The heat map: every site by every organ and by `mean`."""
    organs, table = record.cohort.organs, []
    results = record.results
    for place in site_order([*results.cases, *results.withheld]):
        site, group, modality = place
        sums = sums_of([c for c in results.cases if (c.site, group_of(c), c.modality) == place], organs)
        for part in results.withheld:
            if (part.site, group_of(part), part.modality) == place:
                sums.merge(part.scores)
        for organ in reported_organs(organs, modality):
            if organ in sums.organs:
                table.append(_cell(site, group, modality, organs[organ], sums.only([organ])))
        table.append(_cell(site, group, modality, "mean", sums))
    return table


def _cell(site: str, group: str, modality: str, organ: str, scores: Scores) -> Cell:
    outcomes = scores.outcomes()
    missed, hallucinated = outcomes["missed"], outcomes["hallucinated"]
    means = scores.mean_dsc(), scores.mean_nsd()
    return Cell(site, group, modality, organ, scores.cases, *means, missed=missed, hallucinated=hallucinated)


def case_rows(record: RunRecord) -> list[CaseRow]:
    """Every test case, the best first within a site."""
    rows = []
    for case in record.results.cases:
        sums = sums_of([case], record.cohort.organs)
        outcomes = sums.outcomes()
        rows.append(
            CaseRow(
                case=case.case,
                site=case.site,
                group=group_of(case),
                modality=case.modality,
                organs=outcomes["scored"] + outcomes["missed"] + outcomes["hallucinated"],
                dsc=sums.mean_dsc(),
                nsd=sums.mean_nsd(),
                missed=outcomes["missed"],
                hallucinated=outcomes["hallucinated"],
            )
        )
    order = {key: place for place, key in enumerate(site_order(record.results.cases))}
    return sorted(rows, key=lambda r: (order[r.site, r.group, r.modality], -_or_minus_one(r.dsc), r.case))


def _or_minus_one(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def gap_rows(record: RunRecord, resamples: int = 2000) -> list[GapRow]:
    """Seen minus unseen within each modality that has both."""
    rows = []
    by_group = {(row.group, row.modality): row for row in record.results.groups}
    for modality in sorted({row.modality for row in record.results.groups}):
        if not {("seen", modality), ("unseen", modality)} <= set(by_group):
            continue
        if any(part.modality == modality for part in record.results.withheld):
            rows += _gaps_of_sums(by_group["seen", modality], by_group["unseen", modality])
            continue
        for metric in ("dsc", "nsd"):
            values, draws, cases, strata = [], [], [], []
            for group in ("seen", "unseen"):
                members = [c for c in record.results.cases if (group_of(c), c.modality) == (group, modality)]
                random = generator(record.config.seed, "report", "gap", group, modality)
                sites = [case.site for case in members]
                weights = draws_within(sites, resamples, random)
                strata.append(len(strata_of(sites)))
                marks = Marks.of([_matrix(members, record.cohort.organs, metric)])
                values.append(float(means(marks)[0, -1]))
                draws.append(None if weights is None else means(marks, weights)[:, -1:])
                cases.append(marks.cases_per_organ()[-1])
            both = None if draws[0] is None or draws[1] is None else draws[0] - draws[1]
            # The smaller group limits how well the difference is known.
            fewest = cases.index(min(cases))
            estimate = estimates(np.array([values[0] - values[1]]), both, [cases[fewest]], strata[fewest])[0]
            rows.append(
                GapRow(
                    modality=modality,
                    metric=metric,
                    seen_cases=cases[0],
                    unseen_cases=cases[1],
                    seen=values[0],
                    unseen=values[1],
                    gap=estimate.value,
                    low=estimate.low,
                    high=estimate.high,
                )
            )
    return rows


def _gaps_of_sums(seen: Row, unseen: Row) -> list[GapRow]:
    """The gap from sums and counts, as exact as any, but for an interval, which is drawn from scores per case."""
    return [
        GapRow(
            modality=seen.modality,
            metric=metric,
            seen_cases=seen.cases,
            unseen_cases=unseen.cases,
            seen=getattr(seen, metric),
            unseen=getattr(unseen, metric),
            gap=getattr(seen, metric) - getattr(unseen, metric),
            low=math.nan,
            high=math.nan,
        )
        for metric in ("dsc", "nsd")
    ]


def _matrix(cases: Sequence[CaseScores], organs: Mapping[int, str], metric: str) -> Float[np.ndarray, "case organ"]:
    """The scores of cases by the cohort's organs; NaN where one is not reported or does not count."""
    values = np.full((len(cases), len(organs)), np.nan)
    for row, case in enumerate(cases):
        reported = reported_organs(organs, case.modality)
        for column, organ in enumerate(organs):
            if organ in reported and organ in case.scores:
                values[row, column] = getattr(case.scores[organ], metric)
    return values


def write_rows(path: Path, rows: Sequence[Any], columns: Sequence[str]) -> None:
    """Write dataclass rows as CSV, numbers as they are; what is not a number is left empty."""
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = DictWriter(file, list(columns))
        writer.writeheader()
        for row in rows:
            values = {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(row).items()}
            writer.writerow({key: ("yes" if v else "no") if isinstance(v, bool) else v for key, v in values.items()})
