"""Several scans of one patient are not several patients: intervals and tests take patients where they are named."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from made_runs import SITES, made_cohort, made_run, noisy

from amos_fl.cohort.table import Cohort
from amos_fl.comparison.compare import compare_runs
from amos_fl.comparison.comparison import Comparison
from amos_fl.comparison.statistics import Marks, paired_p
from amos_fl.errors import AmosError
from amos_fl.randomness import generator
from amos_fl.report.series import GapRow, gap_rows
from amos_fl.runs.record import RunRecord


def with_a_second_scan(cohort: Cohort, *, named: bool) -> Cohort:
    """Every test case twice, the second scan of each patient directly behind the first."""
    cases = []
    for case in cohort.cases:
        patient = f"p_{case.case}" if named and case.split == "test" else ""
        cases.append(replace(case, patient=patient))
        if case.split == "test":
            cases.append(replace(case, case=f"{case.case}_b", patient=patient))
    return replace(cohort, cases=tuple(cases))


def runs(cohort: Cohort) -> list[RunRecord]:
    """A federated and a pooled run, in which both scans of a patient have equal scores."""
    made = []
    for name, mean, arm in (("fed", 0.80, "federated"), ("pool", 0.83, "centralized")):
        score = noisy(mean, name=name, unseen=0.1)
        made.append(
            made_run(
                name, lambda case, site, organ, s=score: s(case.removesuffix("_b"), site, organ), cohort=cohort, arm=arm
            )
        )
    return made


def numbers(comparison: Comparison) -> list[tuple[float, ...]]:
    of_cells = [(c.estimate.value, c.estimate.low, c.estimate.high) for c in comparison.cells]
    of_gaps = [(g.estimate.value, g.estimate.low, g.estimate.high) for g in comparison.gaps]
    return [
        *of_cells,
        *of_gaps,
        *((d.estimate.value, d.estimate.low, d.estimate.high, d.p) for d in comparison.differences),
    ]


def widths(comparison: Comparison) -> float:
    return float(np.nansum([cell.estimate.high - cell.estimate.low for cell in comparison.cells]))


@pytest.fixture(scope="module")
def once() -> Comparison:
    return compare_runs(runs(made_cohort()), resamples=500)


def test_a_second_scan_that_says_the_same_changes_no_interval_and_no_p(once: Comparison) -> None:
    twice = compare_runs(runs(with_a_second_scan(made_cohort(), named=True)), resamples=500)
    assert len(numbers(once)) == len(numbers(twice))
    for alone, doubled in zip(numbers(once), numbers(twice), strict=True):
        np.testing.assert_allclose(doubled, alone, rtol=1e-9)
    assert [scope.cases for scope in twice.scopes] == [2 * scope.cases for scope in once.scopes]
    tests = sum(number for *_, number in SITES.values())
    assert f"The {2 * tests} cases are of {tests} patients, as the cohort says: the bootstrap draws" in " ".join(
        twice.notes
    )


def test_taken_as_other_patients_they_would_look_surer_than_they_are(once: Comparison) -> None:
    unnamed = compare_runs(runs(with_a_second_scan(made_cohort(), named=False)), resamples=500)
    assert widths(unnamed) < 0.85 * widths(once)
    assert "Cases are taken as patients: the cohort does not say which are of one." in " ".join(unnamed.notes)


def test_six_scans_of_three_patients_are_too_few_for_an_interval() -> None:
    sites = {"A": ("CT", True, 3), "B": ("CT", True, 8)}
    comparison = compare_runs(runs(with_a_second_scan(made_cohort(sites), named=True)), resamples=200)  # pyright: ignore[reportArgumentType]
    of_a = [cell for cell in comparison.cells if cell.scope == "A"]
    assert {cell.estimate.cases for cell in of_a} == {6}
    assert all(math.isnan(cell.estimate.low) for cell in of_a)


def test_the_scans_of_a_patient_are_exchanged_together() -> None:
    random = np.random.default_rng(3)
    a, b = random.random((8, 2)), random.random((8, 2))
    patients = np.array([0, 1, 2, 3, 4, 5, 0, 3])
    ones = np.ones_like(a)
    p = paired_p(Marks(a, ones, units=patients), Marks(b, ones, units=patients), 100, generator(0, "x"))
    # By hand: every way of exchanging six patients, the mean of the organs' means over all eight scans.
    observed = abs(a.mean() - b.mean())
    far = 0
    for way in range(2**6):
        swap = np.array([(way >> patient) & 1 for patient in patients], bool)[:, None]
        far += abs(np.where(swap, b, a).mean() - np.where(swap, a, b).mean()) >= observed - 1e-10
    assert p[-1] == pytest.approx(far / 2**6)


def gap_in_ct(cohort: Cohort) -> GapRow:
    record = runs(cohort)[0]
    return next(row for row in gap_rows(record, 300) if row.metric == "dsc")


def test_the_gap_of_a_run_takes_patients_too() -> None:
    alone, doubled = gap_in_ct(made_cohort()), gap_in_ct(with_a_second_scan(made_cohort(), named=True))
    assert (doubled.gap, doubled.low, doubled.high) == pytest.approx((alone.gap, alone.low, alone.high))
    assert not math.isnan(alone.low)
    assert doubled.seen_cases == 2 * alone.seen_cases


def test_runs_that_name_different_patients_for_one_case_are_not_compared() -> None:
    first = with_a_second_scan(made_cohort(), named=True)
    other = replace(first, cases=tuple(replace(c, patient=c.patient and f"other {c.patient}") for c in first.cases))
    pair: Sequence[RunRecord] = (runs(first)[0], runs(other)[1])
    with pytest.raises(AmosError, match=r"is of patient .*; compare runs on one cohort"):
        compare_runs(pair, resamples=10)
