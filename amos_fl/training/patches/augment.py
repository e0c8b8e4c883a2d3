"""Augmentation: Table 11 of the AMOS paper (nnU-Net's, without elastic deformation), and a cheaper level.

All draws come from a generator that the caller seeds per sample. MONAI's random transforms are not used, because they
have their own generators and draw differently from nnU-Net (one sigma per axis, gamma not split at 1); its
deterministic ones are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from monai.transforms.intensity.array import AdjustContrast, ScaleIntensityFixedMean
from scipy import ndimage
from torch import Tensor

from amos_fl.randomness import generator
from amos_fl.training.patches.spatial import Resampling, resampling
from amos_fl.training.settings import AugmentationLevel
from amos_fl.volumes.plan import Plan

Draw = np.random.Generator
Transform = Callable[[Tensor, Draw], Tensor]


def _split_at_one(low: float, high: float, draw: Draw) -> float:
    """nnU-Net's draw of a factor: half the time below 1, half the time above."""
    return float(draw.uniform(low, 1.0) if draw.random() < 0.5 else draw.uniform(1.0, high))


def add_noise(image: Tensor, draw: Draw) -> Tensor:
    """Add Gaussian noise. Table 11's "variance" 0 to 0.1 is the standard deviation in nnU-Net's code, as here."""
    sd = float(draw.uniform(0.0, 0.1))
    return image + sd * torch.from_numpy(draw.standard_normal(image.shape, dtype=np.float32))


def blur(image: Tensor, draw: Draw) -> Tensor:
    """Blur with a Gaussian of sigma 0.5 to 1 voxels, by SciPy, which on a CPU is faster than MONAI's convolutions."""
    sigma = float(draw.uniform(0.5, 1.0))
    return torch.from_numpy(ndimage.gaussian_filter(image[0].numpy(), sigma, order=0))[None]


def scale_brightness(image: Tensor, draw: Draw) -> Tensor:
    return image * float(draw.uniform(0.75, 1.25))


def scale_contrast(image: Tensor, draw: Draw) -> Tensor:
    """Scale distances from the patch's mean by 0.75 to 1.25, clipped to their original range."""
    factor = float(draw.uniform(0.75, 1.25))
    return _plain(ScaleIntensityFixedMean(fixed_mean=True, preserve_range=True)(image, factor - 1))


def lower_resolution(image: Tensor, draw: Draw) -> Tensor:
    """Downsample by 0.5 to 1 to the nearest voxel and upsample linearly (nnU-Net: cubic)."""
    zoom = float(draw.uniform(0.5, 1.0))
    coarse = F.interpolate(image[None], size=[max(1, round(side * zoom)) for side in image.shape[1:]], mode="nearest")
    return F.interpolate(coarse, size=image.shape[1:], mode="trilinear", align_corners=False)[0]


def change_gamma(image: Tensor, draw: Draw) -> Tensor:
    """Apply a gamma of 0.7 to 1.5, keeping mean and standard deviation."""
    return _plain(AdjustContrast(_split_at_one(0.7, 1.5, draw), retain_stats=True)(image))


def change_inverted_gamma(image: Tensor, draw: Draw) -> Tensor:
    """Apply a gamma of 0.7 to 1.5 to the negative image, keeping mean and standard deviation."""
    return _plain(AdjustContrast(_split_at_one(0.7, 1.5, draw), invert_image=True, retain_stats=True)(image))


def _plain(image: object) -> Tensor:
    return torch.as_tensor(getattr(image, "as_tensor", lambda: image)())


@dataclass(frozen=True)
class Recipe:
    """Probability of each augmentation of a patch, per sample, in the order in which they are applied."""

    rotation_probability: float = 0.0
    rotation_degrees: float = 0.0
    scale_probability: float = 0.0
    scale_range: tuple[float, float] = (1.0, 1.0)
    mirror_probability: float = 0.0
    intensity: tuple[tuple[float, Transform], ...] = ()


RECIPES: dict[AugmentationLevel, Recipe] = {
    "none": Recipe(),
    # For small networks on CPUs: cheap transforms only. Nothing is mirrored, because a network that sees little of the
    # body tells left from right by position.
    "light": Recipe(
        rotation_probability=0.2,
        rotation_degrees=15.0,
        scale_probability=0.2,
        scale_range=(0.85, 1.2),
        intensity=(
            (0.1, add_noise),
            (0.15, scale_brightness),
            (0.15, scale_contrast),
            (0.15, change_gamma),
        ),
    ),
    # Table 11. Blur and low resolution are drawn per sample and again per channel (0.5): with one channel, half.
    "paper": Recipe(
        rotation_probability=0.2,
        rotation_degrees=30.0,
        scale_probability=0.2,
        scale_range=(0.7, 1.4),
        mirror_probability=0.5,
        intensity=(
            (0.1, add_noise),
            (0.2 * 0.5, blur),
            (0.15, scale_brightness),
            (0.15, scale_contrast),
            (0.25 * 0.5, lower_resolution),
            (0.1, change_inverted_gamma),
            (0.3, change_gamma),
        ),
    ),
}


def draw_resampling(plan: Plan, level: AugmentationLevel, draw: Draw) -> Resampling | None:
    """Draw a rotation about each axis and a scaling; None if neither was drawn."""
    recipe = RECIPES[level]
    rotates = draw.random() < recipe.rotation_probability
    scales = draw.random() < recipe.scale_probability
    degrees = draw.uniform(-recipe.rotation_degrees, recipe.rotation_degrees, size=3).tolist()
    scale = _split_at_one(*recipe.scale_range, draw)
    if not rotates and not scales:
        return None
    return resampling(plan, degrees if rotates else (0.0, 0.0, 0.0), scale if scales else 1.0)


def mirror(image: Tensor, label: Tensor, level: AugmentationLevel, draw: Draw) -> tuple[Tensor, Tensor]:
    """Mirror image (1, X, Y, Z) and label map (X, Y, Z) alike along randomly chosen axes."""
    axes = [axis for axis in range(3) if draw.random() < RECIPES[level].mirror_probability]
    if not axes:
        return image, label
    return image.flip([axis + 1 for axis in axes]), label.flip(axes)


def change_intensities(image: Tensor, level: AugmentationLevel, seed: int) -> Tensor:
    """Apply the level's intensity changes to an image (1, X, Y, Z), each drawn from its own generator."""
    for number, (probability, change) in enumerate(RECIPES[level].intensity):
        draw = generator(seed, number)
        if draw.random() < probability:
            image = change(image, draw)
    return image.contiguous()
