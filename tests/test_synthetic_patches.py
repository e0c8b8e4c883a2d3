"""Patches painted on label maps: how far their contrasts reach, what stays, and what they depend on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import federate, hashes, killed_after, resume
from synthetic_cases import ORGANS, TINY, boxes_case
from torch import Tensor

from amos_fl.cohort.table import Cohort
from amos_fl.networks.registry import build_network
from amos_fl.phantom.tissues import _SIGNAL, Tissue
from amos_fl.randomness import generator
from amos_fl.runs.config import RunConfig
from amos_fl.training.patches.prefetch import draw_batches
from amos_fl.training.patches.recipes import change_intensities
from amos_fl.training.patches.sampler import Batch, draw_batch
from amos_fl.training.patches.synthetic import synthetic_image
from amos_fl.training.settings import TrainingSettings
from amos_fl.training.validation import validation_loss
from amos_fl.volumes.plan import plan_named

PLAIN = TrainingSettings(augmentation="none")
SHOWN = [
    *(Tissue.SPLEEN, Tissue.CORTEX, Tissue.BILE, Tissue.ESOPHAGUS, Tissue.LIVER, Tissue.STOMACH, Tissue.ARTERY),
    *(Tissue.PANCREAS, Tissue.ADRENAL, Tissue.DUODENUM, Tissue.FAT, Tissue.MUSCLE),
]
"""Twelve tissues with different signals: those of ten organs, and two that no cohort labels."""
T1, T2 = (np.array([_SIGNAL[tissue][column] for tissue in SHOWN]) for column in (0, 1))
AIR = -1.6
"""Padding of the MR patch below; CT's is the plan's."""


def tissue_patch(modality: str) -> tuple[Tensor, Tensor, float]:
    """A patch of air and a plate of each of the twelve tissues as in a T1 scan; the last two are not labelled."""
    signals = np.concatenate([[0.0], T1])
    values = (signals - T1.mean()) / T1.std()
    padding = -7.38 if modality == "CT" else AIR
    values[0] = padding
    plates = np.arange(13).repeat(4)[:, None, None].repeat(16, 1).repeat(16, 2)
    noise = 0.03 * np.random.default_rng(0).standard_normal(plates.shape)
    label = np.where(plates < 11, plates, 0)
    return torch.from_numpy((values[plates] + noise).astype(np.float32))[None], torch.from_numpy(label), padding


def plate_means(image: Tensor) -> np.ndarray:
    """Of the twelve tissues, in the inner voxels of their plates."""
    return np.array([image[0, 4 * n + 1 : 4 * n + 3].mean().item() for n in range(1, 13)])


def painted(modality: str, draws: int) -> list[Tensor]:
    image, label, padding = tissue_patch(modality)
    plan = plan_named("coarse")
    return [synthetic_image(image, label, modality, padding, plan, generator(0, "reach", n)) for n in range(draws)]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_other_sequences_orders_of_tissues_are_reached_that_no_change_of_the_paper_reaches(modality: str) -> None:
    assert np.corrcoef(T1, T2)[0, 1] < -0.4
    drawn = [plate_means(image) for image in painted(modality, 400)]
    ours = np.array([np.corrcoef(means, T2)[0, 1] for means in drawn])
    image, label, _ = tissue_patch(modality)
    changed = [change_intensities(image, label, modality, "paper", n) for n in range(400)]
    papers = [np.corrcoef(plate_means(image), T2)[0, 1] for image in changed]
    assert max(papers) < 0
    assert ours.max() > 0.6
    assert np.mean(ours > 0.5) > 0.02
    order = np.sign(T2[:, None] - T2)
    agreeing = [np.mean((np.sign(means[:, None] - means) == order)[order != 0]) for means in drawn]
    assert np.mean(agreeing) == pytest.approx(0.5, abs=0.05)  # as often as by chance: nothing of T1's order is left
    assert max(agreeing) > 0.7


def test_what_nobody_labelled_is_not_painted_as_one_flat_background() -> None:
    fat_and_muscle = np.array([plate_means(image)[-2:] for image in painted("MR", 60)])
    apart = np.abs(fat_and_muscle[:, 0] - fat_and_muscle[:, 1])
    assert np.mean(apart > 0.6) > 0.5
    # Either is the brighter one in many draws.
    assert 0.2 < np.mean(fat_and_muscle[:, 0] > fat_and_muscle[:, 1]) < 0.8


def test_air_stays_air() -> None:
    for image in painted("CT", 12):
        assert image[0, :2].max() < -6.5
        assert image[0, 5:].min() > -3.5
        assert image.min() >= np.float32(-7.38)  # the scale's window is kept
        assert image.max() <= np.float32((362 - 50) / 141)
    for image in painted("MR", 12):
        assert image[0, :2].mean().item() < plate_means(image).min() + 0.1


def test_an_mr_body_keeps_about_the_mean_and_standard_deviation_that_it_had() -> None:
    image, _, _ = tissue_patch("MR")
    real = image[0, 4:]
    drawn = painted("MR", 60)
    means, deviations = ([getattr(i[0, 4:], what)().item() for i in drawn] for what in ("mean", "std"))
    assert np.abs(np.array(means) - real.mean().item()).max() < 0.6 * real.std().item()
    assert np.min(deviations) > 0.4 * real.std().item()
    assert np.max(deviations) < 1.5 * real.std().item()
    assert np.ptp(means) > 0.5


def test_a_patch_of_air_alone_stays_as_it_is() -> None:
    air = torch.full((1, 8, 8, 8), AIR)
    label = torch.zeros((8, 8, 8), dtype=torch.int64)
    assert torch.equal(synthetic_image(air, label, "MR", AIR, TINY, generator(0)), air)


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.image, b.image) and torch.equal(a.label, b.label) and torch.equal(a.annotated, b.annotated)


def test_a_share_of_the_patches_is_painted_and_the_others_are_as_without(tmp_path: Path) -> None:
    case = boxes_case(tmp_path)

    def batches(share: float) -> list[Batch]:
        settings = TrainingSettings(batch_size=4, augmentation="light", synthetic_share=share)
        return [draw_batch([case], TINY, settings, ORGANS, seed=0, site="A", step=step) for step in range(40)]

    without, some, every = batches(0), batches(0.3), batches(1)
    assert all(torch.equal(a.label, b.label) for a, b in zip(without, some, strict=True))
    kept, kept_of_all = (
        [torch.equal(x, y) for a, b in zip(without, others, strict=True) for x, y in zip(a.image, b.image, strict=True)]
        for others in (some, every)
    )
    assert 1 - np.mean(kept) == pytest.approx(0.3, abs=0.07)
    assert not any(kept_of_all)


@pytest.mark.parametrize(("where", "painted"), [("all", True), ("MR", False), ("CT", True)])
def test_scans_of_one_modality_alone_are_painted_if_wanted(tmp_path: Path, where: str, painted: bool) -> None:
    case = boxes_case(tmp_path)
    assert case.modality == "CT"

    def batch(**settings: Any) -> Batch:
        return draw_batch([case], TINY, TrainingSettings(**settings), ORGANS, seed=0, site="A", step=0)

    plain, some = batch(), batch(synthetic_share=1.0, synthetic_in=where)
    assert same(plain, some) != painted
    assert torch.equal(plain.label, some.label)


def test_painted_patches_do_not_depend_on_workers_threads_or_other_calls(tmp_path: Path) -> None:
    case = boxes_case(tmp_path)

    def batches(workers: int) -> list[Batch]:
        settings = TrainingSettings(augmentation="none", synthetic_share=0.5, workers=workers)
        return list(draw_batches([case], TINY, settings, ORGANS, seed=3, site="A", steps=range(4)))

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = batches(0)
        torch.set_num_threads(2)
        np.random.seed(5)
        assert all(same(a, b) for a, b in zip(alone, batches(0), strict=True))
        assert all(same(a, b) for a, b in zip(alone, batches(2), strict=True))
    finally:
        torch.set_num_threads(threads)


def test_the_loss_on_validation_cases_is_of_the_real_scans(tmp_path: Path) -> None:
    case, network = boxes_case(tmp_path), build_network("small", TINY, len(ORGANS), seed=0)
    losses = [
        validation_loss(network, [case], TINY, settings, organs=ORGANS, seed=0, site="A")
        for settings in (PLAIN, PLAIN.model_copy(update={"synthetic_share": 1.0}))
    ]
    assert losses[0] == losses[1]


def test_a_run_that_paints_nothing_is_named_as_before_there_was_the_setting() -> None:
    assert not {"synthetic_share", "synthetic_in"} & set(RunConfig().science()["training"])
    painting = RunConfig(training=TrainingSettings(synthetic_share=0.25))
    assert painting.science()["training"]["synthetic_share"] == 0.25
    assert "synthetic_in" not in painting.science()["training"]
    of_mr = RunConfig(training=TrainingSettings(synthetic_share=0.25, synthetic_in="MR"))
    assert of_mr.science()["training"]["synthetic_in"] == "MR"


def test_a_federation_on_painted_patches_resumes_to_the_same_weights(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings = {"rounds": 2, "local_steps": 1, "training": {"synthetic_share": 0.5}}
    whole = federate(tmp_path / "whole", tiny_cohort, store, **settings)
    killed_after(tmp_path / "killed", 1, tiny_cohort, store, **settings)
    assert hashes(resume(tmp_path / "killed", store)) == hashes(whole)
