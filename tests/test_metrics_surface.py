"""NSD and DSC of two masks, against DeepMind's surface-distance 0.1."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from surface_distance import metrics as deepmind

from amos_fl.errors import AmosError
from amos_fl.metrics.overlap import dsc
from amos_fl.metrics.surface import nsd

# surface-distance 0.1 uses names that SciPy has moved.
pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")


def deepminds_nsd(prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple, tolerance_mm: float) -> float:
    distances = deepmind.compute_surface_distances(reference, prediction, spacing_mm)
    return float(deepmind.compute_surface_dice_at_tolerance(distances, tolerance_mm))


@st.composite
def two_masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of one small shape, neither empty, speckled or box-shaped, often touching the grid's border."""
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    masks = []
    for _ in range(2):
        if draw(st.booleans()):
            mask = draw(arrays(bool, shape))
        else:
            mask = np.zeros(shape, bool)
            low = [draw(st.integers(0, size - 1)) for size in shape]
            mask[tuple(slice(a, draw(st.integers(a + 1, n))) for a, n in zip(low, shape, strict=True))] = True
        mask[tuple(draw(st.integers(0, size - 1)) for size in shape)] = True
        masks.append(np.asfortranarray(mask) if draw(st.booleans()) else mask)
    return masks[0], masks[1]


spacings_mm = st.tuples(*[st.sampled_from([0.1, 0.7, 1.0, 1.5, 2.0, 5.0]) | st.floats(0.3, 6.0)] * 3)


@settings(max_examples=300)
@given(two_masks(), spacings_mm, st.floats(0.0, 12.0))
def test_nsd_equals_surface_distance_on_random_masks(masks, spacing_mm, tolerance_mm):
    prediction, reference = masks
    expected = deepminds_nsd(prediction, reference, spacing_mm, tolerance_mm)
    assert nsd(prediction, reference, spacing_mm, tolerance_mm) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=300)
@given(two_masks(), spacings_mm, st.tuples(*[st.integers(0, 5)] * 3))
def test_nsd_equals_surface_distance_where_the_tolerance_is_just_a_distance_on_the_grid(masks, spacing_mm, steps):
    along = np.array(steps) * np.array(spacing_mm)
    tolerance_mm = float(np.sqrt((along * along).sum()))
    prediction, reference = masks
    expected = deepminds_nsd(prediction, reference, spacing_mm, tolerance_mm)
    assert nsd(prediction, reference, spacing_mm, tolerance_mm) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spacing_mm", [(0.1, 0.1, 0.1), (0.7, 0.7, 0.7), (0.7, 0.7, 5.0)])
@pytest.mark.parametrize("tolerance_mm", [0.3, 0.5, 0.7 * 5, 3.5, 2.1, 0.7 * 3])
def test_nsd_equals_surface_distance_where_rounding_decides_what_lies_within(spacing_mm, tolerance_mm):
    # Steps (3, 4) and (5, 0) are equally long, but not in floating point; 3 * 0.1 is more than 0.3.
    reference, prediction = np.zeros((2, 14, 14, 3), bool)
    reference[2:4, 2:4, 1] = True
    for corner in ((7, 2), (5, 6), (2, 7), (6, 5)):
        prediction[corner] = True
    expected = deepminds_nsd(prediction, reference, spacing_mm, tolerance_mm)
    assert nsd(prediction, reference, spacing_mm, tolerance_mm) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tolerance_mm", [0.0, 1.0, 3.0, 8.0, 40.0])
def test_nsd_equals_surface_distance_on_organs_at_small_and_large_tolerances(tolerance_mm):
    x, y, z = np.ogrid[:60, :50, :24]
    reference = ((x - 30) / 20) ** 2 + ((y - 25) / 15) ** 2 + ((z - 12) / 9) ** 2 < 1
    prediction = ((x - 33) / 22) ** 2 + ((y - 24) / 15) ** 2 + ((z - 11) / 8) ** 2 < 1
    expected = deepminds_nsd(prediction, reference, (0.8, 0.8, 2.5), tolerance_mm)
    assert nsd(prediction, reference, (0.8, 0.8, 2.5), tolerance_mm) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=100)
@given(two_masks(), spacings_mm, st.floats(0.0, 6.0))
@example((np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool)), (1.0, 1.0, 1.0), 0.0)
def test_nsd_is_symmetric_and_does_not_see_empty_space_around_the_masks(masks, spacing_mm, tolerance_mm):
    prediction, reference = masks
    value = nsd(prediction, reference, spacing_mm, tolerance_mm)
    assert nsd(reference, prediction, spacing_mm, tolerance_mm) == pytest.approx(value, abs=1e-12)
    wide_prediction, wide_reference = (np.pad(mask, ((1, 4), (0, 2), (3, 0))) for mask in masks)
    assert nsd(wide_prediction, wide_reference, spacing_mm, tolerance_mm) == pytest.approx(value, abs=1e-12)


@settings(max_examples=100)
@given(two_masks())
def test_dsc_equals_surface_distances_dice(masks):
    assert dsc(*masks) == pytest.approx(float(deepmind.compute_dice_coefficient(*masks)), abs=1e-12)


def test_a_mask_equals_itself_and_nothing_is_shared_with_one_far_away():
    mask, far = np.zeros((2, 20, 4, 4), bool)
    mask[1:3, 1:3, 1:3], far[15:17, 1:3, 1:3] = True, True
    assert (dsc(mask, mask), nsd(mask, mask, (1, 1, 1), 0.0)) == (1.0, 1.0)
    assert (dsc(mask, far), nsd(mask, far, (1, 1, 1), 1.0)) == (0.0, 0.0)


def test_two_empty_masks_have_no_score_and_one_empty_mask_scores_zero():
    empty, mask = np.zeros((2, 4, 4, 4), bool)
    mask[1, 1, 1] = True
    assert math.isnan(nsd(empty, empty, (1, 1, 1)))
    assert math.isnan(dsc(empty, empty))
    assert [nsd(empty, mask, (1, 1, 1)), nsd(mask, empty, (1, 1, 1), 100.0), dsc(mask, empty)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "tolerance_mm", "said"),
    [
        ((2, 2, 3), (1, 1, 1), 1.0, "share a grid"),
        ((2, 2, 2), (1, 0, 1), 1.0, "three positive numbers"),
        ((2, 2, 2), (1, 1), 1.0, "three positive numbers"),
        ((2, 2, 2), (1, 1, 1), -1.0, "tolerance is -1.0 mm"),
        ((2, 2, 2), (1, 1, 1), math.inf, "tolerance is inf mm"),
    ],
)
def test_masks_and_settings_that_cannot_be_are_refused_in_a_sentence(shape, spacing_mm, tolerance_mm, said):
    with pytest.raises(AmosError, match=said):
        nsd(np.ones(shape, bool), np.ones((2, 2, 2), bool), spacing_mm, tolerance_mm)
