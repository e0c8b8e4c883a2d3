"""Turn class probabilities on the network's grid into a label map on the scan's own grid."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from amos_fl.prepared.store import Geometry
from amos_fl.volumes.nifti import from_canonical
from amos_fl.volumes.plan import Triple


def restore(
    planes: Iterable[Float[Tensor, "class x y"]],
    shape: Triple,
    geometry: Geometry,
    organs: Sequence[int],
    probabilities: UInt8[np.ndarray, "x y z class"] | None = None,
) -> UInt8[np.ndarray, "x y z"]:
    """The label map on the scan's own grid and in its file's orientation, from planes along z.

    Probabilities are interpolated linearly along z and bilinearly in the plane, with the voxel-extent
    convention of `amos_fl.volumes.resample`, and the argmax is taken on the scan's grid; class i >= 1 is
    `organs[i - 1]`. Everything outside the crop is background. Only two planes are held at a time.

    Args:
        planes: as many as `shape[2]`, each (1 + organs, shape[0], shape[1]).
        shape: of the prepared case, (x, y, z).
        probabilities: if given, filled with the probabilities of which the argmax is taken, in steps of 1/255, on the
            same grid as the result but in canonical voxel order. Everything outside the crop is background.
    """
    values = np.array([0, *organs], dtype=np.uint8)
    # Slices are contiguous: they are written one by one, and NIfTI stores them so.
    whole = np.zeros(geometry.shape, dtype=np.uint8, order="F")
    (x_low, x_high), (y_low, y_high), (z_low, _) = geometry.crop
    size = geometry.crop_shape
    if probabilities is not None:
        probabilities[..., 0] = 255
    source = iter(planes)
    taken = -1
    lower = upper = torch.empty(0)
    for plane in range(size[2]):
        position = min(max((plane + 0.5) * shape[2] / size[2] - 0.5, 0.0), shape[2] - 1.0)
        first = int(position)
        while taken < min(first + 1, shape[2] - 1):
            lower, upper, taken = upper, next(source), taken + 1
        share = position - first
        # At the last plane there is none above, so `upper` is the plane itself.
        mixed = upper if first == taken else lower if share == 0 else torch.lerp(lower, upper, share)
        if mixed.shape[1:] != size[:2]:
            mixed = interpolate(mixed[None], size=size[:2], mode="bilinear", align_corners=False)[0]
        classes = mixed.max(dim=0).indices.cpu().numpy()  # three times as fast as argmax on a CPU
        whole[x_low:x_high, y_low:y_high, z_low + plane] = values[classes]
        if probabilities is not None:
            steps = (mixed * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            probabilities[x_low:x_high, y_low:y_high, z_low + plane] = steps
    return np.asfortranarray(from_canonical(whole, np.array(geometry.orientation)))
