"""The DSC to expect without a label: its features, how it is learned, and that it never learns from unseen scanners."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ORGANS
from scipy import optimize, stats

from amos_fl.cohort.table import read_cohort
from amos_fl.inference.agreement import agreement, flag_below
from amos_fl.inference.copies import COPIES, copy_of
from amos_fl.inference.features import judged
from amos_fl.inference.fit import fitted
from amos_fl.inference.restore import Certainty, restore
from amos_fl.prepared.prepare import prepare_case
from amos_fl.prepared.store import PreparedCase
from amos_fl.randomness import generator
from amos_fl.runs.calibration import Line
from amos_fl.runs.expected import Expected
from amos_fl.volumes.plan import plan_named

PLAN = plan_named("coarse").model_copy(update={"spacing_mm": (8.0, 8.0, 8.0)})


@pytest.fixture
def prepared(tiny_root: Path, store: Path) -> PreparedCase:
    case = read_cohort(tiny_root).of(site="A", split="test")[0]
    return prepare_case(case, PLAN, store, tuple(ORGANS))


def body_of(prepared: PreparedCase, *, certainty: Certainty | None = None, probabilities: object = None) -> np.ndarray:
    """A network that draws the body, sure of it with 0.8."""
    import torch

    body = torch.from_numpy(prepared.image() > -3.5)
    shares = torch.stack([torch.where(body, 0.2, 0.8), torch.where(body, 0.8, 0.2)])
    planes = (shares[..., z] for z in range(prepared.shape[2]))
    return restore(planes, 2, prepared.shape, prepared.geometry, (1,), None, certainty)


def test_what_is_drawn_the_same_on_every_copy_has_agreement_1(prepared: PreparedCase) -> None:
    same = np.zeros((4, 4, 4), np.uint8)
    same[1:3] = 1

    def draw(case: PreparedCase, *, certainty: Certainty | None = None, probabilities: object = None) -> np.ndarray:
        if certainty is not None:
            certainty.add(same[0], np.full(same[0].shape, 0.9))
            certainty.add(same[1], np.full(same[0].shape, 0.7))
        return same

    found = judged(draw, prepared, PLAN, (1,), list(COPIES))
    assert found.features == {1: {"agreement": 1.0, "confidence": pytest.approx(0.7)}}


def test_what_is_on_no_copy_has_agreement_0_and_without_copies_there_is_none(prepared: PreparedCase) -> None:
    def draw(case: PreparedCase, *, certainty: Certainty | None = None, probabilities: object = None) -> np.ndarray:
        if certainty is not None:
            certainty.add(np.ones((2, 2), np.uint8), np.full((2, 2), 0.5))
        return np.full((2, 2, 2), certainty is not None, np.uint8)

    assert judged(draw, prepared, PLAN, (1,), ["smaller"]).features[1]["agreement"] == 0
    assert judged(draw, prepared, PLAN, (1,), []).features == {1: {"confidence": 0.5}}


def test_a_copy_leads_back_to_the_scans_own_grid(prepared: PreparedCase) -> None:
    base = body_of(prepared)
    for name, (scale, _) in COPIES.items():
        copy = copy_of(prepared, name, PLAN.spacing_mm)
        assert copy.shape == tuple(max(1, round(n * scale)) for n in prepared.shape)
        again = body_of(copy)
        overlap = 2 * np.count_nonzero(again & base) / (np.count_nonzero(again) + np.count_nonzero(base))
        assert overlap > 0.95, name
        assert not np.array_equal(copy.image(), prepared.image())
        np.testing.assert_array_equal(copy_of(prepared, name, PLAN.spacing_mm).image(), copy.image())
    patch = copy_of(prepared, "noise", PLAN.spacing_mm).image_patch((-4, 0, 0), (8, 4, 4))
    assert np.all(patch[:4] == patch[0, 0, 0])  # air around it, as for the case itself
    noises = [copy_of(replace(prepared, case=name), "noise", PLAN.spacing_mm).image() for name in ("one", "two")]
    assert not np.array_equal(*noises)


def test_confidence_is_the_mean_probability_in_the_voxels_that_an_organ_won(prepared: PreparedCase) -> None:
    found = judged(body_of, prepared, PLAN, (1,), [])
    assert found.features[1]["confidence"] == pytest.approx(0.8, abs=0.01)
    assert found.label.shape == prepared.geometry.shape


@pytest.mark.parametrize("seed", range(4))
def test_the_line_is_the_least_squares_fit_without_negative_weights(seed: int) -> None:
    random = generator(seed, "fit")
    features = random.normal(size=(60, 3))
    values = 0.3 + features @ [0.5, -0.4, 0.2] + random.normal(0, 0.1, 60)
    intercept, weights = fitted(features, values)
    with_one = np.column_stack([np.ones(60), features])
    right = optimize.lsq_linear(with_one, values, ([-np.inf, 0, 0, 0], np.inf), tol=1e-14).x
    np.testing.assert_allclose([intercept, *weights], right, atol=1e-6)
    assert weights[1] == 0
    order = random.permutation(60)
    again = fitted(features[order], values[order])
    assert (again[0], again[1].tolist()) == (intercept, weights.tolist())  # to the bit


def test_a_feature_that_does_not_vary_counts_nothing() -> None:
    intercept, weights = fitted(np.ones((5, 2)), np.arange(5.0))
    assert (intercept, weights.tolist()) == (2.0, [0.0, 0.0])


def test_an_expected_dsc_lies_between_0_and_1() -> None:
    line = Line(intercept=-0.5, weights={"confidence": 2.0})
    assert [line.at({"confidence": c}) for c in (0.1, 0.5, 0.9)] == [0, 0.5, 1]


def made(seed: int, cases: int = 12) -> list[Expected]:
    random = generator(seed, "made")
    rows = []
    for case in range(cases):
        for organ in range(1, 9):
            dsc = float(random.uniform())
            expected = float(np.clip(dsc + random.normal(0, 0.15), 0, 1))
            about = {"site": "A", "modality": "CT", "seen": True, "organ": organ}
            rows.append(Expected(case=f"c{case}", expected_dsc=expected, dsc=dsc, **about))
    return rows


def test_correlations_are_scipys_and_their_intervals_hold_them() -> None:
    rows = made(1)
    expected, true = [r.expected_dsc for r in rows], [r.dsc for r in rows]
    found = agreement(rows, 0.5)
    assert found.pearson
    assert found.spearman
    assert found.pearson.value == pytest.approx(stats.pearsonr(expected, true).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(expected, true).statistic)
    for one in (found.pearson, found.spearman):
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high
        assert one.high - one.low < 0.2
    assert found.error == pytest.approx(np.abs(np.subtract(expected, true)).mean())
    assert (found.failures, found.sound) == (sum(d < 0.5 for d in true), sum(d >= 0.5 for d in true))
    assert found.failures_flagged == sum(d < 0.5 and e < 0.5 for e, d in zip(expected, true, strict=True))
    assert agreement(rows, 0.5) == found
    few = agreement([row for row in rows if row.case in ("c0", "c1")], 0.5)
    assert few.pearson
    assert few.pearson.low is None
    assert agreement([], 0.5).pearson is None


def test_the_interval_is_over_cases_not_over_organs() -> None:
    """Organs of a case that all say the same are no evidence of their own."""
    rows = made(2, cases=10)
    copied = [row.model_copy(update={"organ": row.organ + 8 * i}) for row in rows for i in range(10)]
    once, often = agreement(rows, 0.5).pearson, agreement(copied, 0.5).pearson
    assert once
    assert often
    assert [often.value, often.low, often.high] == pytest.approx([once.value, once.low, once.high])


def test_one_in_ten_that_did_not_fail_is_flagged() -> None:
    rows = made(3, cases=40)
    found = agreement(rows, flag_below(rows))
    assert found.sound_flagged == math.floor(found.sound / 10)
    assert found.failures_flagged > found.failures / 2
    assert flag_below([row for row in rows if row.dsc < 0.5]) == 0
