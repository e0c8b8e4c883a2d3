"""The levels of augmentation: what each draws for a sample, with which probability.

All draws come from generators that are seeded per sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from amos_fl.randomness import generator
from amos_fl.training.patches import augment, robust
from amos_fl.training.patches.augment import Draw, split_at_one
from amos_fl.training.patches.spatial import Resampling, resampling
from amos_fl.training.settings import AugmentationLevel
from amos_fl.volumes.plan import Plan

Function = Callable[[Tensor, Tensor, Draw], Tensor]
"""Of the image (1, X, Y, Z), the channel numbers (X, Y, Z) and a generator."""


class IntensityChange(NamedTuple):
    """What the intensity changes of a sample depend on, besides the sample and the level."""

    modality: str
    seed: int


@dataclass(frozen=True)
class Recipe:
    """Probability of each augmentation of a patch, per sample, in the order in which they are applied.

    `mr_intensity` takes the place of `intensity` in patches of MR scans, whose values have no unit; a value of CT is a
    density.
    """

    rotation_probability: float = 0.0
    rotation_degrees: float = 0.0
    scale_probability: float = 0.0
    scale_range: tuple[float, float] = (1.0, 1.0)
    mirror_probability: float = 0.0
    intensity: tuple[tuple[float, Function], ...] = ()
    mr_intensity: tuple[tuple[float, Function], ...] | None = None


# For small networks on CPUs: cheap transforms only. Nothing is mirrored, because a network that sees little of the
# body tells left from right by position.
_LIGHT = Recipe(
    rotation_probability=0.2,
    rotation_degrees=15.0,
    scale_probability=0.2,
    scale_range=(0.85, 1.2),
    intensity=(
        (0.1, augment.add_noise),
        (0.15, augment.scale_brightness),
        (0.15, augment.scale_contrast),
        (0.15, augment.change_gamma),
    ),
)

RECIPES: dict[AugmentationLevel, Recipe] = {
    "none": Recipe(),
    "light": _LIGHT,
    # Table 11. Blur and low resolution are drawn per sample and again per channel (0.5): with one channel, half.
    "paper": Recipe(
        rotation_probability=0.2,
        rotation_degrees=30.0,
        scale_probability=0.2,
        scale_range=(0.7, 1.4),
        mirror_probability=0.5,
        intensity=(
            (0.1, augment.add_noise),
            (0.2 * 0.5, augment.blur),
            (0.15, augment.scale_brightness),
            (0.15, augment.scale_contrast),
            (0.25 * 0.5, augment.lower_resolution),
            (0.1, augment.change_inverted_gamma),
            (0.3, augment.change_gamma),
        ),
    ),
    # For scanners that nobody trained on: `light`, and in MR what reaches another sequence. Nothing is mirrored here
    # either: where intensities tell little, position must tell more. A CT value is a density, alike on every scanner.
    "robust": replace(
        _LIGHT,
        mr_intensity=(
            (0.15, robust.contrast_by_class),
            (0.3, robust.random_convolutions),
            (0.1, robust.negative),
            (0.15, robust.smooth_field),
            (0.1, robust.clip_brightest),
            (0.15, robust.widen_contrast),
            (0.1, robust.change_gamma_locally),
            (0.15, augment.scale_brightness),
            (0.15, augment.change_gamma),
            (0.1, robust.lower_resolution_further),
            (0.1, augment.add_noise),
        ),
    ),
}


def draw_resampling(plan: Plan, level: AugmentationLevel, draw: Draw) -> Resampling | None:
    """Draw a rotation about each axis and a scaling; None if neither was drawn."""
    recipe = RECIPES[level]
    rotates = draw.random() < recipe.rotation_probability
    scales = draw.random() < recipe.scale_probability
    degrees = draw.uniform(-recipe.rotation_degrees, recipe.rotation_degrees, size=3).tolist()
    scale = split_at_one(*recipe.scale_range, draw)
    if not rotates and not scales:
        return None
    return resampling(plan, degrees if rotates else (0.0, 0.0, 0.0), scale if scales else 1.0)


def mirror(image: Tensor, label: Tensor, level: AugmentationLevel, draw: Draw) -> tuple[Tensor, Tensor]:
    """Mirror image (1, X, Y, Z) and label map (X, Y, Z) alike along randomly chosen axes."""
    axes = [axis for axis in range(3) if draw.random() < RECIPES[level].mirror_probability]
    if not axes:
        return image, label
    return image.flip([axis + 1 for axis in axes]), label.flip(axes)


def change_intensities(image: Tensor, label: Tensor, modality: str, level: AugmentationLevel, seed: int) -> Tensor:
    """Apply the level's intensity changes to an image (1, X, Y, Z), each drawn from its own generator.

    `label` holds its channel numbers (X, Y, Z); `modality` is CT or MR.
    """
    recipe = RECIPES[level]
    changes = recipe.intensity if modality == "CT" or recipe.mr_intensity is None else recipe.mr_intensity
    for number, (probability, change) in enumerate(changes):
        draw = generator(seed, number)
        if draw.random() < probability:
            image = change(image, label, draw)
    return image.contiguous()


def change_batch(image: Tensor, label: Tensor, changes: Sequence[IntensityChange], level: AugmentationLevel) -> Tensor:
    """Apply to each image of a batch (sample, 1, X, Y, Z) its change, where the batch is: on a GPU."""
    samples = zip(image, label, changes, strict=True)
    return torch.stack([change_intensities(x, y, change.modality, level, change.seed) for x, y, change in samples])
