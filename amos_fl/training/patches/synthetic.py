"""A patch that no scanner made: a synthetic image painted on the label map of a real one.

SynthSeg's idea (Billot et al., Medical Image Analysis 2023): where every organ has a new brightness in every patch, a
network has to find it by its shape and place, on scanners, too, that nobody trained on. SynthSeg needs a label for
every tissue; here some organs are labelled and the rest of the body is one background, so that is divided by the real
image's own intensities. The label map is at the site anyway: nothing more is sent.

Everything is a function of image, label map and draw. Images are normalised, as the network sees them
(`volumes.normalise`).
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from scipy import ndimage
from torch import Tensor

from amos_fl.training.patches.augment import Draw
from amos_fl.volumes.plan import Plan

AIR_HU = -300.0
"""CT at or below this is air, lung or gas, and stays: its scale is fixed, and air is air to every scanner."""
AIR_OF_PADDING = 0.8
"""MR background at or below this share of the way from the body's mean (0) to the case's padding is without signal."""
FURTHEST_AIR = 2.5
"""Standard deviations between the body's mean and air in MR, at most: hardly any real scan has more."""
MOST_NOISE = 0.2
"""Standard deviation on the normalised scale: 28 HU on AMOS's."""
LEAST_BODY = 0.01
"""Of a patch; with less there is nothing to paint."""
_SAMPLED_VOXELS = 4096
_ROUNDS = 8  # of k-means, after which centres hardly move


def synthetic_image(image: Tensor, label: Tensor, modality: str, padding: float, plan: Plan, draw: Draw) -> Tensor:
    """A synthetic image (1, X, Y, Z) for the channels `label` (X, Y, Z; 0 background) of the normalised `image`.

    Each organ, and each of three to seven clusters of the background, gets a brightness and a spread; the spread is
    what the real image shows within it, scaled anew and as often reversed. The result is blurred (partial volume), half
    the time along one axis more than along the others (thick slices), multiplied by a smooth field if it is MR, and
    noise is added.

    CT is painted on its fixed scale, on which organs have mean 0 and standard deviation 1: brightnesses are drawn
    evenly around them, air stays, and the result keeps the plan's window. In MR they are signals from nothing to 1,
    most of them dark or most of them bright, and air has none; the body then gets about the mean and standard deviation
    that it has in the real patch. `padding` is the normalised value of air outside the case's scan.
    """
    real, channels = image[0].numpy(), label.numpy()
    ct = modality == "CT"
    smooth = ndimage.uniform_filter(
        real, 3, mode="nearest"
    )  # so that noise does not decide to which cluster it belongs
    if ct:
        air = real <= max(padding, (AIR_HU - plan.ct_mean_hu) / plan.ct_sd_hu)
    else:
        air = (smooth <= AIR_OF_PADDING * padding) & (channels == 0)
    if np.count_nonzero(air) > (1 - LEAST_BODY) * air.size:
        return image
    classes = _classes(smooth, channels, air, draw)
    count = int(classes.max()) + 1
    if ct:
        means, spread = np.sqrt(3) * draw.uniform(-1, 1, count), 0.35
    else:
        means, spread = draw.random(count) ** np.exp(draw.uniform(np.log(0.5), np.log(3))), 0.1
    painted = _painted(real, classes, means, spread * draw.uniform(-1, 1, count))
    if ct:
        painted[air] = real[air]
    else:
        painted[air] = 0
        np.maximum(painted, 0, out=painted)
    sigma = np.full(3, draw.uniform(0.3, 0.8))
    sigma[int(draw.integers(3))] += draw.uniform(0, 1.0) if draw.random() < 0.5 else 0
    painted = ndimage.gaussian_filter(painted, sigma.tolist(), mode="nearest", truncate=3)
    noise = np.float32(draw.uniform(0, MOST_NOISE)) * draw.standard_normal(painted.shape, dtype=np.float32)
    if ct:
        painted += noise
        np.clip(painted, padding, (plan.ct_clip_hu[1] - plan.ct_mean_hu) / plan.ct_sd_hu, out=painted)
        return torch.from_numpy(painted)[None]
    painted *= _field(painted.shape, draw)
    (mean, sd), (real_mean, real_sd) = (_mean_and_sd(array[~air]) for array in (painted, real))
    sd = max(sd, mean / FURTHEST_AIR, 1e-6)
    painted += np.float32(sd) * noise
    np.abs(painted, out=painted)  # a magnitude
    gain = real_sd * np.exp(draw.uniform(-0.3, 0.3)) / sd
    painted -= np.float32(mean)
    painted *= np.float32(gain)
    painted += np.float32(real_mean + real_sd * draw.uniform(-0.5, 0.5))
    return torch.from_numpy(painted)[None]


def _mean_and_sd(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def _classes(smooth: np.ndarray, channels: np.ndarray, air: np.ndarray, draw: Draw) -> np.ndarray:
    """What each voxel is painted as: 0 air, then the clusters of the background, then the organs."""
    clusters = int(draw.integers(3, 8))
    background = smooth[(channels == 0) & ~air]
    if background.size:
        edges = _cluster_edges(background[:: 1 + background.size // _SAMPLED_VOXELS], clusters, draw)
        classes = np.searchsorted(edges, smooth) + 1
    else:
        classes = np.ones(smooth.shape, np.intp)
    np.copyto(classes, channels + clusters, where=channels > 0)
    classes[air] = 0
    return classes


def _cluster_edges(values: np.ndarray, clusters: int, draw: Draw) -> np.ndarray:
    """The values (clusters - 1) between clusters of `values` (n,), by k-means from centres that are drawn."""
    values = np.sort(values)
    centres = values[np.sort(draw.integers(len(values), size=clusters))]
    for _ in range(_ROUNDS):
        edges = (centres[1:] + centres[:-1]) / 2
        at = [0, *np.searchsorted(values, edges), len(values)]
        centres = np.array(
            [values[i:j].mean() if j > i else centre for i, j, centre in zip(at[:-1], at[1:], centres, strict=True)]
        )
    return ((centres[1:] + centres[:-1]) / 2).astype(values.dtype)


def _painted(real: np.ndarray, classes: np.ndarray, means: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    """The image with each class's own mean and standard deviation replaced by the drawn ones; float32."""
    flat, values = classes.ravel(), real.ravel()
    voxels = np.maximum(np.bincount(flat, minlength=len(means)), 1)
    was = np.bincount(flat, values, len(means)) / voxels
    spread = np.sqrt(np.maximum(np.bincount(flat, values * values, len(means)) / voxels - was * was, 0))
    slope = spreads / np.maximum(spread, 1e-3)
    painted = slope.astype(np.float32)[classes]
    painted *= real
    painted += (means - slope * was).astype(np.float32)[classes]
    return painted


def _field(shape: tuple[int, ...], draw: Draw) -> np.ndarray:
    """A smooth positive factor (X, Y, Z): a coil's field, drawn at 4 x 4 x 4 points and interpolated in between."""
    strength = draw.uniform(0, 0.4)
    points = torch.from_numpy(strength * draw.standard_normal((1, 1, 4, 4, 4), dtype=np.float32))
    field = F.interpolate(points, size=shape, mode="trilinear", align_corners=True)[0, 0]
    return torch.exp(field).numpy()
