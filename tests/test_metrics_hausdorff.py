"""HD95 of two masks, against DeepMind's surface-distance 0.1."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from surface_distance import metrics as deepmind

from amos_fl.errors import AmosError
from amos_fl.metrics.hausdorff import hd95
from amos_fl.randomness import generator

# surface-distance 0.1 uses names that SciPy has moved.
pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")

spacings_mm = st.tuples(*[st.sampled_from([0.7, 1.0, 1.5, 5.0]) | st.floats(0.3, 6.0)] * 3)


def deepminds_hd95(prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple, percent: float = 95) -> float:
    distances = deepmind.compute_surface_distances(reference, prediction, spacing_mm)
    return float(deepmind.compute_robust_hausdorff(distances, percent))


@st.composite
def two_masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of one small shape, neither empty."""
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    masks = []
    for _ in range(2):
        mask = draw(arrays(bool, shape))
        mask[tuple(draw(st.integers(0, size - 1)) for size in shape)] = True
        masks.append(np.asfortranarray(mask) if draw(st.booleans()) else mask)
    return masks[0], masks[1]


@settings(max_examples=300)
@given(two_masks(), spacings_mm)
def test_hd95_equals_surface_distance_on_random_masks(masks, spacing_mm):
    value = hd95(*masks, spacing_mm)
    just_below, expected = (deepminds_hd95(*masks, spacing_mm, percent) for percent in (95 - 1e-4, 95))
    # Where a distance holds exactly 95 % of the area, rounding decides in surface-distance; ours takes it.
    assert value == pytest.approx(expected if just_below == expected else just_below, abs=1e-6)


@pytest.mark.parametrize("shift", [(0, 0, 0), (3, -1, 1), (30, 0, 0)])
def test_hd95_equals_surface_distance_on_organs_and_specks(shift):
    x, y, z = np.ogrid[:90, :50, :24]
    reference = ((x - 30) / 20) ** 2 + ((y - 25) / 15) ** 2 + ((z - 12) / 9) ** 2 < 1
    prediction = np.roll(reference, shift, axis=(0, 1, 2))
    prediction |= generator(0, "specks", shift[0]).random(reference.shape) < 0.001
    expected = deepminds_hd95(prediction, reference, (0.8, 0.8, 2.5))
    assert hd95(prediction, reference, (0.8, 0.8, 2.5)) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=100)
@given(two_masks(), spacings_mm)
def test_hd95_is_symmetric_zero_for_equal_masks_and_blind_to_empty_space(masks, spacing_mm):
    prediction, reference = masks
    value = hd95(prediction, reference, spacing_mm)
    assert hd95(reference, prediction, spacing_mm) == pytest.approx(value, abs=1e-9)
    assert hd95(reference, reference, spacing_mm) == 0.0
    wide = [np.pad(mask, ((1, 4), (0, 2), (3, 0))) for mask in masks]
    assert hd95(wide[0], wide[1], spacing_mm) == pytest.approx(value, abs=1e-9)


@settings(max_examples=100)
@given(two_masks(), spacings_mm, st.sampled_from([0.5, 2.0, 3.0]))
def test_hd95_grows_with_the_voxels(masks, spacing_mm, factor):
    wider = tuple(s * factor for s in spacing_mm)
    assert hd95(*masks, wider) == pytest.approx(factor * hd95(*masks, spacing_mm), abs=1e-9)


def test_a_slab_moved_away_is_as_far_as_it_was_moved():
    reference, prediction = np.zeros((2, 40, 6, 6), bool)
    reference[2:4, 1:5, 1:5], prediction[22:24, 1:5, 1:5] = True, True
    assert hd95(prediction, reference, (1.5, 1, 1)) == 20 * 1.5


def test_a_speck_of_less_than_five_percent_of_the_surface_does_not_move_hd95():
    reference, prediction = np.zeros((2, 60, 20, 20), bool)
    reference[2:18, 2:18, 2:18] = prediction[2:18, 2:18, 2:18] = True
    prediction[50, 10, 10] = True
    assert hd95(prediction, reference, (1, 1, 1)) == 0.0


def test_hd95_is_undefined_where_a_mask_is_empty():
    empty, mask = np.zeros((2, 4, 4, 4), bool)
    mask[1, 1, 1] = True
    assert all(math.isnan(hd95(*pair, (1, 1, 1))) for pair in ((empty, empty), (empty, mask), (mask, empty)))


def test_masks_on_different_grids_are_refused():
    with pytest.raises(AmosError, match="share a grid"):
        hd95(np.ones((2, 2, 3), bool), np.ones((2, 2, 2), bool), (1, 1, 1))
    with pytest.raises(AmosError, match="three positive numbers"):
        hd95(np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool), (1, 1, 0))
