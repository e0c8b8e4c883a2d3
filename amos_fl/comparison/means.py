"""The means of all arms in all scopes, with their bootstrap draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from amos_fl.comparison.arms import ArmScores
from amos_fl.comparison.cases import CaseTable, rows_of
from amos_fl.comparison.comparison import MeanScore, Scope, Spread
from amos_fl.comparison.patients import of_first_cases
from amos_fl.comparison.statistics import Estimate, Marks, draws_within, estimates, means, strata_of
from amos_fl.metrics.catalogue import MetricName
from amos_fl.metrics.table import CaseScores
from amos_fl.randomness import generator


@dataclass(frozen=True)
class Mean:
    """An arm in a scope: per organ, and last the mean of the organs. Some keep only the draws of that mean."""

    organs: tuple[str, ...]
    values: Float[np.ndarray, " organs+mean"]
    draws: Float[np.ndarray, "draw organs+mean"] | None
    cases: list[int]
    strata: int  # the sites within which cases were drawn
    patients: list[int]  # as cases, or fewer if a patient has several

    def estimates(self) -> list[Estimate]:
        """The mean of each organ with its interval, and last that of all organs."""
        return estimates(self.values, self.draws, self.cases, self.strata, self.patients)


def mean_of(
    marks: Marks, organs: tuple[str, ...], strata: Sequence[str], weights: Float[np.ndarray, "draw unit"] | None
) -> Mean:
    """The mean of an arm's scores, with its draws if `weights` are given (`statistics.draws_within`)."""
    drawn = marks.together()
    draws = None if weights is None else means(drawn, weights)
    cases, patients = marks.cases_per_organ(), drawn.cases_per_organ()
    return Mean(organs, means(marks)[0], draws, cases, len(strata_of(strata)), patients)


def mean_of_runs(
    runs: Sequence[Sequence[CaseScores]], organs: Sequence[int], metric: MetricName, scope: str, resamples: int = 10_000
) -> Mean:
    """The mean of runs on the same cases, in the same order, as a comparison of them has it in this scope.

    Draws depend on the scope's name and the cases' sites alone, so that means over the same cases are paired.
    """
    scores = [
        np.array([[getattr(c.scores[o], metric) if o in c.scores else np.nan for o in organs] for c in run])
        for run in runs
    ]
    strata = [f"{case.site} {case.modality}" for case in runs[0]]
    weights = draws_within(strata, resamples, generator(0, "bootstrap", scope))
    return mean_of(Marks.of(scores), tuple(map(str, organs)), strata, weights)


def minus(one: Mean, other: Mean, fewer: Mean) -> Estimate:
    """The difference of two means over organs; `fewer` is the one with fewer cases, which limits the precision."""
    draws = None
    if one.draws is not None and other.draws is not None:
        draws = one.draws[:, -1:] - other.draws[:, -1:]
    apart = one.values[-1:] - other.values[-1:]
    return estimates(apart, draws, [fewer.cases[-1]], fewer.strata, [fewer.patients[-1]])[0]


class Means:
    """The means of all arms in all scopes, and their draws.

    A draw is one choice of a scope's cases, the same for every arm, which is what makes differences paired.
    """

    def __init__(
        self,
        table: CaseTable,
        scopes: Sequence[Scope],
        arms: Sequence[ArmScores],
        metrics: tuple[MetricName, ...],
        seed: int,
        resamples: int,
    ) -> None:
        self.table, self.scopes, self.arms, self.metrics = table, scopes, arms, metrics
        self.seed, self.resamples = seed, resamples
        self.cells: list[MeanScore] = []
        self._kept: dict[tuple[str, str, MetricName], Mean] = {}
        for scope in scopes:
            if scope.kind != "sites":
                self._score(scope)
        for scope in scopes:
            if scope.kind == "sites":
                self._score_alike(scope)
        order = {scope.name: i for i, scope in enumerate(scopes)}
        self.cells.sort(key=lambda cell: order[cell.scope])

    def mean(self, arm: str, scope: str, metric: MetricName) -> Mean | None:
        """An arm in a scope; None if it has no scores there."""
        return self._kept.get((arm, scope, metric))

    def marks(self, arm: ArmScores, scope: Scope, metric: MetricName) -> Marks | None:
        """The scores of an arm on a scope's cases and reported organs; None if it lacks a case."""
        rows = rows_of(self.table, scope)
        if not arm.available[rows].all():
            return None
        marks = arm.marks[metric].only(rows, self.table.reported(scope.modality))
        return replace(marks, units=self.table.units(rows))

    def organs(self, scope: Scope) -> tuple[str, ...]:
        return tuple(self.table.organs[self.table.labels[i]] for i in self.table.reported(scope.modality))

    def _score(self, scope: Scope) -> None:
        rows, organs = rows_of(self.table, scope), self.table.reported(scope.modality)
        strata = [f"{self.table.cases[row].site} {self.table.cases[row].modality}" for row in rows]
        strata = of_first_cases(self.table.units(rows), strata)
        # Drawn for small sites too, because the mean over sites takes its draws from theirs.
        # A bootstrap draws cases, and a site that sends sums has none.
        random = generator(self.seed, "bootstrap", scope.name)
        weights = None if scope.withheld else draws_within(strata, self.resamples, random)
        names = (*self.organs(scope), "")
        for arm in self.arms:
            counts = [part[np.ix_(rows, organs)].sum(axis=0) for part in (arm.missed, arm.hallucinated)]
            missed, hallucinated = ([*map(float, count), float(count.sum())] for count in counts)
            for metric in self.metrics:
                marks = self.marks(arm, scope, metric)
                if marks is None:
                    continue
                mean = mean_of(marks, names[:-1], strata, weights)
                found = mean.estimates()
                # Differences by organ are taken in groups between main arms; elsewhere the mean's draws are enough.
                if mean.draws is not None and not (arm.arm.main and scope.kind == "group"):
                    mean = replace(mean, draws=mean.draws[:, -1:])
                self._kept[arm.arm.name, scope.name, metric] = mean
                made = zip(names, found, missed, hallucinated, strict=True)
                self.cells += [MeanScore(arm.arm.name, scope.name, o, metric, e, m, h) for o, e, m, h in made]

    def _score_alike(self, scope: Scope) -> None:
        """The mean over sites of their means; its draws are those of the sites, which are independent."""
        members = [s for s in self.scopes if s.kind == "site" and s.seen == scope.seen]
        cells = {(c.arm, c.scope, c.metric): c for c in self.cells if not c.organ}
        for arm in self.arms:
            name = arm.arm.name
            for metric in self.metrics:
                sites = [mean for site in members if (mean := self._kept.get((name, site.name, metric)))]
                if len(sites) < len(members):
                    continue
                value = _mean_of_known([site.values[-1:] for site in sites])
                draws = [site.draws for site in sites if site.draws is not None]
                together = _mean_of_known(draws) if len(draws) == len(sites) else None
                cases, patients = sum(site.cases[-1] for site in sites), sum(site.patients[-1] for site in sites)
                mean = Mean((), value, together, [cases], len(sites), [patients])
                self._kept[name, scope.name, metric] = mean
                estimate = estimates(value, together, mean.cases, mean.strata, mean.patients)[0]
                counted = [cells[name, site.name, metric] for site in members]
                missed, hallucinated = (sum(getattr(c, of) for c in counted) for of in ("missed", "hallucinated"))
                self.cells.append(MeanScore(name, scope.name, "", metric, estimate, missed, hallucinated))

    def spreads(self) -> list[Spread]:
        """The means of each seed of the main arms, in groups and over equally weighted sites."""
        found = []
        for arm in self.arms:
            for scope in self.scopes:
                for metric in self.metrics:
                    if arm.arm.main and scope.kind != "site" and (arm.arm.name, scope.name, metric) in self._kept:
                        values = [self._seed_mean(arm, seed, scope, metric) for seed in arm.by_seed]
                        sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
                        found.append(Spread(arm.arm.name, scope.name, metric, arm.arm.seeds, tuple(values), sd))
        return found

    def _seed_mean(self, arm: ArmScores, seed: int, scope: Scope, metric: MetricName) -> float:
        if scope.kind == "sites":
            sites = [s for s in self.scopes if s.kind == "site" and s.seen == scope.seen]
            values = [value for site in sites if not math.isnan(value := self._seed_mean(arm, seed, site, metric))]
            return math.fsum(values) / len(values) if values else math.nan
        marks = arm.by_seed[seed][metric].only(rows_of(self.table, scope), self.table.reported(scope.modality))
        return float(means(marks)[0, -1])


def _mean_of_known(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of arrays of one shape ignoring NaN; NaN if all are."""
    known = ~np.isnan(parts)
    number = known.sum(axis=0)
    total = np.where(known, parts, 0.0).sum(axis=0)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
