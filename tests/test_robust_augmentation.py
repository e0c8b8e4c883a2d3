"""Augmentation for scanners that nobody trained on: what each change does, and how far all together reach."""

import numpy as np
import pytest
import torch

from amos_fl.phantom.tissues import SEQUENCES, Tissue, signal_of_tissues
from amos_fl.randomness import generator
from amos_fl.training.patches import augment, robust
from amos_fl.training.patches.recipes import RECIPES, change_intensities

CHANGES = [change for _, change in RECIPES["robust"].mr_intensity or ()]
TISSUES = [
    Tissue.FAT, Tissue.MUSCLE, Tissue.MARROW, Tissue.STOMACH, Tissue.BILE, Tissue.CHYME,
    Tissue.SPLEEN, Tissue.CORTEX, Tissue.LIVER, Tissue.VEIN, Tissue.PANCREAS, Tissue.DUODENAL,
]  # fmt: skip
ORGANS_AMONG_THEM = range(6, 12)
DRAWS = 400


def blocks():
    """A patch (1, 24, 24, 24) of twelve blocks in air, its channels, and the tissue's number in each voxel."""
    tissue = torch.full((24, 24, 24), -1)
    for number in range(len(TISSUES)):
        x, y, z = number % 2, number // 2 % 2, number // 4
        tissue[2 + 11 * x : 12 + 11 * x, 2 + 11 * y : 12 + 11 * y, 8 * z : 8 * z + 7] = number
    label = torch.where(tissue >= ORGANS_AMONG_THEM.start, tissue - ORGANS_AMONG_THEM.start + 1, 0)
    return tissue, label


def scan_of(signal, tissue):
    """A normalised scan of those blocks with these signals."""
    image = torch.zeros(tissue.shape)
    for number, value in enumerate(signal):
        image[tissue == number] = float(value)
    image += 0.04 * torch.from_numpy(generator(0, "noise").standard_normal(image.shape, dtype=np.float32))
    body = image[tissue >= 0]
    return ((image - body.mean()) / body.std())[None]


def means_of(image, tissue):
    return np.array([image[0][tissue == number].mean().item() for number in range(len(TISSUES))])


def signals(sequence):
    return signal_of_tissues(sequence, generator(0, sequence))[TISSUES]


@pytest.fixture(scope="module")
def patch():
    tissue, label = blocks()
    return scan_of(signals("t1-fat-sat"), tissue), label, tissue


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_a_function_of_the_sample_and_the_draw_and_leaves_both_alone(patch, change):
    image, label, _ = patch
    before = image.clone(), label.clone()
    results = [change(image, label, generator(seed, "change")) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])
    assert torch.equal(results[0], results[1])
    for result in results:
        assert type(result) is torch.Tensor
        assert (result.shape, result.dtype) == (image.shape, image.dtype)
        assert torch.isfinite(result).all()
    assert not all(torch.equal(result, image) for result in results)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_patch_of_air_alone_stays_finite(change):
    air = torch.full((1, 8, 8, 8), -1.5)
    for seed in range(10):
        assert torch.isfinite(change(air, torch.zeros(8, 8, 8, dtype=torch.int64), generator(seed))).all()


def test_convolutions_and_the_negative_keep_mean_and_standard_deviation(patch):
    image, label, _ = patch
    for change in (robust.random_convolutions, robust.negative):
        for seed in range(20):
            changed = change(image, label, generator(seed))
            assert changed.mean().item() == pytest.approx(image.mean().item(), abs=1e-4)
            assert changed.std().item() == pytest.approx(image.std().item(), rel=1e-4)


def test_random_convolutions_are_those_of_a_plain_loop_over_voxels():
    """With NumPy alone: four layers, the border repeated, mixed with the image, mean and deviation restored."""
    image = generator(0, "image").standard_normal((5, 6, 7)).astype(np.float32)
    for seed in range(6):
        draw = generator(seed)
        features = image[None].astype(np.float64)
        for layer in range(4):
            inward, outward = len(features), 1 if layer == 3 else 2
            size = 3 if draw.random() < 0.5 else 1
            kernel = draw.standard_normal((outward, inward, size, size, size), dtype=np.float32)
            shift = draw.standard_normal((1, outward, 1, 1, 1), dtype=np.float32).reshape(-1)
            padded = np.pad(features, [(0, 0), *[(size // 2, size // 2)] * 3], mode="edge")
            result = np.zeros((outward, *image.shape))
            for x, y, z in np.ndindex(image.shape):
                window = padded[:, x : x + size, y : y + size, z : z + size]
                result[:, x, y, z] = (kernel * window).sum(axis=(1, 2, 3, 4)) + shift
            features = result if layer == 3 else np.where(result > 0, result, 0.01 * result)
        share = draw.uniform()
        mixed = share * features[0] + (1 - share) * image
        expected = (mixed - mixed.mean()) / mixed.std() * image.std() + image.mean()
        changed = robust.random_convolutions(torch.from_numpy(image)[None], torch.zeros(5, 6, 7), generator(seed))
        np.testing.assert_allclose(changed[0].numpy(), expected, atol=2e-4)


def test_the_negative_turns_the_order_round_and_the_field_is_smooth_and_positive(patch):
    image, label, tissue = patch
    order = np.argsort(means_of(image, tissue))
    assert np.array_equal(np.argsort(means_of(robust.negative(image, label, generator(0)), tissue)), order[::-1])
    for seed in range(10):
        changed = robust.smooth_field(image, label, generator(seed))
        field = ((changed - image.min()) / (image - image.min()).clamp_min(1e-3))[0][image[0] > image.min() + 0.5]
        assert field.min() > 0
        assert field.max() / field.min() > 1.05
    flat = torch.ones(1, 24, 24, 24)
    flat[0, 0, 0, 0] = 0.0
    field = robust.smooth_field(flat, label, generator(0))[0, 1:]
    assert field.diff(dim=0).abs().max() < 0.2 * (field.max() - field.min())


def test_only_the_brightest_are_clipped(patch):
    image, label, _ = patch
    for seed in range(10):
        changed = robust.clip_brightest(image, label, generator(seed))
        different = changed != image
        assert 0.004 < different.float().mean() < 0.11
        assert image[different].min() >= image[~different].max()


def test_local_gamma_keeps_the_range_and_changes_some_places_more_than_others(patch):
    image, label, _ = patch
    for seed in range(10):
        changed = robust.change_gamma_locally(image, label, generator(seed))
        assert changed.min().item() == pytest.approx(image.min().item(), abs=1e-4)
        assert changed.max().item() == pytest.approx(image.max().item(), abs=1e-4)
    ramp = torch.linspace(0, 1, 24).expand(1, 24, 24, 24)
    change = robust.change_gamma_locally(ramp, label, generator(0)) - ramp
    assert change[0, :, :, 12].std() > 0.005


def test_classes_move_apart_and_their_borders_blur(patch):
    image, label, tissue = patch
    moved = np.array(
        [means_of(robust.contrast_by_class(image, label, generator(seed)) - image, tissue) for seed in range(20)]
    )
    organs = moved[:, ORGANS_AMONG_THEM.start :]
    assert organs.std(axis=0).min() > 0.3
    assert abs(np.corrcoef(organs[:, 0], organs[:, 1])[0, 1]) < 0.6
    flat = torch.zeros(1, 24, 24, 24)
    flat[0, :12] = 1.0
    two = torch.zeros(24, 24, 24, dtype=torch.int64)
    two[:, 12:] = 1
    changed = robust.contrast_by_class(flat, two, generator(0))[0, 4, :, 12]
    steps = changed.diff().abs()
    assert (steps[10:13] > 0).all()
    assert steps[:10].max() == 0


def test_low_resolution_and_contrast_go_further_than_the_papers():
    noise = torch.randn(1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(32, 32, 32, dtype=torch.int64)

    def least(change, measure):
        return min(measure(change(noise, label, generator(seed))).item() for seed in range(40))

    def roughness(image):
        return image.diff(dim=1).std() / image.std()

    assert least(robust.lower_resolution_further, roughness) < 0.7 * least(augment.lower_resolution, roughness)
    assert least(robust.widen_contrast, torch.std) < 0.8 * least(augment.scale_contrast, torch.std)


def test_mr_and_ct_have_probabilities_of_their_own(patch):
    image, label, _ = patch

    def share(modality):
        changed = [change_intensities(image, label, modality, "robust", seed) for seed in range(200)]
        return np.mean([not torch.equal(one, image) for one in changed])

    assert share("MR") > 0.7 > share("CT") > 0.3
    assert {change.__module__ for _, change in RECIPES["robust"].intensity} == {augment.__name__}
    for level in ("light", "paper"):
        same = [torch.equal(*(change_intensities(image, label, m, level, n) for m in ("MR", "CT"))) for n in range(20)]
        assert all(same)


def reach(level, patch, other):
    """Of 400 draws: the share that correlates with another sequence by 0.5, and of the pairs of tissues in whose order
    both sequences differ, the share put into the other's order."""
    image, label, tissue = patch
    own = means_of(image, tissue)
    pairs = [(a, b) for a in range(12) for b in range(a) if (own[a] - own[b]) * (other[a] - other[b]) < 0]
    alike, swapped = [], []
    for seed in range(DRAWS):
        means = means_of(change_intensities(image, label, "MR", level, seed), tissue)
        alike.append(np.corrcoef(means, other)[0, 1] > 0.5)
        swapped.append(np.mean([(means[a] - means[b]) * (other[a] - other[b]) > 0 for a, b in pairs]))
    return np.mean(alike), np.mean(swapped)


def test_robust_reaches_the_order_of_tissues_of_another_sequence_and_the_others_do_not(patch):
    _, _, tissue = patch
    t1, t2 = (signals(sequence) for sequence in SEQUENCES[:2])
    assert np.corrcoef(t1, t2)[0, 1] < 0
    for first, other in ((t1, t2), (t2, t1)):
        start = scan_of(first, tissue), patch[1], tissue
        for level in ("light", "paper"):
            alike, swapped = reach(level, start, other)
            assert alike == 0
            assert swapped < 0.05
        alike, swapped = reach("robust", start, other)
        assert alike > 0.05
        assert swapped > 0.1
