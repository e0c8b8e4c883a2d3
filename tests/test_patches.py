"""Patches: where they are cut, how they are changed, and what they depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_cases import ORGANS, TINY, boxes_case

from amos_fl.errors import AmosError
from amos_fl.randomness import generator
from amos_fl.training.patches import augment
from amos_fl.training.patches.prefetch import draw_batches
from amos_fl.training.patches.recipes import RECIPES, change_batch, change_intensities, draw_resampling, mirror
from amos_fl.training.patches.sampler import draw_batch
from amos_fl.training.patches.spatial import resampling
from amos_fl.training.settings import TrainingSettings
from amos_fl.volumes.plan import plan_named

PLAIN = TrainingSettings(augmentation="none")
LEVELS = pytest.mark.parametrize("level", ["paper", "robust"])
NO_LABEL = torch.zeros(0, dtype=torch.int64)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return boxes_case(tmp_path_factory.mktemp("patches"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return boxes_case(tmp_path_factory.mktemp("other"), "other", seed=1)


def batch_of(cases, settings=PLAIN, organs=ORGANS, seed=0, site="A", step=0, plan=TINY):
    return draw_batch(cases, plan, settings, organs, seed=seed, site=site, step=step)


def same(a, b):
    return torch.equal(a.image, b.image) and torch.equal(a.label, b.label) and torch.equal(a.annotated, b.annotated)


def test_a_batch_has_the_shapes_and_types_of_its_plan(case):
    batch = batch_of([case], TrainingSettings(batch_size=3, augmentation="paper"))
    assert batch.image.shape == (3, 1, 16, 16, 16)
    assert batch.image.dtype == torch.float32
    assert batch.label.shape == (3, 16, 16, 16)
    assert batch.label.dtype == torch.int64
    assert batch.annotated.tolist() == [[True] * 4] * 3
    assert int(batch.label.max()) <= len(ORGANS)


def test_a_patch_is_a_piece_of_the_scan_with_its_own_labels(case):
    image, label = case.image(), case.label()
    windows = np.lib.stride_tricks.sliding_window_view(image, TINY.patch)
    for step in range(4):
        batch = batch_of([case], step=step)
        for patch, channels in zip(batch.image[:, 0].numpy(), batch.label.numpy(), strict=True):
            starts = np.argwhere(windows[..., 0, 0, 0] == patch[0, 0, 0])
            start = next(s for s in starts if np.array_equal(windows[tuple(s)], patch))
            piece = tuple(slice(first, first + 16) for first in start)
            assert np.array_equal(np.array([0, *ORGANS])[channels], label[piece])


def test_the_last_sample_of_two_is_centred_on_foreground_and_the_first_anywhere(case):
    batches = [batch_of([case], step=step) for step in range(60)]
    centres = np.array([[bool(sample[8, 8, 8] > 0) for sample in batch.label] for batch in batches])
    # The scan's edge keeps some patches from being centred on their voxel.
    share_anywhere, share_forced = centres.mean(axis=0)
    assert share_forced > 0.9
    assert share_anywhere < share_forced - 0.1


def test_a_batch_of_one_is_forced_onto_foreground_a_third_of_the_time(tmp_path):
    # Organ 1 alone is annotated: small, in a corner, so that few patches hit it by chance.
    corner = boxes_case(tmp_path, shape=(64, 64, 24), annotated=(1,))
    voxels = corner.foreground()[1]
    low = voxels.min(axis=0)
    assert set(corner.foreground()) == {1}
    assert (low >= 0).all()
    one = TrainingSettings(batch_size=1, augmentation="none", foreground_share=1.0)
    none = one.model_copy(update={"foreground_share": 0.0})
    third = one.model_copy(update={"foreground_share": 1 / 3})

    def centred(settings):
        return np.mean([bool(batch_of([corner], settings, step=s).label[0, 8, 8, 8] > 0) for s in range(150)])

    always, never = centred(one), centred(none)
    assert always > never + 0.3
    assert centred(third) == pytest.approx(never + (always - never) / 3, abs=0.12)


def test_organs_are_drawn_uniformly_however_large_they_are(tmp_path):
    case = boxes_case(tmp_path, shape=(60, 60, 30))
    settings = TrainingSettings(batch_size=1, augmentation="none", foreground_share=1.0)
    centres = [int(batch_of([case], settings, step=step).label[0, 8, 8, 8]) for step in range(240)]
    counts = np.bincount(centres, minlength=4)[1:]
    assert counts.min() > 240 / 3 * 0.65


@LEVELS
def test_a_patch_does_not_depend_on_other_calls_their_order_or_the_global_generators(case, other, level):
    settings = TrainingSettings(augmentation=level)
    alone = [batch_of([case, other], settings, step=step) for step in range(4)]
    np.random.seed(5)
    torch.manual_seed(5)
    batch_of([case], settings, site="B", step=9)
    again = [batch_of([other, case], settings, step=step) for step in reversed(range(4))]
    assert all(same(a, b) for a, b in zip(alone, reversed(again), strict=True))


@pytest.mark.parametrize("change", [{"seed": 1}, {"site": "B"}, {"step": 1}])
def test_seed_site_and_step_each_change_the_patch(case, change):
    assert not torch.equal(batch_of([case]).image, batch_of([case], **change).image)


@LEVELS
def test_a_sample_does_not_depend_on_the_threads_of_training(case, level):
    settings = TrainingSettings(augmentation=level)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = batch_of([case], settings)
        torch.set_num_threads(2)
        two = batch_of([case], settings)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert same(one, two)


@LEVELS
def test_worker_processes_draw_the_same_batches(case, other, level):
    def batches(workers):
        settings = TrainingSettings(augmentation=level, workers=workers)
        return list(draw_batches([case, other], TINY, settings, ORGANS, seed=3, site="A", steps=range(5, 11)))

    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = batches(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(same(a, b) for a, b in zip(batches(0), drawn, strict=True))


@LEVELS
def test_changes_applied_to_the_batch_later_are_those_of_the_sampler(case, other, level):
    settings = TrainingSettings(augmentation=level, batch_size=3)
    for step in range(4):
        batch = batch_of([case, other], settings, step=step)
        later = draw_batch([case, other], TINY, settings, ORGANS, seed=0, site="A", step=step, changes_later=True)
        assert batch.changes == ()
        assert torch.equal(batch.label, later.label)
        assert torch.equal(batch.image, change_batch(later.image, later.label, later.changes, level))
        assert not torch.equal(batch.image, later.image)


def test_a_scan_smaller_than_the_patch_lies_in_its_middle(tmp_path):
    small = boxes_case(tmp_path, shape=(10, 30, 12))
    batch = batch_of([small])
    image = batch.image[0, 0].numpy()
    assert np.array_equal(image[:3], np.full((3, 16, 16), small.padding, np.float32))
    assert np.array_equal(image[13:], np.full((3, 16, 16), small.padding, np.float32))
    assert not np.any(image[3:13, :, 2:14] == np.float32(small.padding))
    assert not batch.label[0, :3].any()


def test_organs_that_are_not_annotated_or_not_of_the_run_are_background(tmp_path):
    case = boxes_case(tmp_path, annotated=(2, 6))
    batches = [batch_of([case], organs=(6, 1, 2), step=step) for step in range(6)]
    assert batches[0].annotated[0].tolist() == [True, True, False, True]
    assert set(torch.cat([batch.label.unique() for batch in batches]).tolist()) == {0, 1, 3}
    only_liver = [batch_of([case], organs=(6,), step=step) for step in range(6)]
    assert set(torch.cat([batch.label.unique() for batch in only_liver]).tolist()) == {0, 1}


def test_a_case_without_a_label_map_is_not_drawn(case, tmp_path):
    unlabelled = boxes_case(tmp_path, "a", labelled=False)
    assert same(batch_of([unlabelled, case]), batch_of([case]))
    with pytest.raises(AmosError, match="site A: has no labelled case"):
        batch_of([unlabelled])


def test_cases_are_drawn_uniformly(case, tmp_path):
    bare = boxes_case(tmp_path, "bare", annotated=(2,))
    drawn = [batch_of([case, bare], step=step).annotated[0, 1].item() for step in range(200)]
    assert 0.38 < np.mean(drawn) < 0.62


def test_a_turn_by_ninety_degrees_is_the_transposed_patch():
    plan = TINY.model_copy(update={"spacing_mm": (5.0, 5.0, 5.0)})
    turn = resampling(plan, (0.0, 0.0, 90.0), 1.0)
    assert turn.source_shape == (16, 16, 16)
    label = torch.arange(16**3).reshape(16, 16, 16) % 251
    image, turned = turn(label[None].float(), label)
    assert torch.equal(turned, label.transpose(0, 1).flip(1)) or torch.equal(turned, label.transpose(0, 1).flip(0))
    torch.testing.assert_close(image[0], turned.float(), atol=0.02, rtol=0)


def test_rotation_is_one_of_millimetres_not_of_voxels():
    plan = TINY.model_copy(update={"spacing_mm": (1.0, 1.0, 2.0)})
    # A turn about x takes 4 voxels of z (8 mm) to 8 voxels of y.
    matrix = resampling(plan, (90.0, 0.0, 0.0), 1.0).matrix
    np.testing.assert_allclose(np.abs(matrix @ [0, 0, 4]), [0, 8, 0], atol=1e-9)


@settings(max_examples=40)
@given(
    st.tuples(*[st.floats(-30, 30)] * 3),
    st.floats(0.7, 1.4),
    st.sampled_from(["coarse", "amos-ct", "amos-mr"]),
)
def test_the_source_holds_all_that_the_patch_shows(degrees, scale, plan_name):
    plan = plan_named(plan_name)
    change = resampling(plan, degrees, scale)
    half = (np.array(plan.patch) - 1) / 2
    corners = np.array(np.meshgrid(*[(-h, h) for h in half], indexing="ij")).reshape(3, -1)
    reach = np.abs(change.matrix @ corners).max(axis=1)
    room = (np.array(change.source_shape) - 1) / 2
    assert (reach <= room + 1e-6).all()
    assert (room < reach + 1).all()


def test_a_flat_patch_is_rotated_in_its_plane_only():
    matrix = resampling(plan_named("amos-mr"), (20.0, 20.0, 20.0), 1.3).matrix
    np.testing.assert_allclose(matrix[2], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(matrix[:, 2], [0, 0, 1], atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.3**2)


def test_the_probabilities_are_those_of_table_11():
    assert [(probability, change.__name__) for probability, change in RECIPES["paper"].intensity] == [
        (0.1, "add_noise"),
        (0.1, "blur"),
        (0.15, "scale_brightness"),
        (0.15, "scale_contrast"),
        (0.125, "lower_resolution"),
        (0.1, "change_inverted_gamma"),
        (0.3, "change_gamma"),
    ]
    plan = plan_named("coarse")
    drawn = [draw_resampling(plan, "paper", generator(0, n)) for n in range(3000)]
    assert np.mean([d is not None for d in drawn]) == pytest.approx(1 - 0.8**2, abs=0.03)
    scales = [np.linalg.det(d.matrix) ** (1 / 3) for d in drawn if d is not None]
    assert min(scales) == pytest.approx(0.7, abs=0.02)
    assert max(scales) == pytest.approx(1.4, abs=0.02)


def test_levels_differ_in_what_they_may_do():
    draws = [draw_resampling(TINY, "none", generator(0, n)) for n in range(50)]
    assert draws == [None] * 50
    patch = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(change_intensities(patch, NO_LABEL, "MR", "none", n), patch) for n in range(20))
    label = torch.arange(512).reshape(8, 8, 8)
    mirrored = [mirror(patch, label, "light", generator(0, n))[1] for n in range(50)]
    assert all(torch.equal(m, label) for m in mirrored)


def test_every_axis_is_mirrored_half_the_time_and_image_and_label_alike():
    label = torch.arange(8).reshape(2, 2, 2)
    first = []
    for n in range(400):
        image, mirrored = mirror(label[None].float(), label, "paper", generator(0, n))
        assert torch.equal(image[0].long(), mirrored)
        first.append(int(mirrored[0, 0, 0]))
    counts = np.bincount(first, minlength=8)
    assert counts.min() > 400 / 8 * 0.5


def ramp():
    return torch.linspace(-3, 2, 16**3).reshape(1, 16, 16, 16)


def test_gamma_keeps_mean_and_standard_deviation_and_order():
    for change in (augment.change_gamma, augment.change_inverted_gamma):
        changed = change(ramp(), NO_LABEL, generator(0, change.__name__))
        assert type(changed) is torch.Tensor
        assert changed.mean().item() == pytest.approx(ramp().mean().item(), abs=1e-4)
        assert changed.std().item() == pytest.approx(ramp().std().item(), rel=1e-4)
        assert not torch.allclose(changed, ramp(), atol=1e-2)
        assert (changed.flatten().diff() > 0).all()


def test_contrast_keeps_the_range_and_brightness_scales():
    for n in range(8):
        contrast = augment.scale_contrast(ramp(), NO_LABEL, generator(0, n))
        assert contrast.min() >= -3
        assert contrast.max() <= 2
        ratio = augment.scale_brightness(ramp(), NO_LABEL, generator(0, n)) / ramp()
        assert 0.75 <= ratio.min() <= ratio.max() <= 1.25
        assert torch.allclose(ratio, ratio.flatten()[0])


def test_blur_and_low_resolution_smooth_and_noise_does_not():
    noise = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    for n in range(5):
        assert augment.blur(noise, NO_LABEL, generator(0, n)).std() < 0.9 * noise.std()
        assert augment.lower_resolution(noise, NO_LABEL, generator(0, n)).std() < noise.std()
        added = augment.add_noise(noise, NO_LABEL, generator(0, n)) - noise
        assert added.std() <= 0.105
