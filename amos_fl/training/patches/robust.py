"""Intensity changes that go beyond one scanner: what another sequence, coil or field of view does to a patch.

Brightness, contrast and gamma keep the order of intensities, and another MR sequence swaps it: fluid is dark in T1 and
bright in T2. The changes here can swap it. Each is a function of one sample, as in `amos_fl.training.patches.augment`,
in operations of PyTorch on whatever device the sample is on.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from amos_fl.training.patches.augment import Draw, at_lower_resolution, split_at_one, with_contrast

GIN_LAYERS, GIN_CHANNELS = 4, 2
FIELD_NODES = 4
"""Nodes per axis of the coarse grid from which a smooth map is interpolated."""


def random_convolutions(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Mix the image with what four layers of random convolutions make of it, keeping mean and standard deviation.

    GIN (Ouyang et al., IEEE TMI 2022, arXiv 2111.12525, section III-B), in three dimensions: two channels, kernels of
    1 or 3 voxels, leaky rectifiers between. The paper restores the Frobenius norm; here mean and standard deviation
    are restored, because a patch of mostly air has a norm that is the air's.
    """
    features = image[None]
    for layer in range(GIN_LAYERS):
        inward, outward = features.shape[1], 1 if layer == GIN_LAYERS - 1 else GIN_CHANNELS
        size = 3 if draw.random() < 0.5 else 1
        kernel = _normal(draw, (outward, inward, size, size, size), image)
        shift = _normal(draw, (1, outward, 1, 1, 1), image)
        # The border repeated: zeros would draw a frame around the patch.
        padded = F.pad(features, [size // 2] * 6, mode="replicate")
        features = F.conv3d(padded, kernel) + shift
        if layer < GIN_LAYERS - 1:
            features = F.leaky_relu(features)
    share = float(draw.uniform())
    return _with_statistics_of(image, share * features[0] + (1 - share) * image)


def negative(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """The negative image about the patch's mean: the order of all intensities is turned round."""
    return 2 * image.mean() - image


def smooth_field(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Multiply the signal above the patch's darkest voxel by a smooth positive field: a coil's, or B1's.

    The field's logarithm has a standard deviation of 0.1 to 0.4 at the nodes of a coarse grid.
    """
    sd = float(draw.uniform(0.1, 0.4))
    darkest = image.min()
    return darkest + (image - darkest) * (sd * _smooth_map(image, draw)).exp()


def widen_contrast(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Scale distances from the patch's mean by 0.5 to 2, clipped to their original range."""
    return with_contrast(image, split_at_one(0.5, 2.0, draw))


def lower_resolution_further(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Downsample by 0.25 to 1 to the nearest voxel and upsample linearly."""
    return at_lower_resolution(image, float(draw.uniform(0.25, 1.0)))


def change_gamma_locally(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Apply a gamma of 0.3 to 3 in some places and none in others, between them ever less (nnU-Net's DA5 has the kind).

    The patch's smallest and largest value stay what they are.
    """
    gamma = split_at_one(0.3, 3.0, draw)
    low, high = image.min(), image.max()
    span = (high - low).clamp_min(1e-6)
    share = torch.sigmoid(3 * _smooth_map(image, draw))
    scaled = ((image - low) / span).clamp(0, 1)
    return low + span * torch.lerp(scaled, scaled**gamma, share)


def contrast_by_class(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Give every class of the label map, background included, a contrast and a brightness of its own.

    The idea is SLAug's (Su et al., AAAI 2023, arXiv 2211.11514). Within a class distances from its mean are scaled by
    0.5 to 2, and the mean is moved by a normal draw with the patch's standard deviation. Borders are blurred by one
    voxel, so that no edge betrays where an organ ends.
    """
    sd = image.std(correction=0)
    gain, offset = torch.ones_like(image[0]), torch.zeros_like(image[0])
    for channel in label.unique().tolist():
        inside = label == channel
        mean = image[0][inside].mean()
        factor = 2 ** float(draw.uniform(-1.0, 1.0))
        gain[inside] = factor
        offset[inside] = (1 - factor) * mean + float(draw.standard_normal()) * sd
    maps = F.pad(torch.stack([gain, offset])[None], [1] * 6, mode="replicate")
    gain, offset = F.avg_pool3d(maps, 3, stride=1)[0]
    return gain * image + offset


def clip_brightest(image: Tensor, label: Tensor, draw: Draw) -> Tensor:
    """Cut off the brightest 0.5 to 10 % of the patch's voxels, as a radiologist's window does."""
    share = float(draw.uniform(0.9, 0.995))
    return image.clamp(max=image.flatten().kthvalue(max(1, round(share * image.numel()))).values)


def _smooth_map(image: Tensor, draw: Draw) -> Tensor:
    """Normal draws at a coarse grid's nodes, interpolated linearly to the patch (1, X, Y, Z)."""
    nodes = _normal(draw, (1, 1, *[FIELD_NODES] * 3), image)
    return F.interpolate(nodes, size=image.shape[1:], mode="trilinear", align_corners=True)[0]


def _normal(draw: Draw, shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.from_numpy(draw.standard_normal(shape, dtype="float32")).to(like.device)


def _with_statistics_of(image: Tensor, changed: Tensor) -> Tensor:
    """`changed` with the mean and standard deviation of `image`; `image` itself if `changed` is flat."""
    sd = changed.std(correction=0)
    if not sd > 1e-6:
        return image
    return (changed - changed.mean()) * (image.std(correction=0) / sd) + image.mean()
