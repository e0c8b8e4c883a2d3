"""The data of a run's figures besides its scores, as rows that also become CSV files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from amos_fl.comparison.means import Mean, mean_of, minus
from amos_fl.comparison.patients import of_first_cases, patients_of, units_of
from amos_fl.comparison.statistics import Marks, draws_within
from amos_fl.metrics.catalogue import IN_RUNS
from amos_fl.metrics.rows import ScoreRow, group_of, rows_by_case, sums_by_case
from amos_fl.metrics.scores import reported_organs
from amos_fl.metrics.table import CaseScores
from amos_fl.randomness import generator
from amos_fl.runs.ledger import steps_taken
from amos_fl.runs.record import RunRecord
from amos_fl.runs.selection import macro_dsc


@dataclass(frozen=True)
class LossPoint:
    """The mean training loss of a site in a round."""

    round: int
    site: str
    loss: float
    steps: int
    seconds: float


@dataclass(frozen=True)
class CostPoint:
    """The cost so far after a round, and the mean DSC over seen sites (validation) and over unseen ones."""

    round: int
    steps: int
    bytes: int
    seconds: float
    seen_dsc: float
    unseen_dsc: float


@dataclass(frozen=True)
class RoundTotals:
    """A round: the mean loss of its sites, bytes exchanged, scores if it was scored, and missing sites."""

    round: int
    loss: float
    seen_dsc: float
    unseen_dsc: float
    bytes_down: int
    bytes_up: int
    seconds: float
    missing: str


@dataclass(frozen=True)
class GapRow:
    """Seen minus unseen scanners of one modality, over their test cases; `low` and `high` are a 95 % interval.

    The interval is a bootstrap over cases within sites, as in a comparison; NaN below six cases on either side, or if a
    site withheld the scores of its cases.
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


def cost_points(record: RunRecord) -> list[CostPoint]:
    """Scores and cost so far, for the rounds that were scored."""
    spent = {"steps": 0, "bytes": 0, "seconds": 0.0}
    points = []
    for entry in record.ledger:
        spent["steps"] += sum(steps_taken(site) for site in entry["sites"].values())
        spent["bytes"] += entry["bytes_down"] + entry["bytes_up"]
        spent["seconds"] += entry["seconds"]
        if (evaluation := record.folder.read_evaluation(entry["round"], "val")) is not None:
            seen, unseen = (macro_dsc(evaluation, seen=which) for which in (True, False))
            points.append(CostPoint(entry["round"], **spent, seen_dsc=seen, unseen_dsc=unseen))
    return points


def round_totals(record: RunRecord) -> list[RoundTotals]:
    """Every round of the ledger."""
    scored = {point.round: (point.seen_dsc, point.unseen_dsc) for point in cost_points(record)}
    rows = []
    for entry in record.ledger:
        seen, unseen = scored.get(entry["round"], (math.nan, math.nan))
        rows.append(
            RoundTotals(
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


def case_rows(record: RunRecord) -> list[ScoreRow]:
    """Every test case, by site, the best first."""
    rows = rows_by_case(sums_by_case(record.results.cases, record.results.organs))
    return sorted(rows, key=lambda r: (r.group, r.modality, r.site, 1.0 if math.isnan(r.dsc) else -r.dsc, r.case))


def gap_rows(record: RunRecord, resamples: int = 2000) -> list[GapRow]:
    """Seen minus unseen within each modality that has both."""
    rows = []
    whose = patients_of([record])
    by_group = {(row.group, row.modality): row for row in record.results.by_group}
    for modality in sorted({row.modality for row in record.results.by_group}):
        if not {("seen", modality), ("unseen", modality)} <= set(by_group):
            continue
        if any(part.modality == modality for part in record.results.withheld):
            rows += _gaps_of_sums(by_group["seen", modality], by_group["unseen", modality])
            continue
        for metric in IN_RUNS:
            both: list[Mean] = []
            for group in ("seen", "unseen"):
                members = [c for c in record.results.cases if (group_of(c), c.modality) == (group, modality)]
                random = generator(record.config.seed, "report", "gap", group, modality)
                units = units_of([whose.get(case.case, "") for case in members])
                sites = of_first_cases(units, [case.site for case in members])
                marks = replace(Marks.of([_matrix(members, record.cohort.organs, metric)]), units=units)
                both.append(mean_of(marks, (), sites, draws_within(sites, resamples, random)))
            seen, unseen = both
            estimate = minus(seen, unseen, min(both, key=lambda mean: mean.patients[-1]))
            rows.append(
                GapRow(
                    modality=modality,
                    metric=metric,
                    seen_cases=seen.cases[-1],
                    unseen_cases=unseen.cases[-1],
                    seen=float(seen.values[-1]),
                    unseen=float(unseen.values[-1]),
                    gap=estimate.value,
                    low=estimate.low,
                    high=estimate.high,
                )
            )
    return rows


def _gaps_of_sums(seen: ScoreRow, unseen: ScoreRow) -> list[GapRow]:
    """The gap from sums and counts, equally exact, but without an interval, which needs scores per case."""
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
        for metric in IN_RUNS
    ]


def _matrix(cases: Sequence[CaseScores], organs: Mapping[int, str], metric: str) -> Float[np.ndarray, "case organ"]:
    """The scores of cases by the cohort's organs; NaN if one is not reported or does not count."""
    values = np.full((len(cases), len(organs)), np.nan)
    for row, case in enumerate(cases):
        reported = reported_organs(organs, case.modality)
        for column, organ in enumerate(organs):
            if organ in reported and organ in case.scores:
                values[row, column] = getattr(case.scores[organ], metric)
    return values
