"""Resampling, cropping and normalising, against independent computations."""

import numpy as np
import pytest
import torch
from conftest import REAL, needs_real
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from amos_fl.errors import AmosError
from amos_fl.phantom.release import write_release
from amos_fl.volumes.body import body_box, crop
from amos_fl.volumes.nifti import read_image, read_label, reconcile, to_canonical
from amos_fl.volumes.normalise import normalisation_of
from amos_fl.volumes.plan import plan_named
from amos_fl.volumes.resample import apply_weights, axis_weights, resample_image, resample_label, resampled_shape

sides = st.integers(1, 14)
shapes = st.tuples(sides, sides, sides)


@settings(max_examples=40)
@given(shapes, shapes, st.sampled_from([0, 1, 3]))
def test_one_product_per_axis_equals_scipys_zoom_in_three_dimensions(shape, target, order):
    array = np.random.default_rng(sum(shape)).normal(size=shape)
    weights = tuple(axis_weights(n, m, order) for n, m in zip(shape, target, strict=True))
    zoom = [m / n for n, m in zip(shape, target, strict=True)]
    expected = ndimage.zoom(array, zoom, order=order, grid_mode=True, mode="nearest")
    np.testing.assert_allclose(apply_weights(array, weights), expected, atol=1e-4)


def largest_linear_share(labels: np.ndarray, target: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All labels' linear shares at once, by torch: the largest one's label and its lead over the next."""
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), int(labels.max()) + 2)
    shares = torch.nn.functional.interpolate(
        one_hot.permute(3, 0, 1, 2)[None].double(), size=target, mode="trilinear", align_corners=False
    )[0]
    top = shares.topk(2, dim=0).values
    return shares.argmax(0).numpy(), (top[0] - top[1]).numpy()


@settings(max_examples=40)
@given(shapes, st.tuples(*[st.floats(0.4, 2.5)] * 3), st.integers(0, 99))
def test_labels_take_the_largest_linear_share(shape, target_mm, seed):
    labels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8) * np.uint8(5)
    result = resample_label(labels, (1.0, 1.0, 1.0), target_mm)
    if max(target_mm) / min(target_mm) > 3:
        return  # thick slices are treated apart, see below
    expected, lead = largest_linear_share(labels, resampled_shape(shape, (1.0, 1.0, 1.0), target_mm))
    decided = lead > 1e-4
    np.testing.assert_array_equal(result[decided], expected[decided])


def test_a_label_of_many_slices_is_the_same_in_slabs_as_at_once():
    labels = np.random.default_rng(3).integers(0, 3, (6, 5, 90)).astype(np.uint8)
    result = resample_label(labels, (1.0, 1.0, 1.0), (0.9, 1.0, 0.8))
    expected, lead = largest_linear_share(labels, result.shape)
    np.testing.assert_array_equal(result[lead > 1e-4], expected[lead > 1e-4])


def test_thick_slices_are_repeated_and_not_interpolated():
    array = np.random.default_rng(0).normal(size=(8, 8, 4)).astype(np.float32)
    finer = resample_image(array, (1.0, 1.0, 6.0), (1.0, 1.0, 2.0))
    np.testing.assert_array_equal(finer, np.repeat(array, 3, axis=2))
    labels = (array > 0).astype(np.uint8)
    np.testing.assert_array_equal(resample_label(labels, (1, 1, 6), (1, 1, 2)), np.repeat(labels, 3, axis=2))


def test_a_scan_at_the_target_spacing_is_left_as_it_is():
    array = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(resample_image(array, (0.7, 0.7, 2), (0.7, 0.7, 2)), array)


def test_noise_of_a_fine_scan_does_not_alias_into_a_coarse_grid():
    noise = np.random.default_rng(0).normal(size=(60, 60, 60)).astype(np.float32)
    assert resample_image(noise, (1.0,) * 3, (5.0,) * 3).std() < 0.2


def test_a_ramp_keeps_its_place_whatever_the_spacing():
    x = np.arange(40) + 0.5  # mm from the volume's edge, at 1 mm
    ramp = np.broadcast_to(x[:, None, None], (40, 4, 4)).astype(np.float32)
    for target in (0.5, 1.6, 2.0):
        result = resample_image(ramp, (1.0, 1.0, 1.0), (target, 1.0, 1.0))[:, 0, 0]
        expected = (np.arange(len(result)) + 0.5) * 40 / len(result)
        np.testing.assert_allclose(result[6:-6], expected[6:-6], atol=0.01)


def body_in_air(table: bool = False) -> tuple[np.ndarray, np.ndarray]:
    x, y, _ = np.meshgrid(np.arange(90), np.arange(90), np.arange(12), indexing="ij")
    body = ((x - 45) / 25) ** 2 + ((y - 50) / 18) ** 2 < 1
    image = np.where(body, 40.0, -1000.0)
    if table:
        image[5:85, 22:24] = 0.0
    return image.astype(np.float32), body


def test_the_box_holds_the_body_with_a_margin_and_leaves_the_table_out():
    image, body = body_in_air(table=True)
    (x_low, x_high), (y_low, y_high), z = body_box(image, (4.0, 4.0, 5.0), "CT")
    assert z == (0, 12)
    assert 10 <= x_low <= 17
    assert 73 <= x_high <= 80
    assert 24 <= y_low <= 29
    assert 71 <= y_high <= 76
    assert crop(body, ((x_low, x_high), (y_low, y_high), z)).sum() == body.sum()


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_nothing_is_cut_where_no_body_is_found(modality):
    image = np.full((20, 20, 9), -1000.0, np.float32)
    assert body_box(image, (4.0, 4.0, 4.0), modality) == ((0, 20), (0, 20), (0, 9))


@needs_real
@pytest.mark.parametrize("case", sorted(p.name[:-7] for p in REAL.glob("images/*")) or ["none"])
def test_no_labelled_voxel_of_a_real_scan_is_cut_away(case):
    image = read_image(REAL / f"images/{case}.nii.gz")
    label = reconcile(image, read_label(REAL / f"labels/{case}.nii.gz", range(1, 16)), case)
    scan = to_canonical(image)
    box = body_box(scan.array, scan.spacing_mm, "CT" if "_ct_" in case else "MR")
    assert np.count_nonzero(crop(to_canonical(label).array, box)) == np.count_nonzero(label.array)


def test_no_labelled_voxel_of_a_phantom_is_cut_away_on_any_scanner(tmp_path):
    # 593 is an MR scan whose bias field makes the skin ten times as bright as the organs.
    write_release(tmp_path / "release", size="quick", cases=[1, 2, 201, 202, 236, 501, 506, 593])
    for path in sorted((tmp_path / "release").glob("images*/*.nii.gz")):
        image = read_image(path)
        label_path = path.parent.with_name(path.parent.name.replace("images", "labels")) / path.name
        label = reconcile(image, read_label(label_path, range(1, 16)), path.name)
        scan = to_canonical(image)
        box = body_box(scan.array, scan.spacing_mm, "CT" if int(path.name[5:9]) <= 500 else "MR")
        assert np.count_nonzero(crop(to_canonical(label).array, box)) == np.count_nonzero(label.array), path.name


def test_ct_is_clipped_and_scaled_as_the_paper_says():
    image = np.array([[[-2000.0, -991.0, 50.0, 191.0, 3000.0]]], np.float32)
    normalisation = normalisation_of(image, "CT", plan_named("amos-ct"), "x")
    expected = [(-991 - 50) / 141, (-991 - 50) / 141, 0, 1, (362 - 50) / 141]
    np.testing.assert_allclose(normalisation.apply(image).ravel(), expected, rtol=1e-6)
    assert normalisation.padding == pytest.approx((-991 - 50) / 141)


@given(st.floats(0.01, 1000), st.floats(-500, 500))
def test_mr_comes_out_the_same_whatever_its_scale(scale, shift):
    image, body = body_in_air()
    image = np.where(body, 300 + 40 * np.random.default_rng(0).normal(size=body.shape), 5.0)
    result = normalisation_of(image, "MR", plan_named("amos-mr"), "x").apply(image)
    assert result[body].mean() == pytest.approx(0, abs=1e-3)
    assert result[body].std() == pytest.approx(1, abs=1e-3)
    other = image * scale + shift
    again = normalisation_of(other, "MR", plan_named("amos-mr"), "x").apply(other)
    np.testing.assert_allclose(again, result, atol=1e-2)


def test_an_mr_scan_without_contrast_is_refused():
    with pytest.raises(AmosError, match=r"^x\.nii\.gz: every voxel has the same value"):
        normalisation_of(np.full((5, 5, 5), 7.0, np.float32), "MR", plan_named("amos-mr"), "x.nii.gz")


def test_a_few_bright_voxels_do_not_set_the_scale_of_an_mr_scan_where_the_plan_has_a_percentile():
    plan = plan_named("amos-mr").model_copy(update={"mr_percentile": 99.0})
    image = np.zeros((20, 20, 20), np.float32)
    image[2:-2, 2:-2, 2:-2] = np.random.default_rng(0).normal(100, 10, (16, 16, 16))
    bright = image.copy()
    bright[3, 3, :3] = 10_000
    body = np.sort(image[image > 0])
    low, high = np.percentile(body, [1, 99])
    normalised = normalisation_of(image, "MR", plan, "x").apply(image)
    expected = (np.minimum(image, high) - body.clip(low, high).mean()) / body.clip(low, high).std()
    np.testing.assert_allclose(normalised, expected, atol=1e-4)
    inside = (image > 0) & (bright < 1000)
    moved = np.abs(normalisation_of(bright, "MR", plan, "x").apply(bright) - normalised)[inside].max()
    without = plan.model_copy(update={"mr_percentile": None})
    unclipped = (normalisation_of(i, "MR", without, "x").apply(i)[inside] for i in (image, bright))
    assert np.abs(np.subtract(*unclipped)).max() > 1 > 20 * moved
    ct = normalisation_of(image, "CT", plan, "x")
    assert (ct.low, ct.high) == plan.ct_clip_hu
