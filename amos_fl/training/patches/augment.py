"""The intensity changes of Table 11 of the AMOS paper (nnU-Net's), each a function of one sample.

A function takes the image (1, X, Y, Z), the channel numbers (X, Y, Z) and a generator that the caller seeds per sample,
and returns a new image. MONAI's random transforms are not used, because they have their own generators and draw
differently from nnU-Net (one sigma per axis, gamma not split at 1); its deterministic ones are.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from monai.networks.layers.simplelayers import GaussianFilter
from monai.transforms.intensity.array import AdjustContrast, ScaleIntensityFixedMean
from scipy import ndimage
from torch import Tensor

Draw = np.random.Generator


def split_at_one(low: float, high: float, draw: Draw) -> float:
    """nnU-Net's draw of a factor: half the time below 1, half the time above."""
    return float(draw.uniform(low, 1.0) if draw.random() < 0.5 else draw.uniform(1.0, high))


def add_noise(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Add Gaussian noise. Table 11's "variance" 0 to 0.1 is the standard deviation in nnU-Net's code, as here."""
    sd = float(draw.uniform(0.0, 0.1))
    return image + sd * torch.from_numpy(draw.standard_normal(image.shape, dtype=np.float32)).to(image.device)


def blur(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Blur with a Gaussian of sigma 0.5 to 1 voxels, by SciPy, which on a CPU is faster than MONAI's convolutions."""
    sigma = float(draw.uniform(0.5, 1.0))
    if image.device.type != "cpu":
        return GaussianFilter(3, sigma).to(image.device)(image[None])[0]
    return torch.from_numpy(ndimage.gaussian_filter(image[0].numpy(), sigma, order=0))[None]


def scale_brightness(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    return image * float(draw.uniform(0.75, 1.25))


def scale_contrast(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Scale distances from the patch's mean by 0.75 to 1.25, clipped to their original range."""
    return with_contrast(image, float(draw.uniform(0.75, 1.25)))


def with_contrast(image: Tensor, factor: float) -> Tensor:
    """The image with distances from its mean scaled, clipped to their original range."""
    return _plain(ScaleIntensityFixedMean(fixed_mean=True, preserve_range=True)(image, factor - 1))


def lower_resolution(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Downsample by 0.5 to 1 to the nearest voxel and upsample linearly (nnU-Net: cubic)."""
    return at_lower_resolution(image, float(draw.uniform(0.5, 1.0)))


def at_lower_resolution(image: Tensor, zoom: float) -> Tensor:
    """The image as a grid with `zoom` times as many voxels per axis holds it."""
    coarse = F.interpolate(image[None], size=[max(1, round(side * zoom)) for side in image.shape[1:]], mode="nearest")
    return F.interpolate(coarse, size=image.shape[1:], mode="trilinear", align_corners=False)[0]


def change_gamma(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Apply a gamma of 0.7 to 1.5, keeping mean and standard deviation."""
    return _plain(AdjustContrast(split_at_one(0.7, 1.5, draw), retain_stats=True)(image))


def change_inverted_gamma(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Apply a gamma of 0.7 to 1.5 to the negative image, keeping mean and standard deviation."""
    return _plain(AdjustContrast(split_at_one(0.7, 1.5, draw), invert_image=True, retain_stats=True)(image))


def _plain(image: object) -> Tensor:
    return torch.as_tensor(getattr(image, "as_tensor", lambda: image)())
