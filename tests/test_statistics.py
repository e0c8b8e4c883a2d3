"""The statistics of a comparison, against scipy, statsmodels and enumeration by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from amos_fl.comparison.statistics import Estimate, Marks, draws_within, estimates, holm, means, paired_p, strata_of
from amos_fl.metrics.scores import OrganScore, Scores
from amos_fl.randomness import generator

score = st.one_of(st.none(), st.floats(0, 1, width=16))


def column(values: np.ndarray | list[float]) -> Marks:
    """The marks of one organ."""
    return Marks.of([np.asarray(values, float)[:, None]])


def random_of(name: str) -> np.random.Generator:
    return generator(0, "test of statistics", name)


def as_case(row: tuple[float | None, ...]) -> dict[int, OrganScore]:
    """A row of scores as the case that the program's own scoring sums up."""
    return {
        organ: OrganScore(math.nan, math.nan, "absent", 0, 0)
        if value is None
        else OrganScore(value, value, "scored", 1, 1)
        for organ, value in enumerate(row, 1)
    }


def matrix(rows: list[tuple[float | None, ...]]) -> np.ndarray:
    return np.array([[np.nan if value is None else value for value in row] for row in rows], float)


@given(st.lists(st.tuples(score, score, score), min_size=1, max_size=12))
def test_a_mean_is_the_one_that_the_program_prints_everywhere(rows: list[tuple[float | None, ...]]) -> None:
    printed = Scores.of(map(as_case, rows))
    found = means(Marks.of([matrix(rows)]))[0]
    wanted = [*(printed.dsc(organ) for organ in (1, 2, 3)), printed.mean_dsc()]
    np.testing.assert_allclose(found, wanted, atol=1e-9, equal_nan=True)


def test_a_draw_that_takes_every_case_once_gives_the_mean_itself() -> None:
    marks = Marks.of([random_of("once").uniform(size=(9, 3))])
    np.testing.assert_allclose(means(marks, np.ones((1, 9))), means(marks))


def test_runs_of_an_arm_count_for_the_cases_that_they_stand_for() -> None:
    home, away = np.array([[0.9], [0.9]]), np.array([[0.3], [np.nan]])
    marks = Marks.of([home, away], [np.array([True, False]), np.array([True, True])])
    assert marks.sums.tolist() == [[0.6], [0.0]]
    assert marks.counts.tolist() == [[1.0], [0.0]]


def test_the_bootstraps_spread_is_the_standard_error_also_in_small_sites() -> None:
    random = random_of("error")
    strata = ["A"] * 3 + ["B"] * 4 + ["C"] * 5
    values = random.normal([0.5] * 3 + [0.7] * 4 + [0.9] * 5, 0.05)
    weights = draws_within(strata, 100_000, random)
    assert weights is not None
    drawn = means(column(values), weights)[:, -1]
    sites = [values[:3], values[3:7], values[7:]]
    wanted = math.sqrt(sum(len(v) * v.var(ddof=1) for v in sites)) / len(values)
    assert drawn.std() == pytest.approx(wanted, rel=0.02)
    assert drawn.mean() == pytest.approx(values.mean(), abs=3 * wanted / math.sqrt(100_000))


def test_the_interval_of_one_large_site_is_scipys_percentile_interval() -> None:
    random = random_of("scipy")
    values = random.beta(8, 2, size=150)
    weights = draws_within(["A"] * 150, 20_000, random)
    ours = estimates(np.array([values.mean()]), means(column(values), weights)[:, :1], [150])[0]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=random)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    # n - 1 draws scaled up: wider by sqrt(n / (n - 1)), 0.3 % here.
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


@pytest.mark.parametrize("cases", [2, 4, 12])
def test_intervals_hold_the_truth_about_as_often_as_they_say(cases: int) -> None:
    random = random_of(f"coverage {cases}")
    strata = [site for site in "ABC" for _ in range(cases)]
    truth = {"A": 0.6, "B": 0.7, "C": 0.9}
    hits = 0
    for _ in range(400):
        values = np.array([random.normal(truth[site], 0.1) for site in strata])
        drawn = means(column(values), draws_within(strata, 800, random))[:, :1]
        found = estimates(np.array([values.mean()]), drawn, [len(strata)], strata=len(strata_of(strata)))[0]
        hits += found.low <= 2.2 / 3 <= found.high
    assert 0.92 <= hits / 400 <= (0.985 if cases > 2 else 1.0)


def test_a_site_with_one_case_widens_an_interval_and_never_narrows_it() -> None:
    random = random_of("alone")
    values = column(np.concatenate([random.normal(0.8, 0.02, 8), [0.2]]))
    alone = means(values, draws_within([*"AAAAAAAA", "B"], 20_000, random))[:, -1]
    without = means(values.only(range(8), [0]), draws_within([*"AAAAAAAA"], 20_000, random))[:, -1]
    assert alone.std() > without.std()
    assert draws_within(["A"], 10, random) is None


def test_below_six_cases_there_is_neither_interval_nor_p() -> None:
    random = random_of("few")
    for cases, known in ((5, False), (6, True)):
        a, b = (column(random.uniform(size=cases)) for _ in range(2))
        drawn = means(a, draws_within(["A"] * cases, 500, random))
        assert estimates(means(a)[0], drawn, [cases, cases])[0].has_interval is known
        assert math.isnan(paired_p(a, b, 500, random)[0]) is not known


def test_six_cases_that_count_are_asked_of_each_organ_by_itself() -> None:
    scores = random_of("organs").uniform(size=(8, 2))
    other = scores - 0.1
    other[:3, 1] = np.nan
    p = paired_p(Marks.of([scores]), Marks.of([other]), 500, random_of("p"))
    assert not math.isnan(p[0])
    assert math.isnan(p[1])


@pytest.mark.parametrize("cases", [6, 9, 13])
def test_the_paired_test_is_scipys_exact_permutation_test(cases: int) -> None:
    random = random_of(f"exact {cases}")
    a = random.uniform(size=cases)
    b = a - random.normal(0.05, 0.1, cases)
    ours = paired_p(column(a), column(b), 10, random)[-1]
    theirs = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=10**9,
    )
    assert ours == pytest.approx(theirs.pvalue, abs=1e-12)


def test_on_signed_ranks_it_is_wilcoxons_exact_test() -> None:
    differences = np.array([0.11, -0.02, 0.07, 0.31, -0.05, 0.16, 0.23, 0.04, -0.01, 0.19])
    signed_ranks = np.sign(differences) * stats.rankdata(np.abs(differences))
    ours = paired_p(column(signed_ranks), column(np.zeros(10)), 10, random_of("ranks"))[-1]
    _, wilcoxon = stats.wilcoxon(differences, method="exact")
    assert ours == pytest.approx(wilcoxon, abs=1e-12)


def test_random_permutations_come_near_the_exact_p_and_never_reach_0() -> None:
    random = random_of("many")
    a = random.uniform(size=14)
    b = a - random.normal(0.03, 0.08, 14)
    exact = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=10**9)
    found = paired_p(column(a), column(b), 20_000, random)[-1]
    assert found == pytest.approx(exact.pvalue, abs=4 * math.sqrt(exact.pvalue / 20_000) + 1e-3)
    assert paired_p(column(a + 1), column(a), 999, random)[-1] == pytest.approx(1 / 1000)


@settings(max_examples=25)
@given(st.lists(st.tuples(score, score, score, score), min_size=6, max_size=7))
def test_with_absent_organs_it_exchanges_cases_of_the_printed_mean(rows: list[tuple[float | None, ...]]) -> None:
    left, right = [row[:2] for row in rows], [row[2:] for row in rows]

    def gap(one: list[tuple[float | None, ...]], other: list[tuple[float | None, ...]]) -> float:
        return abs(Scores.of(map(as_case, one)).mean_dsc() - Scores.of(map(as_case, other)).mean_dsc())

    observed, ways, as_far = gap(left, right), 0, 0
    for swapped in itertools.product((False, True), repeat=len(rows)):
        pairs = [(b, a) if swap else (a, b) for a, b, swap in zip(left, right, swapped, strict=True)]
        as_far += gap([a for a, _ in pairs], [b for _, b in pairs]) >= observed - 1e-9
        ways += 1
    p = paired_p(Marks.of([matrix(left)]), Marks.of([matrix(right)]), 10, random_of("swap"))[-1]
    assert math.isnan(p) or p == pytest.approx(as_far / ways, abs=1e-9)


def test_where_nothing_differs_few_tests_say_that_something_does() -> None:
    random = random_of("null")
    found = []
    for _ in range(300):
        shared = random.uniform(size=10)
        a, b = (column(shared + random.normal(0, 0.1, 10)) for _ in range(2))
        found.append(paired_p(a, b, 10, random)[-1])
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.09


@settings(max_examples=10)  # statsmodels takes half a second each time
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 3))
def test_holms_correction_is_that_of_statsmodels_and_leaves_untested_ones_out(p: list[float], untested: int) -> None:
    found = holm([*[math.nan] * untested, *p])
    assert all(math.isnan(value) for value in found[:untested])
    np.testing.assert_allclose(found[untested:], np.asarray(multipletests(p, method="holm")[1], float))


def test_an_interval_on_one_side_of_zero_excludes_it() -> None:
    assert Estimate(0.1, 0.05, 0.2, 9).excludes_zero
    assert Estimate(-0.1, -0.2, -0.05, 9).excludes_zero
    assert not Estimate(0.1, -0.05, 0.2, 9).excludes_zero
    assert not Estimate(0.1, math.nan, math.nan, 3).excludes_zero
