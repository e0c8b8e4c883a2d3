"""The statistics of a comparison: means over cases and organs, their intervals, a paired test, Holm's correction.

Means are defined as everywhere (`amos_fl.metrics.scores`): per organ over the cases that count, then over the organs.
An interval is that of a bootstrap over the cases within each site. A draw takes n - 1 of a site's n cases and scales
them up, because n draws from n understate the variance by a factor of (n - 1) / n, a half if a site has two cases (Rao
and Wu, JASA 83:231, 1988). Fewer than six cases get no interval and no test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

LEAST_COMPARED_CASES = 6
"""With fewer cases a two-sided exact test cannot reach 0.05 (2 / 2**5), and an interval would be meaningless."""
LEAST_IN_STRATUM = 3
"""A draw from two cases is just one of them, with nothing between their scores."""
EXACT_CASES = 13
"""Up to so many cases a permutation test takes all ways of exchanging scores."""
TIE = 1e-10
"""Permuted means closer than this to the observed one count as equal to it, because sums of floats round."""


@dataclass(frozen=True)
class Marks:
    """One metric of one arm: per case and organ the sum over its runs and the fraction of them that counted.

    With one run `counts` is 1 if the organ counts in the case and 0 if not, and `sums` its score. Several runs (seeds,
    or the models of other sites) are averaged.
    """

    sums: Float[np.ndarray, "case organ"]
    counts: Float[np.ndarray, "case organ"]
    sizes: Int[np.ndarray, " case"] | None = None
    """The number of cases in each row: more than one if a site sent sums over its cases. None: one each."""
    units: Int[np.ndarray, " case"] | None = None
    """The patient number of each case, if a patient has several cases (`patients.units_of`)."""

    @classmethod
    def of(
        cls, runs: Sequence[Float[np.ndarray, "case organ"]], rows: Sequence[Bool[np.ndarray, " case"]] | None = None
    ) -> "Marks":
        """The marks of runs on the same cases; scores are NaN if an organ does not count.

        `rows` gives the cases for which each run counts, by default all; a case without a run counts nowhere.

        >>> Marks.of([np.array([[0.5, np.nan]]), np.array([[0.7, 0.0]])]).counts
        array([[1. , 0.5]])
        """
        scores = np.stack(runs)  # (run, case, organ)
        known = ~np.isnan(scores)
        return cls.added(list(zip(np.where(known, scores, 0.0), known.astype(float), strict=True)), rows)

    @classmethod
    def added(
        cls,
        runs: Sequence[tuple[Float[np.ndarray, "case organ"], Float[np.ndarray, "case organ"]]],
        rows: Sequence[Bool[np.ndarray, " case"]] | None = None,
        sizes: Int[np.ndarray, " case"] | None = None,
    ) -> "Marks":
        """The marks of runs that each have sums and counts already."""
        sums, counts = (np.stack([run[part] for run in runs]) for part in (0, 1))  # (run, case, organ)
        used = np.ones(sums.shape[:2], bool) if rows is None else np.stack(rows)
        number = np.maximum(used.sum(axis=0), 1)[:, None]  # (case, 1)
        of_used = used[:, :, None]
        totals = [np.where(of_used, part, 0.0).sum(axis=0) / number for part in (sums, counts)]
        return cls(totals[0], totals[1], sizes)

    def only(self, cases: Sequence[int], organs: Sequence[int]) -> "Marks":
        """The marks of some of the cases and organs, by their positions."""
        rows, columns = np.asarray(cases, int)[:, None], np.asarray(organs, int)[None, :]
        sizes = None if self.sizes is None else self.sizes[rows[:, 0]]
        return Marks(self.sums[rows, columns], self.counts[rows, columns], sizes)

    def together(self) -> "Marks":
        """The marks with all cases of a patient in one row, added up: the means are the same.

        >>> two = Marks(np.array([[0.5], [0.7], [0.9]]), np.ones((3, 1)), units=np.array([0, 1, 0]))
        >>> two.together().sums.tolist(), two.together().counts.tolist()
        ([[1.4], [0.7]], [[2.0], [1.0]])
        """
        if self.units is None:
            return self
        of_patient = (np.arange(self.units.max() + 1)[:, None] == self.units[None, :]).astype(float)  # (patient, case)
        return Marks(of_patient @ self.sums, of_patient @ self.counts)

    def cases_per_organ(self) -> list[int]:
        """The number of cases that count for each organ, in any run; last, the number that count at all."""
        counted = (self.counts > 0).astype(int)
        at_all = counted.any(axis=1).astype(int)
        if self.sizes is not None:
            several = self.sizes > 1
            counted = np.where(several[:, None], np.ceil(self.counts - TIE).astype(int), counted)
            at_all = np.where(several, at_all * self.sizes, at_all)
        return [*counted.sum(axis=0).tolist(), int(at_all.sum())]


def means(marks: Marks, weights: Float[np.ndarray, "draw case"] | None = None) -> Float[np.ndarray, "draw organs+mean"]:
    """Per draw the mean of each organ over its cases, and last the mean of the organs; NaN if none counts.

    `weights` give how often a case is in a draw; without them there is one draw, with every case once.

    >>> two_cases = Marks.of([np.array([[0.9, 0.4], [0.7, np.nan]])])
    >>> means(two_cases).round(6).tolist()
    [[0.8, 0.4, 0.6]]
    """
    if weights is None:
        weights = np.ones((1, len(marks.sums)))
    return _with_mean(weights @ marks.sums, weights @ marks.counts)


def _with_mean(sums: Float[np.ndarray, "draw organ"], counts: Float[np.ndarray, "draw organ"]) -> np.ndarray:
    known = counts > TIE
    organs = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=known)
    number = known.sum(axis=1)
    total = np.where(known, organs, 0.0).sum(axis=1)
    mean = np.divide(total, number, out=np.full(len(sums), np.nan), where=number > 0)
    return np.concatenate([organs, mean[:, None]], axis=1)


def strata_of(sites: Sequence[str]) -> list[list[int]]:
    """The positions of the cases in each stratum of the bootstrap: normally those of a site.

    Two cases show too little of a site's spread, and one nothing at all. Such sites are drawn together, joined by the
    smallest other site if they have fewer than three cases in all, which can only widen an interval.

    >>> strata_of(["A", "A", "A", "B", "C", "A"])
    [[0, 1, 2, 3, 4, 5]]
    """
    members: dict[str, list[int]] = {}
    for case, site in enumerate(sites):
        members.setdefault(site, []).append(case)
    groups = sorted((group for group in members.values() if len(group) >= LEAST_IN_STRATUM), key=len)
    few = [case for group in members.values() if len(group) < LEAST_IN_STRATUM for case in group]
    if few and (len(few) >= LEAST_IN_STRATUM or not groups):
        groups.append(few)
    elif few:
        groups[0] = groups[0] + few
    return sorted(sorted(group) for group in groups)


def draws_within(
    sites: Sequence[str], resamples: int, random: np.random.Generator
) -> Float[np.ndarray, "draw case"] | None:
    """How often each case is in each bootstrap draw; cases are drawn within their site (see `strata_of`).

    None if there are fewer than three cases.
    """
    if len(sites) < LEAST_IN_STRATUM:
        return None
    weights = np.zeros((resamples, len(sites)))
    for group in strata_of(sites):
        n = len(group)
        weights[:, group] = random.multinomial(n - 1, np.full(n, 1 / n), size=resamples) * (n / (n - 1))
    return weights


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference, its 95 % interval (NaN below six cases), and its number of cases."""

    value: float
    low: float
    high: float
    cases: int

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0; never without one."""
        return self.low > 0 or self.high < 0


def estimates(
    values: Float[np.ndarray, " number"],
    draws: Float[np.ndarray, "draw number"] | None,
    cases: Sequence[int],
    strata: int = 1,
    patients: Sequence[int] | None = None,
) -> list[Estimate]:
    """The observed values with the intervals of their bootstrap draws, if at least six cases count.

    With few cases, percentile intervals are too narrow, as a normal distribution is narrower than Student's t. The
    percentiles are taken further out accordingly, with cases minus strata as degrees of freedom (Hesterberg's expanded
    percentile interval, Am. Stat. 69:371, 2015): 2.5 to 97.5 % for many cases, 0.5 to 99.5 % for six of one site. If
    the cohort names patients, `patients` are counted instead of cases.
    """
    lows, highs = np.full(len(values), np.nan), np.full(len(values), np.nan)
    independent = cases if patients is None else patients
    wide = [i for i, n in enumerate(independent) if n >= LEAST_COMPARED_CASES and not math.isnan(values[i])]
    if draws is not None:
        for n in {independent[i] for i in wide}:
            columns = [i for i in wide if independent[i] == n]
            tail = float(stats.norm.cdf(stats.t.ppf(0.025, max(1, n - strata))))
            lows[columns], highs[columns] = _quantiles(draws[:, columns], [tail, 1 - tail])
    limits_and_cases = zip(values, lows, highs, cases, strict=True)
    return [Estimate(float(value), float(low), float(high), n) for value, low, high, n in limits_and_cases]


def _quantiles(draws: Float[np.ndarray, "draw number"], levels: list[float]) -> Float[np.ndarray, "level number"]:
    sorted_apart = np.ascontiguousarray(draws.T)  # (number, draw), so that each sorts in one piece
    broken = np.isnan(sorted_apart).any(axis=1)
    limits = np.empty((len(levels), len(sorted_apart)))
    limits[:, ~broken] = np.quantile(sorted_apart[~broken], levels, axis=1)
    if broken.any():  # draws in which no case has the organ are ignored
        limits[:, broken] = np.nanquantile(sorted_apart[broken], levels, axis=1)
    return limits


def paired_p(a: Marks, b: Marks, permutations: int, random: np.random.Generator) -> Float[np.ndarray, " organs+mean"]:
    """Two-sided p of the paired permutation test, per organ and for the mean of the organs.

    Under the null hypothesis it does not matter which arm a case's two scores came from, so both are exchanged, case
    by case, in every possible way (up to 2**13 ways, exactly) or in `permutations` random ones, for which the observed
    one counts too (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9:39, 2010). It is the test of Fisher and Pitman
    (Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005). Chosen over Wilcoxon's signed-rank test
    because it tests the difference that is printed, a mean of organ means, and needs no rule for cases whose scores are
    equal or 0 in both arms; on signed ranks it is Wilcoxon's exact test. NaN below six cases.
    """
    a, b = a.together(), b.together()  # the scans of a patient are exchanged together
    cases = len(a.sums)
    observed = np.abs(means(a)[0] - means(b)[0])
    counting = np.asarray(Marks(a.sums, np.minimum(a.counts, b.counts)).cases_per_organ())
    enough = (counting >= LEAST_COMPARED_CASES) & ~np.isnan(observed)
    if not enough.any():
        return np.full(len(observed), np.nan)
    exact = cases <= EXACT_CASES
    if exact:
        # Exchanging all cases gives the same distance, so half of the ways are enough.
        ways = np.arange(2 ** (cases - 1))
        swaps = ((ways[:, None] >> np.arange(cases)[None, :]) & 1).astype(float)  # (way, case)
    else:
        swaps = random.integers(0, 2, size=(permutations, cases), dtype=np.int8).astype(float)
    moved, moved_counts = swaps @ (b.sums - a.sums), swaps @ (b.counts - a.counts)
    left = _with_mean(a.sums.sum(axis=0) + moved, a.counts.sum(axis=0) + moved_counts)
    right = _with_mean(b.sums.sum(axis=0) - moved, b.counts.sum(axis=0) - moved_counts)
    as_far: Bool[np.ndarray, "way number"] = np.abs(left - right) >= observed[None, :] - TIE
    p = as_far.mean(axis=0) if exact else (as_far.sum(axis=0) + 1) / (permutations + 1)
    return np.where(enough, p, np.nan)


def least_p(cases: int, permutations: int) -> float:
    """The smallest p that `paired_p` can give.

    >>> least_p(6, 10_000), least_p(20, 9_999)
    (0.03125, 0.0001)
    """
    return 2.0 ** (1 - cases) if cases <= EXACT_CASES else 1 / (permutations + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a family of p-values (Scand. J. Stat. 6:65, 1979); NaN is no member and stays.

    >>> [round(value, 6) for value in holm([0.01, 0.04, 0.03, math.nan])]
    [0.03, 0.06, 0.06, nan]
    """
    order = sorted((i for i, value in enumerate(p) if not math.isnan(value)), key=lambda i: p[i])
    adjusted = [math.nan] * len(p)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p[i] * (len(order) - rank)))
        adjusted[i] = highest
    return adjusted
